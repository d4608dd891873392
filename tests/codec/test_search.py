"""Latents that are searched for cost less, and payloads of them are payloads like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from codec import search
from codec.__main__ import main
from codec.chunk import encode_chunks, verified
from codec.encoding import Effort, Manner, MannerError, compress
from codec.model import FILE, CodecModel
from codec.payload import decompress, parsed
from codec.rans import costs_of
from codec.search import searched_latents
from models.bundle import SHIPPED
from tests.codecs import pictures

SEARCHED = Manner(searches_latents=True)


def golden_images(id: str, count: int) -> np.ndarray:
    return load_file(SHIPPED / id / "golden.safetensors")["levels"][:count]


@pytest.mark.parametrize("max_error", [0, 3])
def test_images_come_back_whatever_their_latents_are(codec: CodecModel, max_error: int) -> None:
    images = pictures(codec.config.shape, 5, seed=2)
    found = compress(images, codec, Manner(max_error=max_error, searches_latents=True))
    plain = compress(images, codec, Manner(max_error=max_error))
    back, expected = (decompress(parsed(data, {codec.prefix: codec}.get)) for data in (found, plain))
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize(("id", "least"), [("fashion-mnist", 0.007), ("mnist", 0.012)])
def test_no_image_costs_more_and_all_together_cost_less(id: str, least: float) -> None:
    codec, images = verified(SHIPPED / id / FILE), golden_images(id, 8)
    sizes = {
        searches: [len(encode_chunks(codec, [image[None]], 0, searches)[0]) for image in images]
        for searches in (False, True)
    }
    assert all(found <= plain + 1 for plain, found in zip(*sizes.values(), strict=True))  # the stream's end
    together = [len(compress(images, codec, Manner(searches_latents=searches))) for searches in sizes]
    assert together[1] < (1 - least) * together[0]


def test_latents_of_an_image_are_found_in_any_company() -> None:
    codec, images = verified(SHIPPED / "fashion-mnist" / FILE), golden_images("fashion-mnist", 4)
    together = searched_latents(codec, images)
    assert (together != codec.latents_of(images)).any()
    np.testing.assert_array_equal(searched_latents(codec, images[2:3]), together[2:3])


def test_moves_that_save_alone_are_kept_while_they_save_together(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, image = verified(SHIPPED / "fashion-mnist" / FILE), golden_images("fashion-mnist", 1)
    first = codec.latents_of(image)
    by_moves = {0: 100, 1: 90, 2: 80, 3: 85}

    def costs(model: CodecModel, image: np.ndarray, k: np.ndarray, max_error: int) -> list[int]:
        return [by_moves[int((row != first[0]).sum())] for row in k]

    monkeypatch.setattr(search, "_costs", costs)
    assert (searched_latents(codec, image) != first).sum() == 2


def test_a_codec_without_latents_searches_for_none() -> None:
    codec, images = verified(SHIPPED / "cifar10" / FILE), golden_images("cifar10", 2)
    assert searched_latents(codec, images).shape == (2, 0)
    assert compress(images, codec, SEARCHED) == compress(images, codec)


def test_costs_are_summed_image_by_image() -> None:
    assert costs_of(np.array([[2**19, 2**20], [2**18, 2**17]])).tolist() == [256, 5 * 256]


@pytest.mark.parametrize(
    ("effort", "quality", "other"), [("fast", None, "effort fast"), ("best", 50, "quality = 50")]
)
def test_a_manner_without_such_latents_is_refused(
    grey: CodecModel, effort: Effort, quality: int | None, other: str
) -> None:
    with pytest.raises(MannerError, match=f"with effort best alone, not with {other}$"):
        compress(pictures(grey.config.shape, 1), grey, Manner(effort, quality=quality, searches_latents=True))


def test_the_command_line_searches(tmp_path: Path) -> None:
    for n, image in enumerate(golden_images("mnist", 4)):
        Image.fromarray(image[0]).save(tmp_path / f"{n}.png")
    files = [str(tmp_path / f"{n}.png") for n in range(4)]
    sizes = []
    for flags in ([], ["--search"]):
        assert main(["compress", *files, "--to", str(tmp_path / "all.vae"), "--model", "mnist", *flags]) == 0
        sizes.append((tmp_path / "all.vae").stat().st_size)
    assert sizes[1] < sizes[0]
