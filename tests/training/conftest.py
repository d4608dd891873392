"""Runs small enough for a test: 1×8×8 images of two kinds and networks of some thousand weights."""

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.sources import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, idx_bytes, ramp
from training.config import RunConfig
from training.datasets import Dataset
from training.distributed import Place
from training.objective import Loss
from training.trainer import Trainer

HERE = Place(torch.device("cpu"))
MODEL = {
    "family": "convolutional",
    "latent_dim": 4,
    "channels": [8],
    "blocks": [1],
    "likelihood": {"name": "logistic-mixture", "components": 2},
}
OPTIMISATION = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "warmup_steps": 2, "ema_decay": 0.9}
STEPS_AN_EPOCH, STEPS = 3, 6  # of a tiny run: 24 images, batches of 8, 2 epochs
EVALUATION = {"nll_samples": 8, "nll_images": 4, "mixture_components": 2}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Leave the other cores alone, and undo what a run's `threads` sets."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(ramp(3, 2, 4)))
    (tmp_path / TRAIN_LABELS).write_bytes(idx_bytes(np.array([7, 0, 9], np.uint8)))
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(ramp(2, 2, 4, first=100)))
    (tmp_path / TEST_LABELS).write_bytes(idx_bytes(np.array([1, 2], np.uint8)))
    return tmp_path


def tiny_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images bright on the left (label 0) or at the top (label 1), in turn, and their labels."""
    pixels = np.random.default_rng(seed).integers(0, 40, (count, 1, 8, 8), np.uint8)
    pixels[0::2, :, :, :4] += 200
    pixels[1::2, :, :4] += 200
    return pixels, np.arange(count, dtype=np.int64) % 2


def tiny_dataset(train: int = 24, test: int = 12, digest: str = "sha256:tiny") -> Dataset:
    """Return a labelled data set of tiny images."""
    (images, labels), (test_images, test_labels) = tiny_images(train), tiny_images(test, seed=1)
    return Dataset(images, test_images, labels, test_labels, digest)


def tiny_values(**tables: Any) -> dict[str, Any]:
    """Return the content of a tiny run's TOML file, its tables and top-level values updated by `tables`."""
    values: dict[str, Any] = {
        "id": "tiny",
        "data": {"format": "npz", "path": "unread.npz"},
        "model": MODEL,
        "objective": {},
        "optimisation": OPTIMISATION,
        "evaluation": EVALUATION,
    }
    for key, value in tables.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return values


def tiny_config(**tables: Any) -> RunConfig:
    """Return the config of a tiny run, updated by `tables`."""
    return RunConfig.model_validate(tiny_values(**tables))


def tiny_trainer(dataset: Dataset | None = None, place: Place = HERE, **tables: Any) -> Trainer:
    """Return a trainer of a tiny run that has not begun."""
    return Trainer(tiny_config(**tables), dataset or tiny_dataset(), place)


def write_run(folder: Path, dataset: Dataset | None = None, **tables: Any) -> Path:
    """Write a tiny run's TOML file, and its data as npz unless `tables` say where they lie."""
    if "data" not in tables:
        written = dataset or tiny_dataset()
        tables["data"] = {"path": str(folder / "images.npz")}
        splits = {"train": written.train, "test": written.test}
        arrays = {name: images.transpose(0, 2, 3, 1) for name, images in splits.items()}
        labels = {"train_labels": written.train_labels, "test_labels": written.test_labels}
        np.savez(folder / "images.npz", **arrays, **labels)
    path = folder / "run.toml"
    path.write_text("\n".join(_toml_lines(tiny_values(**tables))) + "\n")
    return path


def _toml_lines(values: dict[str, Any], table: str = "") -> list[str]:
    lines = [f"[{table}]"] if table else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _toml_lines(value, f"{table}.{key}" if table else key)
    return lines


def take_steps(trainer: Trainer, count: int) -> list[Loss]:
    return [trainer.train_step(next(trainer.epoch_batches())) for _ in range(count)]


def assert_same(first: Any, second: Any) -> None:
    """Compare nested states bit for bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0)


class Poisoned(nn.Module):
    """An objective whose loss is NaN: in the calls of these numbers, or in all."""

    def __init__(self, objective: nn.Module, calls: Container[int] = range(1 << 30)) -> None:
        super().__init__()
        self.objective, self.calls, self.called = objective, calls, 0

    def forward(self, levels: Tensor, eps: Tensor, beta: float) -> Loss:
        loss = self.objective(levels, eps, beta)
        factor = torch.nan if self.called in self.calls else 1.0
        self.called += 1
        return Loss(loss.loss * factor, loss.distortion * factor, loss.kl * factor)
