"""`python -m training`: from a folder of images to a bundle that the service loads, and clear refusals."""

import json
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from models.bundle import Metrics, load_bundle
from tests.training.conftest import tiny_images, write_run
from training.__main__ import main
from training.distributed import Place
from training.errors import FetchError
from training.fetch import PUBLIC_SETS
from training.objective import Loss
from training.running import CHECKPOINT
from training.trainer import Trainer


def write_images(folder: Path) -> None:
    """Write 24 training and 12 test images as PNG, each below the folder of its class."""
    for split, count, seed in (("train", 24, 0), ("test", 12, 1)):
        for number, (pixels, label) in enumerate(zip(*tiny_images(count, seed), strict=True)):
            path = folder / split / ("left", "top")[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0]).save(path)


@dataclass
class Run:
    """The files of a run, and what each command answered and printed."""

    folder: Path
    config: Path
    answers: dict[str, tuple[int, str]]

    def command(self, name: str, *options: str) -> tuple[int, str]:
        output = StringIO()
        with redirect_stdout(output):
            status = main([name, str(self.config), "--runs", str(self.folder / "runs"), *options])
        return status, output.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train, evaluate and export a folder of images."""
    folder = tmp_path_factory.mktemp("walkthrough")
    write_images(folder / "pictures")
    data = {"format": "folder", "path": str(folder / "pictures"), "shape": [1, 8, 8]}
    run = Run(folder, write_run(folder, data=data, threads=1), {})
    for name, options in (("train", []), ("evaluate", []), ("export", ["--to", str(folder / "bundles")])):
        run.answers[name] = run.command(name, *options)
    return run


# ---- from images to a bundle


def test_every_command_succeeds(run: Run) -> None:
    assert {name: status for name, (status, _) in run.answers.items()} == {
        "train": 0,
        "evaluate": 0,
        "export": 0,
    }


def test_train_leaves_a_checkpoint_of_the_whole_run(run: Run) -> None:
    state = torch.load(run.folder / "runs" / "tiny" / CHECKPOINT, weights_only=True)
    assert state["step"] == 6


def test_evaluate_prints_the_metrics_as_json(run: Run) -> None:
    metrics = Metrics.model_validate_json(run.answers["evaluate"][1])
    assert (metrics.n, metrics.nll_n, metrics.nll_samples) == (12, 4, 8)
    assert metrics.linear_accuracy is not None


def test_export_writes_a_bundle_that_loads_with_the_evaluated_metrics(run: Run) -> None:
    bundle = load_bundle(run.folder / "bundles" / "tiny")
    assert bundle.id == "tiny"
    assert bundle.config.input.shape == (1, 8, 8)
    assert bundle.metrics == Metrics.model_validate_json(run.answers["evaluate"][1])
    printed, destination = run.answers["export"][1].rsplit("\n", maxsplit=2)[:2]
    assert Metrics.model_validate_json(printed) == bundle.metrics
    assert destination == f"bundle written to {bundle.path}"


def test_the_bundle_says_where_it_comes_from(run: Run) -> None:
    training = json.loads((run.folder / "bundles" / "tiny" / "training.json").read_text())
    assert training["config"]["data"]["format"] == "folder"
    assert training["data"]["digest"].startswith("sha256:")
    assert (training["data"]["train_images"], training["data"]["test_images"]) == (24, 12)
    state = torch.load(run.folder / "runs" / "tiny" / CHECKPOINT, weights_only=True)
    assert training["wall_seconds"] == round(state["seconds"], 1)


def test_the_card_has_the_hubs_header_and_the_figures(run: Run) -> None:
    card = (run.folder / "bundles" / "tiny" / "README.md").read_text()
    metrics = load_bundle(run.folder / "bundles" / "tiny").metrics
    assert card.startswith("---\nlicense: other\nlibrary_name: vaeserve\n")
    assert f"| −ELBO | {-metrics.elbo.mean:.2f} ± {metrics.elbo.standard_error:.2f} |" in card


def test_training_a_finished_run_again_changes_nothing(run: Run) -> None:
    checkpoint = run.folder / "runs" / "tiny" / CHECKPOINT
    before = checkpoint.read_bytes()
    assert run.command("train") == (0, "")
    assert checkpoint.read_bytes() == before


def test_export_goes_to_the_shipped_bundles_by_default(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.__main__.SHIPPED", tmp_path)
    assert run.command("export")[0] == 0
    assert load_bundle(tmp_path / "tiny").id == "tiny"


def test_export_fits_a_codec_where_the_config_has_one_and_codec_does_it_again(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    config = tmp_path / "run.toml"
    small = "reach = 1\nfeatures = 2\nhidden = 4\ncomponents = 1\nepochs = 1\nbatch_size = 2\n"
    config.write_text(run.config.read_text() + "\n[codec]\n" + small)
    options = [str(config), "--runs", str(run.folder / "runs"), "--to", str(tmp_path)]
    assert main(["export", *options]) == 0
    exported = (tmp_path / "tiny" / "codec.safetensors").read_bytes()
    _, _, figures = capsys.readouterr().out.partition(f"codec written to {tmp_path / 'tiny'}\n")
    assert list(json.loads(figures)["bits/dim"]) == ["bits_per_dim", "integer_estimate", "float_estimate"]
    assert main(["codec", str(config), "--to", str(tmp_path)]) == 0
    assert (tmp_path / "tiny" / "codec.safetensors").read_bytes() == exported
    again = tmp_path / "tiny" / "training.json"
    assert json.loads(again.read_bytes())["config"]["codec"]["hidden"] == 4


def test_quantiles_are_put_into_a_bundle_that_is_there(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--runs", str(run.folder / "runs"), "--to", str(tmp_path)]
    assert main(["export", str(run.config), *options]) == 0
    exported = (tmp_path / "tiny" / "metrics.json").read_bytes()
    capsys.readouterr()
    assert main(["quantiles", str(run.config), "--to", str(tmp_path)]) == 0
    assert (tmp_path / "tiny" / "metrics.json").read_bytes() == exported
    assert json.loads(capsys.readouterr().out) == json.loads(exported)


# ---- refused with status 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a refused command says after `error: `."""
    assert main(arguments) == 1
    head, fault = capsys.readouterr().err.rsplit("error: ", maxsplit=1)
    assert "Traceback" not in head
    return fault.removesuffix("\n")


def test_exporting_onto_an_existing_folder_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    bundles = str(run.folder / "bundles")
    fault = refused(capsys, "export", str(run.config), "--runs", str(run.folder / "runs"), "--to", bundles)
    assert fault == f"{bundles}/tiny exists; remove it, or export to another folder with --to"


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_run_that_was_not_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    runs = tmp_path / "runs"
    fault = refused(capsys, command, str(write_run(tmp_path)), "--runs", str(runs))
    assert fault == f"{runs}/tiny/checkpoint.pt: no such file; train the run first"
    assert not runs.exists()


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_command_of_one_process_is_refused_in_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    @contextmanager
    def two_processes() -> Iterator[Place]:
        yield Place(torch.device("cpu"), rank=1, world_size=2)

    monkeypatch.setattr("training.__main__.joined_processes", two_processes)
    fault = refused(capsys, command, str(write_run(tmp_path)))
    assert fault == f"{command} runs in one process, not in 2"


def test_an_autoencoder_trains_and_is_evaluated_but_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_run(tmp_path, model={"kind": "autoencoder"}))
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(["train", config, *runs]) == 0
    distortion = capsys.readouterr().out.split("on test images distortion ")[-1].split(" ")[0]
    assert main(["evaluate", config, *runs]) == 0
    assert capsys.readouterr().out == (
        f"autoencoder: distortion {distortion} bits/dim on 12 test images, no ELBO\n"
    )
    fault = refused(capsys, "export", config, *runs, "--to", str(tmp_path / "bundles"))
    assert fault == "an autoencoder has no mu, logvar or prior, so there is nothing to export for serving"
    assert not (tmp_path / "bundles").exists()


def test_a_faulty_config_is_refused_with_its_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_run(tmp_path, optimisation={"epochs": 0}, depth=2)
    assert refused(capsys, "train", str(config)).split("\n  - ") == [
        f"{config}: 2 fault(s)",
        "optimisation.epochs: Input should be greater than or equal to 1, got 0",
        "depth: Extra inputs are not permitted, got 2",
    ]


def test_missing_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_run(tmp_path)
    (tmp_path / "images.npz").unlink()
    assert refused(capsys, "train", str(config)).startswith(f"{tmp_path}/images.npz: cannot be read: ")


def test_images_outside_the_networks_limits_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "pictures")
    data = {"format": "folder", "path": str(tmp_path / "pictures"), "shape": [1, 4, 8]}
    fault = refused(capsys, "train", str(write_run(tmp_path, data=data)))
    assert fault == "model: Value error, shape (1, 4, 8) is outside 1×8×8 … 3×64×64 (channels 1 or 3)"


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = tmp_path / "runs" / "tiny"
    run_folder.mkdir(parents=True)
    (run_folder / "checkpoint.partial").symlink_to("/dev/full")
    fault = refused(capsys, "train", str(write_run(tmp_path)), "--runs", str(tmp_path / "runs"))
    assert fault == f"[Errno 28] No space left on device: '{run_folder / 'checkpoint.pt'}'"


@pytest.mark.parametrize("fault", [TypeError, ValueError, KeyError, RuntimeError])
def test_a_fault_of_the_program_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def mistaken(*arguments: Any) -> None:
        raise fault("a mistake")

    monkeypatch.setattr("training.__main__.load_dataset", mistaken)
    with pytest.raises(fault, match="a mistake"):
        main(["train", str(write_run(tmp_path)), "--runs", str(tmp_path / "runs")])


def test_an_interruption_ends_with_status_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(names: Sequence[str], into: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.__main__.fetch", interrupted)
    assert main(["data", "mnist"]) == 130
    assert capsys.readouterr() == ("", "")


# ---- options


def test_a_bundles_training_json_remakes_it(run: Run, tmp_path: Path) -> None:
    training = run.folder / "bundles" / "tiny" / "training.json"
    assert "path" not in json.loads(training.read_text())["config"]["data"]
    options = ["--data", str(run.folder / "pictures"), "--runs", str(tmp_path / "runs")]
    assert main(["train", str(training), *options]) == 0
    assert main(["export", str(training), *options, "--to", str(tmp_path / "again")]) == 0
    first, again = (load_bundle(folder / "tiny") for folder in (run.folder / "bundles", tmp_path / "again"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert again.metrics == first.metrics


def test_the_data_flag_replaces_the_configs_path(tmp_path: Path) -> None:
    config = write_run(tmp_path)
    moved = (tmp_path / "images.npz").rename(tmp_path / "moved.npz")
    options = ["--runs", str(tmp_path / "runs"), "--data", str(moved)]
    assert main(["train", str(config), *options]) == 0
    state = torch.load(tmp_path / "runs" / "tiny" / CHECKPOINT, weights_only=True)
    assert json.loads(state["config"])["data"]["path"] == str(moved)


@pytest.mark.parametrize(("tables", "calls"), [({"threads": 3}, [3]), ({}, [])])
def test_the_configs_threads_are_set_where_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], calls: list[int]
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    config = write_run(tmp_path, **tables)
    assert main(["train", str(config), "--runs", str(tmp_path / "runs")]) == 0
    assert seen == calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_resume_and_ends_with_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    take = Trainer.train_step

    def train_step(trainer: Trainer, indices: Tensor) -> Loss:
        signal.raise_signal(number)
        return take(trainer, indices)

    arguments = ["train", str(write_run(tmp_path)), "--runs", str(tmp_path / "runs")]
    with monkeypatch.context() as signalled:
        signalled.setattr(Trainer, "train_step", train_step)
        assert main(arguments) == 130
    assert capsys.readouterr().err.endswith("stopped at step 1 of 6; the same command resumes\n")
    assert main(arguments) == 0


# ---- fetching data


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ([], (list(PUBLIC_SETS), Path("data"))),
        (["mnist", "cifar10", "--into", "elsewhere"], (["mnist", "cifar10"], Path("elsewhere"))),
    ],
)
def test_data_fetches_the_named_sets_or_all(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], call: tuple[list[str], Path]
) -> None:
    calls: list[tuple[Sequence[str], Path]] = []
    monkeypatch.setattr("training.__main__.fetch", lambda names, into: calls.append((names, into)))
    assert main(["data", *arguments]) == 0
    assert calls == [call]


def test_a_set_that_cannot_be_fetched_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(names: Sequence[str], into: Path) -> None:
        raise FetchError("mnist: no route brought it")

    monkeypatch.setattr("training.__main__.fetch", unreachable)
    assert refused(capsys, "data", "mnist") == "mnist: no route brought it"


def test_an_unknown_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    fault = refused(capsys, "data", "imagenet")
    assert fault == "unknown data set imagenet; there are mnist, fashion-mnist, cifar10"


@pytest.mark.parametrize("arguments", [[], ["serve"], ["train"]])
def test_a_command_line_that_means_nothing_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


def test_the_module_runs_as_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "training.__main__")
    monkeypatch.setattr(sys, "argv", ["training", "train", str(tmp_path / "absent.toml")])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("training", run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/absent.toml: No such file or directory\n"
