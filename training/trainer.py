"""The training loop. A run is a pure function of its config and data on one kind of machine:

    epoch ─► permutation(seed, epoch) ─► batch of step ─► eps(seed, step·batch + i) ─► loss ─► AdamW ─► EMA

Order and noise are counted, not drawn from hidden state, so a resumed run and a run over more processes
see what the uninterrupted single one sees.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.noise import normal_noise
from models.objectives import bits_per_dim
from models.vae import VAE, Autoencoder, Coder
from training.config import ObjectiveConfig, OptimisationConfig, RunConfig
from training.datasets import Dataset
from training.distributed import Place
from training.environment import environment
from training.objective import Loss, Objective

CHECKPOINT = "checkpoint.pt"
MONITORED_IMAGES = 1000  # of the test set, for the curves alone: nothing is chosen by them
Record = dict[str, float]


def build_model(config: RunConfig, shape: tuple[int, int, int]) -> Coder:
    """Build the network of a run with weights drawn from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        kind = VAE if config.model.kind == "vae" else Autoencoder
        return kind(config.model.network(shape))


def levels_on_device(model: Coder, pixels: np.ndarray) -> Tensor:
    """Return images (N, C, H, W) as the levels of a model's likelihood, on the model's device."""
    return model.to_levels(torch.from_numpy(pixels).to(next(model.parameters()).device))


Weights = tuple[Tensor, ...] | list[Tensor]


def moving_average(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """Return the update of an exponential moving average that forgets a short run's first weights.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's moving average.
    """

    @torch.no_grad()
    def update(averaged: Weights, current: Weights, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def learning_rate_factor(step: int, steps: int, config: OptimisationConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then cosine to its final fraction."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    floor = config.final_learning_rate_fraction
    return warm * (floor + (1 - floor) * cosine)


class Trainer:
    """A run in progress: step through it, save it, resume it."""

    def __init__(self, config: RunConfig, dataset: Dataset, place: Place) -> None:
        self.config, self.dataset, self.place = config, dataset, place
        place.share(config.optimisation.batch_size)  # refused here, before anything is written
        if place.world_size > 1 and config.objective.free_bits:
            raise ValueError("free_bits needs the mean KL of the whole batch, so one process")
        self.model = build_model(config, dataset.shape).to(place.device)
        self.images = levels_on_device(self.model, dataset.train)
        self.monitored = levels_on_device(self.model, dataset.test[:MONITORED_IMAGES])
        self.ema = AveragedModel(self.model, multi_avg_fn=moving_average(config.optimisation.ema_decay))
        self.objective: nn.Module = Objective(self.model, config.objective)
        if place.world_size > 1:
            self.objective = DistributedDataParallel(self.objective)
        optimisation = config.optimisation
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=optimisation.learning_rate,
            betas=optimisation.adam_betas,
            weight_decay=optimisation.weight_decay,
        )
        self.steps_per_epoch = len(self.images) // optimisation.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size {optimisation.batch_size} exceeds the {len(self.images)} training images"
            )
        self.steps = optimisation.epochs * self.steps_per_epoch
        self.step = 0
        self.skipped_steps = 0
        self.seconds = 0.0
        self.history: list[Record] = []
        self.environment = environment(place)  # of the process that trained last

    @property
    def epoch(self) -> float:
        """The number of epochs trained so far."""
        return self.step / self.steps_per_epoch

    @property
    def beta(self) -> float:
        """The weight of the KL at this step."""
        warmup_steps = self.config.objective.beta_warmup_epochs * self.steps_per_epoch
        return self.config.objective.beta * min(1.0, (self.step + 1) / max(1.0, warmup_steps))

    def train_step(self, indices: Tensor) -> Loss:
        """Take one optimisation step on the images at `indices`, of the whole batch over all processes."""
        mine = self.place.share(len(indices))
        levels = self.images[indices[mine]]
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self._is_mixed):
            loss: Loss = self.objective(levels, self._noise(len(indices), mine), self.beta)
        self.optimiser.zero_grad(set_to_none=True)
        loss.loss.backward()
        self._apply_gradients()
        self.step += 1
        return loss

    @property
    def _is_mixed(self) -> bool:
        return self.config.optimisation.precision == "bfloat16"

    def _noise(self, batch: int, mine: slice) -> Tensor:
        samples, latent = self.config.objective.samples, self.config.model.latent_dim
        offset = self.step * batch + mine.start
        noise = normal_noise(self.config.seed, offset, mine.stop - mine.start, samples * latent)
        return torch.from_numpy(noise).to(self.place.device).unflatten(1, (samples, latent)).transpose(0, 1)

    def _apply_gradients(self) -> None:
        optimisation = self.config.optimisation
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optimisation.max_gradient_norm)
        if not norm <= optimisation.skip_gradient_norm:  # NaN is skipped too
            self.skipped_steps += 1
            return
        factor = learning_rate_factor(self.step, self.steps, optimisation)
        for group in self.optimiser.param_groups:
            group["lr"] = optimisation.learning_rate * factor
        self.optimiser.step()
        self.ema.update_parameters(self.model)

    def epoch_batches(self) -> Iterator[Tensor]:
        """Yield the index batches that are left of the current epoch."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator)
        size = self.config.optimisation.batch_size
        for step in range(start, self.steps_per_epoch):
            yield order[step * size : (step + 1) * size]

    @torch.inference_mode()
    def monitor(self) -> Record:
        """Return the mean distortion and KL of the averaged weights on part of the test set, in bits/dim."""
        objective = Objective(self.averaged_model, ObjectiveConfig())
        drawn = normal_noise(self.config.seed, 0, len(self.monitored), self.config.model.latent_dim)
        noise = torch.from_numpy(drawn).to(self.place.device).unsqueeze(0)
        batches = zip(self.monitored.split(250), noise.split(250, dim=1), strict=True)
        total = len(self.monitored)
        parts = [(objective(levels, eps, beta=1.0), len(levels) / total) for levels, eps in batches]
        return {
            f"test_{name}": self._bits(sum(getattr(loss, name) * share for loss, share in parts))
            for name in ("distortion", "kl")
        }

    @property
    def averaged_model(self) -> Coder:
        """The model with exponentially averaged weights: the one evaluated and served."""
        model = self.ema.module
        assert isinstance(model, Coder)
        return model

    def _bits(self, nats: Tensor) -> float:
        return float(bits_per_dim(nats.detach(), self.dataset.shape))

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {
            "config": self.config.model_dump_json(),
            "data_digest": self.dataset.digest,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "seconds": self.seconds,
            "history": self.history,
            "environment": self.environment,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; raise ValueError where it belongs to another config or other data."""
        saved, current = (training_parts(text) for text in (state["config"], self.config.model_dump_json()))
        if saved != current:
            raise ValueError(
                "the checkpoint was made with another config; remove the run's folder to start anew\n  - "
                + "\n  - ".join(_differences(saved, current))
            )
        if state["data_digest"] != self.dataset.digest:
            raise ValueError(f"the checkpoint saw data {state['data_digest']}, this is {self.dataset.digest}")
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.skipped_steps = state["step"], state["skipped_steps"]
        self.seconds, self.history = state["seconds"], state["history"]
        self.environment = state["environment"]


def train(trainer: Trainer, run_folder: Path) -> bool:
    """Run to the end or to the first SIGINT or SIGTERM, saving after each epoch; return whether it ended.

    Writes checkpoint.pt and TensorBoard events to `run_folder`, and resumes from a checkpoint there.
    """
    resume(trainer, run_folder)
    trainer.environment = environment(trainer.place)
    run_folder.mkdir(parents=True, exist_ok=True)
    writer = SummaryWriter(str(run_folder / "tensorboard")) if trainer.place.is_first else None
    with _stop_requested() as stop_requested:
        while trainer.step < trainer.steps and not trainer.place.agree(bool(stop_requested)):
            record = _train_epoch(trainer, stop_requested)
            if writer is not None:
                _save(trainer.state(), run_folder / CHECKPOINT)
                _report(record, writer)
    if writer is not None:
        writer.close()
    return trainer.step >= trainer.steps


def resume(trainer: Trainer, run_folder: Path) -> bool:
    """Continue from the checkpoint in a run's folder; return whether there is one.

    Raises ValueError where it is damaged, or belongs to another config or other data.
    """
    checkpoint = run_folder / CHECKPOINT
    if not checkpoint.exists():
        return False
    try:
        state = torch.load(checkpoint, map_location=trainer.place.device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint}: not a checkpoint, or damaged; remove it to start anew") from error
    trainer.load_state(state)
    return True


def training_parts(config: str) -> dict[str, Any]:
    """Return the parts of a config's JSON that decide what is trained; the data has its digest."""
    parts = json.loads(config)
    return {name: parts[name] for name in ("seed", "model", "objective", "optimisation")}


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any], table: str = "") -> Iterator[str]:
    for key in sorted(saved.keys() | current.keys()):
        before, now = saved.get(key), current.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{table}{key}.")
        elif before != now:
            yield f"{table}{key}: {before!r} in the checkpoint, {now!r} here"


def _train_epoch(trainer: Trainer, stop_requested: list[int]) -> Record:
    started = time.perf_counter()
    size, first = trainer.config.optimisation.batch_size, trainer.step % trainer.steps_per_epoch
    epoch = trainer.step // trainer.steps_per_epoch + 1
    distortions, kls = [], []
    with tqdm(
        desc=f"epoch {epoch}/{trainer.config.optimisation.epochs}",
        total=trainer.steps_per_epoch * size,
        initial=first * size,
        unit="image",
        disable=not trainer.place.is_first,
    ) as bar:
        for indices in trainer.epoch_batches():
            loss = trainer.train_step(indices)
            distortions.append(loss.distortion.detach())
            kls.append(loss.kl.detach())
            bar.update(len(indices))
            if trainer.place.agree(bool(stop_requested)):
                break
    record = {
        "epoch": trainer.epoch,
        "train_distortion": trainer._bits(torch.stack(distortions).mean()),
        "train_kl": trainer._bits(torch.stack(kls).mean()),
        "beta": trainer.beta,
        "skipped_steps": trainer.skipped_steps,
        **trainer.monitor(),
    }
    trainer.seconds += time.perf_counter() - started
    trainer.history.append(record)
    return record


def _report(record: Record, writer: SummaryWriter) -> None:
    parts = [f"{name} {value:.4f}" for name, value in record.items() if name.startswith(("train", "test"))]
    skipped = f"; {record['skipped_steps']} steps skipped so far"
    tqdm.write(f"epoch {record['epoch']:g} (bits/dim): " + ", ".join(parts) + skipped)
    for name, value in record.items():
        writer.add_scalar(name, value, round(record["epoch"] * 1000))


def _save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # or the rename may reach the disk before the content
    os.replace(temporary, path)


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """Give a list that holds the signal once SIGINT or SIGTERM came; the step in progress ends first."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, _: received.append(number)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
