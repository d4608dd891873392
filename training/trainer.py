"""One step of training after another. A run is a pure function of its config and data on one kind of machine:

    epoch ─► permutation(seed, epoch) ─► batch of step ─► eps(seed, step·batch + i) ─► loss ─► AdamW ─► EMA

Order and noise are counted, not drawn from hidden state, so a resumed run and a run over more processes
see what the uninterrupted single one sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from models.objectives import bits_per_dim
from models.vae import VAE, Autoencoder, Coder
from training.config import ObjectiveConfig, OptimisationConfig, RunConfig
from training.datasets import Dataset
from training.distributed import Place
from training.environment import environment
from training.errors import RunError
from training.inputs import batches, latent_noise, levels_on_device
from training.objective import Loss, Objective

MONITORED_IMAGES = 1000  # of the test set, for the curves alone: nothing is chosen by them
MONITOR_BATCH = 250
FULL_RATE_INPUTS = 512  # of a layer, up to which it gets the whole learning rate
Record = dict[str, float]


def build_model(config: RunConfig, shape: tuple[int, int, int]) -> Coder:
    """Build the network of a run with weights drawn from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        kind = VAE if config.model.kind == "vae" else Autoencoder
        return kind(config.model.network(shape))


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
    return schedule(step, steps, config.warmup_steps, config.final_learning_rate_fraction)


def schedule(step: int, steps: int, warmup_steps: int, floor: float = 0.01) -> float:
    """Return the share of a learning rate at a step: linear warm-up, then cosine to `floor`."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (floor + (1 - floor) * cosine)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return each layer's parameters with the share of the learning rate that they get.

    Adam moves every weight by about the learning rate, so the output of a layer moves with the number of its
    inputs (Yang et al. 2022): beyond FULL_RATE_INPUTS the rate falls as that number rises.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return [
        {"params": list(layer.parameters()), "share": min(1.0, FULL_RATE_INPUTS / layer.weight[0].numel())}
        for layer in layers
    ]


class Trainer:
    """A run in progress: step through it, save it, resume it."""

    def __init__(self, config: RunConfig, dataset: Dataset, place: Place) -> None:
        self.config, self.dataset, self.place = config, dataset, place
        place.share(config.optimisation.batch_size)  # refused here, before anything is written
        if place.world_size > 1 and config.objective.free_bits:
            raise RunError("free_bits needs the mean KL of the whole batch, so one process")
        self.model = build_model(config, dataset.shape).to(place.device)
        self.images = levels_on_device(self.model, dataset.train)
        self.monitored = levels_on_device(self.model, dataset.test[:MONITORED_IMAGES])
        self.ema = AveragedModel(self.model, multi_avg_fn=moving_average(config.optimisation.ema_decay))
        self.objective: nn.Module = Objective(self.model, config.objective)
        if place.world_size > 1:
            self.objective = DistributedDataParallel(self.objective)
        optimisation = config.optimisation
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model),
            lr=optimisation.learning_rate,
            betas=optimisation.adam_betas,
            weight_decay=optimisation.weight_decay,
        )
        self.steps_per_epoch = len(self.images) // optimisation.batch_size
        if self.steps_per_epoch == 0:
            raise RunError(
                f"batch_size {optimisation.batch_size} exceeds the {len(self.images)} training images"
            )
        self.steps = optimisation.epochs * self.steps_per_epoch
        self.step = 0
        self.skipped_steps = self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.history: list[Record] = []
        # Of the process that trained last: what the weights come from.
        self.trained_config = config.model_dump_json()
        self.environment: dict[str, Any] = {}

    def begin(self) -> None:
        """Note that the steps from here on are taken with this config, on this machine."""
        self.trained_config = self.config.model_dump_json()
        self.environment = environment(self.place)

    @property
    def is_finished(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.steps

    @property
    def epoch(self) -> float:
        """The number of epochs trained so far."""
        return self.step / self.steps_per_epoch

    def beta_at(self, step: int) -> float:
        """Return the weight of the KL in a step."""
        warmup_steps = self.config.objective.beta_warmup_epochs * self.steps_per_epoch
        return self.config.objective.beta * min(1.0, (step + 1) / max(1.0, warmup_steps))

    def train_step(self, indices: Tensor) -> Loss:
        """Take one optimisation step on the images at `indices`, of the whole batch over all processes."""
        mine = self.place.share(len(indices))
        levels = self.images[indices[mine]]
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self._is_mixed):
            loss: Loss = self.objective(levels, self._noise(len(indices), mine), self.beta_at(self.step))
        self.optimiser.zero_grad(set_to_none=True)
        loss.loss.backward()
        self._apply_gradients()
        self.step += 1
        return loss

    @property
    def _is_mixed(self) -> bool:
        return self.config.optimisation.precision == "bfloat16"

    def _noise(self, batch: int, mine: slice) -> Tensor:
        offset, count = self.step * batch + mine.start, mine.stop - mine.start
        return latent_noise(self.model, self.config.seed, offset, count, self.config.objective.samples)

    def _apply_gradients(self) -> None:
        optimisation = self.config.optimisation
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optimisation.max_gradient_norm)
        if not norm <= optimisation.skip_gradient_norm:  # NaN is skipped too
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        factor = learning_rate_factor(self.step, self.steps, optimisation)
        for group in self.optimiser.param_groups:
            group["lr"] = optimisation.learning_rate * factor * group["share"]
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
        model = self.averaged_model
        objective = Objective(model, ObjectiveConfig())
        totals = dict.fromkeys(("distortion", "kl"), 0.0)
        for start, levels in batches(self.monitored, MONITOR_BATCH):
            eps = latent_noise(model, self.config.seed, start, len(levels))
            loss = objective(levels, eps, beta=1.0)
            for name in totals:
                totals[name] += self.bits(getattr(loss, name)) * len(levels) / len(self.monitored)
        return {f"test_{name}": total for name, total in totals.items()}

    @property
    def averaged_model(self) -> Coder:
        """The model with exponentially averaged weights: the one evaluated and served."""
        model = self.ema.module
        assert isinstance(model, Coder)
        return model

    def bits(self, nats: Tensor) -> float:
        """Return the bits/dim of so many nats an image."""
        return float(bits_per_dim(nats.detach(), self.dataset.shape))

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {
            "config": self.trained_config,
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

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; raise RunError where it is another config's, data's or version's."""
        if missing := self.state().keys() - state.keys():
            raise RunError(f"not a checkpoint of this version of the program: it lacks {sorted(missing)}")
        try:
            self._check_origin(state)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RunError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, KeyError, TypeError) as error:  # other names, types or shapes
            raise RunError(f"not a checkpoint of this version of the program: {error}") from error
        self.step, self.skipped_steps = state["step"], state["skipped_steps"]
        self.seconds, self.history = state["seconds"], state["history"]
        self.trained_config, self.environment = state["config"], state["environment"]

    def _check_origin(self, state: Mapping[str, Any]) -> None:
        saved, current = (training_parts(text) for text in (state["config"], self.config.model_dump_json()))
        if saved != current:
            raise RunError(
                "it was made with another config; remove the run's folder to start anew\n  - "
                + "\n  - ".join(_differences(saved, current))
            )
        if state["data_digest"] != self.dataset.digest:
            raise RunError(f"it was made with data {state['data_digest']}, this is {self.dataset.digest}")


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
