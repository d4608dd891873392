"""A finished run becomes a whole bundle folder, or nothing at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codec.chunk import verified
from codec.encoding import KINDS, Manner, compress
from codec.model import FILE, CodecError
from codec.payload import decompress, parsed
from models.bundle import METRICS, REQUIRED, BundleError, change_bundle, load_bundle, metrics_file
from models.priors import AggregatedPosterior
from tests.training.conftest import HERE, tiny_dataset, tiny_trainer
from training import export
from training.config import CodecTraining, RunConfig
from training.datasets import Dataset
from training.distributed import Place
from training.errors import RunError
from training.evaluation import evaluate
from training.export import export_codec, export_quantiles, export_run, provenance
from training.running import resume, train
from training.trainer import Trainer

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


def test_training_json_is_where_the_weights_come_from(bundle: Path, trained: Trainer) -> None:
    training = json.loads((bundle / "training.json").read_text())
    assert training["config"] == trained.config.model_dump(mode="json", exclude={"data": {"path"}})
    assert training["config"]["seed"] == 0
    assert training["data"] == {"digest": "sha256:tiny", "train_images": 24, "test_images": 12}
    assert {name: training[name] for name in trained.environment} == trained.environment
    assert (training["steps"], training["skipped_steps"]) == (6, 0)
    assert training["wall_seconds"] == round(trained.seconds, 1)
    assert training["history"] == trained.history


def test_training_json_has_the_config_that_trained_and_the_evaluation_that_follows(tmp_path: Path) -> None:
    train(tiny_trainer(threads=1), tmp_path)
    exporting = tiny_trainer(evaluation={"nll_samples": 5}, data={"path": "elsewhere.npz"})
    resume(exporting, tmp_path)
    config = provenance(exporting)["config"]
    assert config["threads"] == 1
    assert config["data"] == {"format": "npz", "shape": None, "fit": "crop", "test_fraction": 0.1}
    assert config["evaluation"]["nll_samples"] == 5


def test_a_figure_that_is_no_number_is_null_in_training_json() -> None:
    trainer = tiny_trainer()
    trainer.history = [{"epoch": 0.5, "train_kl": float("nan"), "test_kl": float("inf")}]
    assert provenance(trainer)["history"] == [{"epoch": 0.5, "train_kl": None, "test_kl": None}]


# ---- refused, or broken off


def test_weights_that_are_not_finite_are_refused_before_any_work(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    with torch.no_grad():
        trainer.averaged_model.encoder[0].weight[0] = torch.nan
    with pytest.raises(RunError, match=r"averaged weights are NaN or infinite, first in encoder\.0\.weight"):
        export_run(trainer, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_cannot_be_served_is_named_by_its_destination(
    tmp_path: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = export.fit_aggregated_posterior

    def faulty(*arguments: Any) -> AggregatedPosterior:
        fitted = fit(*arguments)
        return replace(fitted, weights=-fitted.weights)

    monkeypatch.setattr(export, "fit_aggregated_posterior", faulty)
    with pytest.raises(BundleError) as caught:
        export_run(trained, tmp_path / "bundle")
    assert str(caught.value).startswith(f"bundle {tmp_path / 'bundle'}: 1 fault(s)\n")
    assert list(tmp_path.iterdir()) == []


def test_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="an autoencoder has no mu, logvar or prior"):
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


# ---- its codec


CODEC = {
    "latent_step": 1.0,
    "reach": 1,
    "features": 2,
    "hidden": 8,
    "components": 2,
    "epochs": 60,
    "batch_size": 8,
    "learning_rate": 0.02,
    "warmup_steps": 5,
}


Fitting = tuple[RunConfig, Dataset, Place]


@pytest.fixture
def fitting(trained: Trainer) -> Fitting:
    """What a codec is fitted with, beside the bundle."""
    codec = CodecTraining.model_validate(CODEC)
    return trained.config.model_copy(update={"codec": codec}), trained.dataset, trained.place


def test_a_bundle_gets_a_codec_and_another_in_its_place(
    bundle: Path, fitting: Fitting, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "tiny")
    figures = export_codec(*fitting, tmp_path / "tiny")
    once = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir() if path.is_file()}
    config, dataset, _ = fitting
    codec, test = verified(tmp_path / "tiny" / FILE), dataset.test
    for effort in KINDS:
        payload = compress(test, codec, Manner(effort))
        header = parsed(payload, {codec.prefix: codec}.get)
        assert header.kind == KINDS[effort]
        assert figures.bits_per_dim[effort] == 8 * len(payload) / test.size
        np.testing.assert_array_equal(decompress(header), test)
    training = json.loads(once["training.json"])
    for name, of_efforts in figures._asdict().items():
        assert training["codec"][name] == of_efforts
    assert training["codec"]["test_images"] == len(test)
    assert training["config"]["codec"] == config.codec.model_dump(mode="json")  # type: ignore[union-attr]
    card = once["README.md"].decode()
    assert f"12 test images as one payload take\n{figures.bits_per_dim['best']:.3f} bits/dim" in card
    floats = " | ".join(f"{bits:.4f}" for bits in figures.float_estimate.values())
    assert f"| by that of the networks in floats that they were made of | {floats} |" in card
    load_bundle(tmp_path / "tiny")

    assert export_codec(*fitting, tmp_path / "tiny") == figures
    again = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir() if path.is_file()}
    assert again == once
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_codec_needs_its_table_in_the_config(bundle: Path, trained: Trainer) -> None:
    with pytest.raises(RunError, match=r"the config has no \[codec\] table"):
        export_codec(trained.config, trained.dataset, trained.place, bundle)


def test_a_codec_is_not_fitted_to_other_data(
    bundle: Path, fitting: Fitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset, place = fitting
    monkeypatch.setattr(export, "fit_codec", forbidden)
    with pytest.raises(RunError, match=f"trained on data of digest {dataset.digest}; this is sha256:other"):
        export_codec(config, replace(dataset, digest="sha256:other"), place, bundle)


def test_a_codec_that_cannot_be_used_leaves_the_bundle_as_it_is(
    bundle: Path, fitting: Fitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    monkeypatch.setattr(export, "dumped", lambda codec: b"no tensors")
    with pytest.raises(CodecError):
        export_codec(*fitting, bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()} == before


def test_what_changes_in_a_bundle_while_its_codec_is_trained_is_kept(
    bundle: Path, fitting: Fitting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "tiny")
    fit = export.fit_codec

    def fitted(*arguments: Any) -> Any:
        change_bundle(tmp_path / "tiny", {"README.md": b"another card"})
        return fit(*arguments)

    monkeypatch.setattr(export, "fit_codec", fitted)
    export_codec(*fitting, tmp_path / "tiny")
    assert (tmp_path / "tiny" / "README.md").read_bytes().startswith(b"another card\n## Codec\n")


def test_a_bundle_that_has_other_weights_meanwhile_does_not_get_what_was_made_for_the_old(
    bundle: Path, fitting: Fitting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "tiny")
    weights, (_, dataset, place) = tmp_path / "tiny" / "model.safetensors", fitting
    whole = weights.read_bytes()
    for name, export_part in (
        ("fit_codec", lambda: export_codec(*fitting, tmp_path / "tiny")),
        ("with_quantiles", lambda: export_quantiles(dataset, place, tmp_path / "tiny")),
    ):
        make = getattr(export, name)

        def made(*arguments: Any, make: Any = make) -> Any:
            weights.write_bytes(b"others")
            return make(*arguments)

        monkeypatch.setattr(export, name, made)
        with pytest.raises(RunError, match=f"{tmp_path / 'tiny'}: has other weights by now"):
            export_part()
        weights.write_bytes(whole)
    assert not (tmp_path / "tiny" / FILE).exists()


@pytest.mark.parametrize("config", [{}, {"config": 1}])
def test_a_bundle_of_other_programs_gets_a_codec_too(
    bundle: Path, fitting: Fitting, tmp_path: Path, config: dict[str, Any]
) -> None:
    shutil.copytree(bundle, tmp_path / "tiny")
    training = {"data": {"digest": fitting[1].digest}, **config}
    change_bundle(tmp_path / "tiny", {"training.json": json.dumps(training).encode(), "README.md": b"\xff"})
    export_codec(*fitting, tmp_path / "tiny")
    written = json.loads((tmp_path / "tiny" / "training.json").read_bytes())
    assert list(written["config"]) == ["codec"]
    assert (tmp_path / "tiny" / "README.md").read_bytes().startswith(b"\xff\n## Codec\n")


def test_a_codec_goes_into_a_bundle_alone(fitting: Fitting, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder"):
        export_codec(*fitting, tmp_path / "missing")


# ---- quantiles


def test_quantiles_are_put_into_a_bundle_that_has_none_and_change_nothing_else(
    bundle: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "bundle"
    shutil.copytree(bundle, destination)
    exported = load_bundle(bundle).metrics
    old = exported.model_copy(update={"bits_per_dim_quantiles": None})
    change_bundle(destination, {METRICS: metrics_file(old)})
    metrics = export_quantiles(tiny_dataset(), HERE, destination)
    assert metrics == exported
    assert {path.name: path.read_bytes() for path in destination.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()
    }


def test_quantiles_over_other_data_are_refused(bundle: Path) -> None:
    with pytest.raises(RunError, match="trained on data of digest sha256:tiny; this is sha256:other"):
        export_quantiles(tiny_dataset(digest="sha256:other"), HERE, bundle)
