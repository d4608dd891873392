"""Every plot is one PNG with something on it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from models.priors import AggregatedPosterior, Prior, sample_latents
from models.vae import VAE
from tests.training.conftest import tiny_dataset, tiny_trainer
from training.datasets import Dataset
from training.plots import (
    decode_to_images,
    plot_curves,
    plot_latent_means,
    plot_reconstructions,
    plot_samples,
    plot_traversals,
)

BLENDED = np.rint(0.6 * np.array([[0x1F, 0x77, 0xB4], [0x17, 0xBE, 0xCF]]) + 0.4 * 255)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plot.png"


def tiny_vae(dataset: Dataset | None = None, **tables: Any) -> VAE:
    model = tiny_trainer(dataset, **tables).model
    assert isinstance(model, VAE)
    return model


def latents(d: int = 4) -> AggregatedPosterior:
    return AggregatedPosterior(
        mean=np.zeros(d, np.float32),
        std=np.linspace(0.1, 1, d, dtype=np.float32),
        active=np.ones(d, bool),
        weights=np.ones(1, np.float32),
        means=np.full((1, d), 5, np.float32),
        cholesky=np.eye(d, dtype=np.float32)[None],
    )


def colours(path: Path) -> set[tuple[int, ...]]:
    """Return the colours of a PNG file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))


def greys(path: Path) -> set[int]:
    """Return the grey levels of a PNG file."""
    return {red for red, green, blue in colours(path) if red == green == blue}


def levels_missing(images: np.ndarray, path: Path) -> set[int]:
    """Return the grey levels of images that a plot lacks; its colour map may round them by one."""
    shown = greys(path)
    return {level for level in np.unique(images).tolist() if not shown & {level - 1, level, level + 1}}


def near(colour: str, found: set[tuple[int, ...]], within: int = 2) -> bool:
    """Return whether a colour, as #rrggbb, or one that differs little in each channel was found."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return any(max(abs(a - b) for a, b in zip(wanted, other, strict=True)) <= within for other in found)


def test_decoded_images_are_the_rounded_means_of_the_pixels() -> None:
    model = tiny_vae()
    z = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    images = decode_to_images(model, z)
    with torch.no_grad():
        x_hat = model.x_hat(torch.from_numpy(z)).permute(0, 2, 3, 1).numpy()
    assert (images.shape, images.dtype) == ((3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(images, np.rint((x_hat + 1) * 127.5))


def test_curves_show_both_splits_and_the_kl(path: Path) -> None:
    figures = ("train_distortion", "train_kl", "test_distortion", "test_kl")
    plot_curves(
        [{"epoch": float(epoch), **dict.fromkeys(figures, 1 / epoch)} for epoch in (1, 2, 3)],
        path,
    )
    found = colours(path)
    assert all(near(colour, found) for colour in ("#9aa5b1", "#2563a8", "#d9722e"))


@pytest.mark.parametrize("last", [2.0, math.nan])
def test_curves_of_a_run_that_had_diverged_are_drawn(path: Path, last: float) -> None:
    figures = ("train_distortion", "train_kl", "test_distortion", "test_kl")
    bits = (math.nan, math.inf, last)
    plot_curves([{"epoch": float(i), **dict.fromkeys(figures, bits[i])} for i in range(3)], path)
    assert len(colours(path)) > 10


def test_curves_of_a_single_epoch_are_drawn(path: Path) -> None:
    plot_curves(
        [{"epoch": 1.0, "train_distortion": 2, "train_kl": 0, "test_distortion": 2, "test_kl": 0}], path
    )
    assert len(colours(path)) > 10


@pytest.mark.parametrize("images", [1, 12])
def test_reconstructions_show_the_images(path: Path, images: int) -> None:
    pixels = tiny_dataset(test=images).test
    plot_reconstructions(tiny_vae(), pixels, path)
    assert not levels_missing(pixels, path)


def test_colour_images_are_shown_in_colour(path: Path) -> None:
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    pixels[:, 0] = 200
    model = tiny_vae(Dataset(pixels, pixels, None, None, "sha256:red"), optimisation={"batch_size": 2})
    plot_reconstructions(model, pixels, path)
    assert (200, 0, 0) in colours(path)


@pytest.mark.parametrize("prior", ["standard", "aggregated"])
def test_samples_are_those_of_the_named_prior_from_seed_0(
    path: Path, monkeypatch: pytest.MonkeyPatch, prior: Prior
) -> None:
    decoded: list[np.ndarray] = []

    def decode(model: VAE, z: np.ndarray) -> np.ndarray:
        decoded.append(z)
        return shown

    shown = np.repeat(np.arange(10, 100, 10, dtype=np.uint8), 64).reshape(9, 8, 8, 1)
    monkeypatch.setattr("training.plots.decode_to_images", decode)
    plot_samples(tiny_vae(), latents(), prior, path, side=3)
    z = sample_latents(latents(), prior, seed=0, offset=0, count=9, temperature=1.0)
    np.testing.assert_array_equal(decoded[0], z)
    assert not levels_missing(shown, path)


def test_traversals_move_the_most_active_latents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[np.ndarray] = []

    def decode(model: VAE, z: np.ndarray) -> np.ndarray:
        decoded.append(z)
        return decode_to_images(model, z)

    monkeypatch.setattr("training.plots.decode_to_images", decode)
    plot_traversals(tiny_vae(), latents(), path, rows=2, columns=3)
    # The deviations are 0.1, 0.4, 0.7 and 1.
    expected = [[0, 0, 0, -3], [0, 0, 0, 0], [0, 0, 0, 3], [0, 0, -2.1, 0], [0, 0, 0, 0], [0, 0, 2.1, 0]]
    np.testing.assert_allclose(decoded[0], expected, rtol=1e-6)
    assert len(greys(path)) > 10


def test_traversals_have_a_row_for_each_latent_where_there_are_few(path: Path) -> None:
    plot_traversals(tiny_vae(), latents(), path, rows=10, columns=3)
    assert len(greys(path)) > 10


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_latent_means_are_drawn_in_any_number_of_dimensions(path: Path, dims: int) -> None:
    plot_latent_means(np.random.default_rng(0).standard_normal((30, dims), np.float32), None, path)
    assert near("#92b1d3", colours(path))  # #2563a8, half transparent on white


def test_latent_means_are_coloured_by_label(path: Path) -> None:
    """Two clusters that lie apart have a colour each: the map's first and last, as strong as 0.6 on white."""
    labels = np.arange(300) % 2
    mu = np.random.default_rng(0).standard_normal((300, 3), np.float32) + 20 * labels[:, None]
    plot_latent_means(mu, labels, path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    without_legend = pixels[:, : int(0.85 * pixels.shape[1])]
    columns = [np.nonzero((abs(without_legend - colour) <= 3).all(axis=2))[1] for colour in BLENDED]
    assert min(map(len, columns)) > 50
    left, right = sorted(columns, key=np.mean)
    assert left.max() < right.min()


def test_latent_means_of_more_images_than_shown_take_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    scatter = Axes.scatter

    def counted(axes: Axes, x: np.ndarray, *arguments: Any, **options: Any) -> Any:
        drawn.append(len(x))
        return scatter(axes, x, *arguments, **options)

    monkeypatch.setattr(Axes, "scatter", counted)
    mu = np.random.default_rng(0).standard_normal((40, 3), np.float32)
    plot_latent_means(mu, np.arange(40) % 2, path, shown=25)
    assert drawn == [25]


@pytest.mark.parametrize("labels", [None, np.zeros(1, np.int64)], ids=["unlabelled", "labelled"])
def test_the_latent_mean_of_a_single_image_is_drawn(path: Path, labels: np.ndarray | None) -> None:
    plot_latent_means(np.ones((1, 4), np.float32), labels, path)
    assert len(colours(path)) > 10
