"""A whole run: its record, its checkpoints, exact resume, and what a signal or a fault does to it."""

import errno
import fcntl
import math
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from tests.training.conftest import (
    HERE,
    STEPS,
    STEPS_AN_EPOCH,
    Poisoned,
    assert_same,
    take_steps,
    tiny_config,
    tiny_dataset,
    tiny_trainer,
)
from training.distributed import Place
from training.errors import RunError
from training.objective import Loss
from training.running import CHECKPOINT, resume, train
from training.trainer import Trainer

SIGNALS = [signal.SIGINT, signal.SIGTERM]


# ---- what is recorded


def test_an_epoch_leaves_a_record_of_its_means(tmp_path: Path) -> None:
    trainer = tiny_trainer(objective={"beta_warmup_epochs": 6}, optimisation={"epochs": 1})
    twin = tiny_trainer(objective={"beta_warmup_epochs": 6}, optimisation={"epochs": 1})
    losses = take_steps(twin, STEPS_AN_EPOCH)
    assert train(trainer, tmp_path)
    [record] = trainer.history
    bits = 64 * 0.6931471805599453

    def mean(part: str) -> float:
        return float(torch.stack([getattr(loss, part).detach() for loss in losses]).mean())

    assert record == {
        "epoch": 1.0,
        "train_distortion": pytest.approx(mean("distortion") / bits),
        "train_kl": pytest.approx(mean("kl") / bits),
        "beta": 3 / 18,  # of the last step
        "skipped_steps": 0,
        **twin.monitor(),
    }
    assert trainer.seconds > 0


def test_a_step_of_nan_loss_does_not_spoil_the_epochs_record(tmp_path: Path) -> None:
    trainer, twin = (tiny_trainer(optimisation={"epochs": 1}) for _ in range(2))
    for poisoned in (trainer, twin):
        poisoned.objective = Poisoned(poisoned.objective, calls=[1])
    losses = take_steps(twin, STEPS_AN_EPOCH)
    train(trainer, tmp_path)
    [record] = trainer.history
    expected = torch.stack([losses[0].distortion, losses[2].distortion]).mean()
    assert record["skipped_steps"] == 1
    assert record["train_distortion"] == pytest.approx(twin.bits(expected))
    assert all(map(math.isfinite, record.values()))


def test_many_skipped_steps_in_a_row_end_the_run_and_keep_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.running.DIVERGED_STEPS", 2)
    trainer = tiny_trainer()
    trainer.objective = Poisoned(trainer.objective, calls=range(STEPS_AN_EPOCH, STEPS))
    with pytest.raises(RunError, match=f"diverged: in 2 steps in a row, to step {STEPS_AN_EPOCH + 2}, the"):
        train(trainer, tmp_path)
    resumed = tiny_trainer()
    assert resume(resumed, tmp_path)
    assert (resumed.step, len(resumed.history)) == (STEPS_AN_EPOCH, 1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()  # written out, although it broke off
    assert [event.step for event in events.Scalars("epoch")] == [1000]


def test_skipped_steps_apart_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.running.DIVERGED_STEPS", 2)
    trainer = tiny_trainer()
    trainer.objective = Poisoned(trainer.objective, calls=range(0, STEPS, 2))
    assert train(trainer, tmp_path)
    assert trainer.skipped_steps == len(range(0, STEPS, 2))


def test_progress_tells_images_a_second_and_the_epochs_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer()
    train(trainer, tmp_path)
    out, err = capsys.readouterr()
    last = trainer.history[-1]
    assert out.splitlines()[-1] == (
        f"epoch 2: distortion {last['train_distortion']:.4f} + KL {last['train_kl']:.4f}; on test images"
        f" distortion {last['test_distortion']:.4f} + KL {last['test_kl']:.4f} bits/dim;"
        " 0 steps skipped so far"
    )
    assert "epoch 2/2: 100%" in err
    assert "image/s" in err


def test_tensorboard_has_every_figure_of_every_epoch(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    train(trainer, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(trainer.history[0])
    curve = [(event.step, event.value) for event in events.Scalars("test_distortion")]
    assert curve == [
        (1000 * epoch, pytest.approx(record["test_distortion"]))
        for epoch, record in enumerate(trainer.history, start=1)
    ]


# ---- interrupted and resumed


def interrupted(trainer: Trainer, step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Return the trainer, which will get a signal within its step `step`."""
    take = trainer.train_step

    def train_step(indices: Tensor) -> Loss:
        if trainer.step == step - 1:
            signal.raise_signal(number)
        return take(indices)

    monkeypatch.setattr(trainer, "train_step", train_step)
    return trainer


def weights_and_counts(trainer: Trainer) -> dict[str, Any]:
    kept = ("model", "ema", "optimiser", "step", "skipped_steps")
    return {key: value for key, value in trainer.state().items() if key in kept}


@pytest.mark.parametrize(
    ("step", "number"), [(2, signal.SIGINT), (STEPS_AN_EPOCH, signal.SIGTERM)], ids=["mid-epoch", "epoch-end"]
)
@pytest.mark.parametrize(
    "tables",
    [
        {"objective": {"beta_warmup_epochs": 2}},
        {"objective": {"estimator": "score-function", "samples": 2}},
        {"objective": {"kl": "monte-carlo", "samples": 3}, "optimisation": {"precision": "bfloat16"}},
        {"model": {"kind": "autoencoder"}},
    ],
    ids=["reparameterised", "score-function", "bfloat16", "autoencoder"],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int, tables: dict[str, Any]
) -> None:
    whole = tiny_trainer(**tables)
    assert train(whole, tmp_path / "whole")
    stopped = interrupted(tiny_trainer(**tables), step, number, monkeypatch)
    assert not train(stopped, tmp_path / "parts")
    assert stopped.step == step
    resumed = tiny_trainer(**tables)
    assert train(resumed, tmp_path / "parts")
    assert resumed.step == STEPS
    assert_same(weights_and_counts(resumed), weights_and_counts(whole))


def test_a_run_stopped_many_times_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_trainer()
    train(whole, tmp_path / "whole")
    for step, number in zip(range(1, STEPS), SIGNALS * STEPS, strict=False):
        assert not train(interrupted(tiny_trainer(), step, number, monkeypatch), tmp_path / "parts")
    last = tiny_trainer()
    assert train(last, tmp_path / "parts")
    assert_same(weights_and_counts(last), weights_and_counts(whole))


def test_a_signal_in_the_last_step_comes_too_late_to_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(interrupted(tiny_trainer(), STEPS, signal.SIGTERM, monkeypatch), tmp_path)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_means_what_it_meant_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class SecondSignal(Exception):
        pass

    def before(received: int, frame: FrameType | None) -> None:
        raise SecondSignal

    trainer = tiny_trainer()
    take = trainer.train_step

    def train_step(indices: Tensor) -> Loss:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)
        return take(indices)

    monkeypatch.setattr(trainer, "train_step", train_step)
    usual = signal.signal(number, before)
    try:
        with pytest.raises(SecondSignal):
            train(trainer, tmp_path)
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, usual)
    assert trainer.step == 0


def test_signals_mean_what_they_meant_before_once_training_ended(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    train(tiny_trainer(), tmp_path)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_skipped_steps_history_and_time_go_on_from_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupted(tiny_trainer(), 2, signal.SIGINT, monkeypatch)
    stopped.objective = Poisoned(stopped.objective)
    train(stopped, tmp_path)
    resumed = tiny_trainer()
    assert resume(resumed, tmp_path)
    assert (resumed.step, resumed.skipped_steps) == (2, 2)
    assert_same(
        (resumed.history[0]["test_kl"], resumed.seconds), (stopped.history[0]["test_kl"], stopped.seconds)
    )
    train(resumed, tmp_path)
    assert [record["epoch"] for record in resumed.history] == [2 / 3, 1, 2]
    assert resumed.seconds > stopped.seconds


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    whole = tiny_trainer()
    train(whole, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = tiny_trainer()
    assert train(again, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert_same(weights_and_counts(again), weights_and_counts(whole))


def test_there_is_nothing_to_resume_without_a_checkpoint(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    assert not resume(trainer, tmp_path)
    assert trainer.step == 0


def test_config_and_environment_are_those_of_the_process_that_trained_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(machine: str, **tables: Any) -> Trainer:
        monkeypatch.setattr("training.trainer.environment", lambda place: {"device": machine})
        return tiny_trainer(**tables)

    assert at("here").environment == {}
    train(interrupted(at("here", threads=1), 1, signal.SIGINT, monkeypatch), tmp_path)
    exporting = at("another")
    resume(exporting, tmp_path)
    assert exporting.environment == {"device": "here"}
    assert exporting.trained_config == tiny_config(threads=1).model_dump_json()
    assert train(exporting, tmp_path)
    assert exporting.environment == {"device": "another"}
    finished = at("a third")
    assert train(finished, tmp_path)
    assert finished.environment == {"device": "another"}
    assert finished.trained_config == tiny_config().model_dump_json()


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    other = tiny_trainer(seed=1, optimisation={"epochs": 4}, model={"channels": [9]})
    with pytest.raises(RunError, match="made with another config; remove the run's folder") as caught:
        train(other, tmp_path)
    assert str(caught.value).split("\n  - ")[1:] == [
        "model.channels: [8] in the checkpoint, [9] here",
        "optimisation.epochs: 2 in the checkpoint, 4 here",
        "seed: 0 in the checkpoint, 1 here",
    ]
    assert other.step == 0


def test_what_does_not_decide_the_training_may_change(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    other = tiny_trainer(description="Other words.", evaluation={"nll_samples": 3}, threads=1)
    assert resume(other, tmp_path)
    assert other.step == other.steps


def test_other_data_is_refused_with_both_digests(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    with pytest.raises(RunError, match="it was made with data sha256:tiny, this is sha256:other"):
        train(tiny_trainer(tiny_dataset(digest="sha256:other")), tmp_path)


def test_a_checkpoint_cut_off_while_writing_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(interrupted(tiny_trainer(), STEPS_AN_EPOCH, signal.SIGTERM, monkeypatch), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def cut_off(state: object, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(torch, "save", cut_off)
        with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint\.pt'"):
            train(tiny_trainer(), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    resumed, whole = tiny_trainer(), tiny_trainer()
    assert train(resumed, tmp_path)
    assert train(whole, tmp_path / "whole")
    assert_same(weights_and_counts(resumed), weights_and_counts(whole))


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, step = [], Trainer.train_step

    def taking(trainer: Trainer, indices: Tensor) -> Loss:
        if not taken:
            taken.append(trainer)
            with pytest.raises(RunError, match=re.escape(f"{tmp_path}: another process trains this run")):
                train(tiny_trainer(), tmp_path)
        return step(trainer, indices)

    monkeypatch.setattr(Trainer, "train_step", taking)
    assert train(tiny_trainer(), tmp_path)
    assert taken
    assert train(tiny_trainer(), tmp_path)


def test_all_processes_of_a_run_hear_that_others_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer()
    trainer.place = Place(torch.device("cpu"), rank=1, world_size=2)
    monkeypatch.setattr(Place, "agree", lambda place, flag: True)  # as the first process tells
    with pytest.raises(RunError, match="another process trains this run"):
        train(trainer, tmp_path)


def test_a_run_is_trained_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(
        UserWarning, match="cannot be locked, so take care to train once: .*No locks available"
    ):
        assert train(tiny_trainer(), tmp_path)


def refusal(tmp_path: Path) -> str:
    """Return what is said of the checkpoint in a run's folder."""
    with pytest.raises(RunError) as caught:
        train(tiny_trainer(), tmp_path)
    head, separator, fault = str(caught.value).partition(f"{tmp_path / CHECKPOINT}: ")
    assert (head, bool(separator)) == ("", True)
    return fault


@pytest.mark.parametrize("kept", [0, 100, 0.5], ids=["empty", "first-bytes", "half"])
def test_a_damaged_checkpoint_is_said_to_be_so(tmp_path: Path, kept: float) -> None:
    path = tmp_path / CHECKPOINT
    torch.save(tiny_trainer().state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    assert refusal(tmp_path) == "not a checkpoint, or damaged; remove it to start anew"


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    torch.save(tiny_trainer().state(), path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 128 + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    assert refusal(tmp_path) == "not a checkpoint, or damaged; remove it to start anew"


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04 and more", b"\x80\x02}q\0."])
def test_a_foreign_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    assert refusal(tmp_path) == "not a checkpoint, or damaged; remove it to start anew"


def with_wider_layer(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "model": {**state["model"], "encoder.0.bias": torch.zeros(9)}}


VERSION = "not a checkpoint of this version of the program: "


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: [state], "not a checkpoint of this program: it holds a list"),
        (lambda state: {"model": {}, "ema": {}}, f"{VERSION}it lacks ['config', 'data_digest', "),
        (
            with_wider_layer,
            f"{VERSION}Error(s) in loading state_dict for VAE:\n\tsize mismatch for encoder.0.bias",
        ),
        (lambda state: {**state, "ema": 3}, f"{VERSION}Expected state_dict to be dict-like"),
        (lambda state: {**state, "optimiser": {}}, f"{VERSION}'param_groups'"),
        (lambda state: {**state, "config": "{}"}, f"{VERSION}'seed'"),
        (lambda state: {**state, "config": "no JSON"}, f"{VERSION}Expecting value"),
    ],
    ids=["type", "keys", "shape", "weights", "optimiser", "config", "json"],
)
def test_another_programs_or_versions_checkpoint_is_said_to_be_so(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    torch.save(change(tiny_trainer().state()), tmp_path / CHECKPOINT)
    assert refusal(tmp_path).startswith(fault)


def test_a_checkpoint_that_cannot_be_read_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).mkdir()
    with pytest.raises(IsADirectoryError):
        resume(tiny_trainer(), tmp_path)


def test_a_machine_without_memory_for_a_checkpoint_does_not_make_it_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    train(tiny_trainer(), tmp_path)
    monkeypatch.setattr(torch, "load", out_of_memory)
    with pytest.raises(MemoryError):
        resume(tiny_trainer(), tmp_path)


def test_a_device_without_memory_for_a_checkpoint_is_not_said_to_be_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(state: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    train(tiny_trainer(), tmp_path)
    trainer = tiny_trainer()
    monkeypatch.setattr(trainer.optimiser, "load_state_dict", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        resume(trainer, tmp_path)


def test_a_checkpoint_is_read_into_the_machines_memory_not_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[str, Any]] = []
    load = torch.load

    def noted(*arguments: Any, **options: Any) -> Any:
        read.append(options)
        return load(*arguments, **options)

    train(tiny_trainer(), tmp_path)
    monkeypatch.setattr(torch, "load", noted)
    resume(tiny_trainer(), tmp_path)
    assert read == [{"map_location": "cpu", "weights_only": True}]


@pytest.mark.gpu
def test_a_run_resumes_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Place(torch.device("cuda"))
    assert not train(interrupted(tiny_trainer(place=gpu), 2, signal.SIGINT, monkeypatch), tmp_path)
    resumed = tiny_trainer(place=gpu)
    assert train(resumed, tmp_path)
    moments = [state["exp_avg"] for state in resumed.optimiser.state.values()]
    assert {tensor.device.type for tensor in (*moments, *resumed.model.parameters())} == {"cuda"}


def test_a_checkpoint_loads_without_unpickling_code(tmp_path: Path) -> None:
    train(tiny_trainer(), tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["config"] == tiny_config().model_dump_json()
    assert Trainer(tiny_config(), tiny_dataset(), HERE).state().keys() == state.keys()
