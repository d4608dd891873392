"""A finished run becomes a whole bundle folder, or nothing at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle import REQUIRED, load_bundle
from tests.training.conftest import tiny_dataset, tiny_trainer
from training import export
from training.evaluation import evaluate
from training.export import export_run
from training.trainer import Trainer, train

PLOTS = {
    "curves.png",
    "reconstructions.png",
    "samples-standard.png",
    "samples-aggregated.png",
    "traversals.png",
    "latent-means.png",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = tiny_trainer()
    train(trainer, tmp_path_factory.mktemp("run"))
    return trainer


@pytest.fixture(scope="module")
def bundle(trained: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("exports") / "not" / "there" / "yet"
    export_run(trained, destination)
    return destination


def forbidden(*arguments: Any, **options: Any) -> Any:
    pytest.fail("this must not be reached")


# ---- the bundle


def test_the_service_loads_it(bundle: Path, trained: Trainer) -> None:
    loaded = load_bundle(bundle)
    averaged = trained.averaged_model.state_dict()
    assert loaded.model.state_dict().keys() == averaged.keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, averaged[name]), name


def test_its_metrics_are_those_of_the_averaged_weights(bundle: Path, trained: Trainer) -> None:
    expected = evaluate(trained.averaged_model, trained.dataset, trained.config)  # type: ignore[arg-type]
    assert load_bundle(bundle).metrics == expected


def test_nothing_but_the_bundle_is_left(bundle: Path) -> None:
    assert [entry.name for entry in bundle.parent.iterdir()] == ["yet"]
    assert {entry.name for entry in bundle.iterdir()} == {*REQUIRED, "SHA256SUMS", "plots"}
    assert {entry.name for entry in (bundle / "plots").iterdir()} == PLOTS


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_every_plot_is_a_png_with_something_on_it(bundle: Path, name: str) -> None:
    with Image.open(bundle / "plots" / name) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert pixels.std() > 10


def test_the_card_shows_plots_that_exist(bundle: Path) -> None:
    shown = [
        line.split("(")[1].rstrip(")")
        for line in (bundle / "README.md").read_text().splitlines()
        if "![" in line
    ]
    assert len(shown) == 5
    assert all((bundle / path).is_file() for path in shown)


def test_training_json_is_where_the_weights_come_from(
    bundle: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = json.loads((bundle / "training.json").read_text())
    assert training["config"] == trained.config.model_dump(mode="json")
    assert training["config"]["seed"] == 0
    assert training["data"] == {"digest": "sha256:tiny", "train_images": 24, "test_images": 12}
    assert {name: training[name] for name in trained.environment} == trained.environment
    assert (training["steps"], training["skipped_steps"]) == (6, 0)
    assert training["wall_seconds"] == round(trained.seconds, 1)
    assert training["history"] == trained.history


# ---- refused, or broken off


def test_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="an autoencoder has no mu, logvar or prior"):
        export_run(tiny_trainer(model={"kind": "autoencoder"}), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_any_work(
    trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "evaluate", forbidden)
    with pytest.raises(FileExistsError, match=f"{tmp_path} exists; remove it, or export to another folder"):
        export_run(trained, tmp_path)


@pytest.mark.parametrize("plot", ["plot_curves", "plot_latent_means"], ids=["first", "last"])
@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_export_that_breaks_off_while_drawing_leaves_nothing(
    trained: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plot: str,
    fault: type[BaseException],
) -> None:
    def broken(*arguments: Any) -> None:
        raise fault("while drawing")

    monkeypatch.setattr(export, plot, broken)
    with pytest.raises(fault, match="while drawing"):
        export_run(trained, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_unlabelled_run_with_one_test_image_is_exported_too(tmp_path: Path) -> None:
    dataset = tiny_dataset(train=9, test=1)
    unlabelled = type(dataset)(dataset.train, dataset.test, None, None, dataset.digest)
    trainer = tiny_trainer(unlabelled)
    train(trainer, tmp_path / "run")
    metrics = export_run(trainer, tmp_path / "bundle")
    assert metrics.linear_accuracy is None
    assert load_bundle(tmp_path / "bundle").metrics.n == 1
