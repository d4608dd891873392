"""A whole run: train epoch after epoch, save and report, stop on a signal, resume."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.errors import RunError
from training.trainer import Record, Trainer

CHECKPOINT, LOCK = "checkpoint.pt", "lock"
DIVERGED_STEPS = 100  # skipped in a row, after which a run is given up


def train(trainer: Trainer, run_folder: Path) -> bool:
    """Run to the end or to the first SIGINT or SIGTERM, saving after each epoch; return whether it ended.

    Writes checkpoint.pt and TensorBoard events to `run_folder`, and resumes from a checkpoint there. Raises
    RunError where the checkpoint is of no use, another process trains this run, or many steps in a row were
    skipped.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with _lock(run_folder / LOCK) if trainer.place.is_first else nullcontext(True) as is_ours:
        if trainer.place.agree(not is_ours):
            raise RunError(f"{run_folder}: another process trains this run")
        return _train(trainer, run_folder)


def _train(trainer: Trainer, run_folder: Path) -> bool:
    resume(trainer, run_folder)
    if trainer.is_finished:
        return True
    trainer.begin()
    with _summary_writer(trainer, run_folder) as writer, _stop_requested() as stop_requested:
        while not trainer.is_finished and not trainer.place.agree(bool(stop_requested)):
            record = _train_epoch(trainer, stop_requested)
            if writer is not None:
                _save(trainer.state(), run_folder / CHECKPOINT)
                _report(record, writer)
    return trainer.is_finished


def resume(trainer: Trainer, run_folder: Path) -> bool:
    """Continue from the checkpoint in a run's folder; return whether there is one.

    Raises RunError where it is damaged, or of another program, version, config or data.
    """
    checkpoint = run_folder / CHECKPOINT
    if not checkpoint.exists():
        return False
    try:
        trainer.load_state(_read(checkpoint))
    except RunError as error:
        raise RunError(f"{checkpoint}: {error}") from error
    return True


def _read(checkpoint: Path) -> dict[str, Any]:
    content = io.BytesIO(checkpoint.read_bytes())  # what fails from here on is no fault of the disk
    try:
        if zipfile.ZipFile(content).testzip() is not None:  # whose sums torch does not look at
            raise ValueError
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged or foreign file raises almost anything
        raise RunError("not a checkpoint, or damaged; remove it to start anew") from error
    if not isinstance(state, dict):
        raise RunError(f"not a checkpoint of this program: it holds a {type(state).__name__}")
    return state


def _summary_writer(trainer: Trainer, run_folder: Path) -> AbstractContextManager[SummaryWriter | None]:
    if trainer.place.is_first:
        return SummaryWriter(str(run_folder / "tensorboard"))
    return nullcontext()


def _train_epoch(trainer: Trainer, stop_requested: list[int]) -> Record:
    started = time.perf_counter()
    epoch = trainer.step // trainer.steps_per_epoch + 1
    parts = _take_steps(trainer, epoch, stop_requested)
    distortion, kl = parts[parts.isfinite().all(dim=1)].mean(dim=0)  # a skipped step's may be NaN
    record = {
        "epoch": trainer.epoch,
        "train_distortion": trainer.bits(distortion),
        "train_kl": trainer.bits(kl),
        "beta": trainer.beta_at(trainer.step - 1),
        "skipped_steps": trainer.skipped_steps,
        **trainer.monitor(),
    }
    trainer.seconds += time.perf_counter() - started
    trainer.history.append(record)
    return record


def _take_steps(trainer: Trainer, epoch: int, stop_requested: list[int]) -> Tensor:
    """Return the distortion and the KL of each step to the epoch's end, or to the request, (steps, 2)."""
    size, first = trainer.config.optimisation.batch_size, trainer.step % trainer.steps_per_epoch
    parts = []
    with tqdm(
        desc=f"epoch {epoch}/{trainer.config.optimisation.epochs}",
        total=trainer.steps_per_epoch * size,
        initial=first * size,
        unit="image",
        disable=not trainer.place.is_first,
    ) as bar:
        for indices in trainer.epoch_batches():
            loss = trainer.train_step(indices)
            parts.append(torch.stack([loss.distortion, loss.kl]).detach())
            if trainer.skipped_in_a_row >= DIVERGED_STEPS:
                raise RunError(
                    f"the run has diverged: in {DIVERGED_STEPS} steps in a row, to step {trainer.step}, the"
                    " gradient was NaN or longer than skip_gradient_norm; a lower learning_rate may help"
                )
            bar.update(len(indices))
            if trainer.place.agree(bool(stop_requested)):
                break
    return torch.stack(parts)


def _report(record: Record, writer: SummaryWriter) -> None:
    train, test = (
        f"distortion {record[f'{split}_distortion']:.4f} + KL {record[f'{split}_kl']:.4f}"
        for split in ("train", "test")
    )
    skipped = f"{record['skipped_steps']} steps skipped so far"
    tqdm.write(f"epoch {record['epoch']:g}: {train}; on test images {test} bits/dim; {skipped}")
    for name, value in record.items():
        writer.add_scalar(name, value, round(record["epoch"] * 1000))


def _save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # or the rename may reach the disk before the content
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # writing itself names no file
    finally:
        temporary.unlink(missing_ok=True)  # which may be what has filled the disk


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lock a file, where the file system lets us; give whether no other process has locked it."""
    with ExitStack() as opened:
        is_ours = True
        try:
            fcntl.flock(opened.enter_context(path.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        except OSError as error:
            warnings.warn(f"{path}: cannot be locked, so take care to train once: {error}", stacklevel=1)
        yield is_ours


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """Give a list that holds the signal once SIGINT or SIGTERM came; the step in progress ends first.

    The second signal acts as usual.
    """
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
