"""A training run's TOML file, checked strictly: an unknown key or a value out of range is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from models.config import InputConfig, LikelihoodConfig, Strict, VAEConfig
from training.datasets import DataConfig


class ConfigError(ValueError):
    """A configuration file that cannot be used, with every fault found in it."""


class ModelConfig(Strict):
    """The network; the input's shape comes from the data."""

    kind: Literal["vae", "autoencoder"] = "vae"
    family: Literal["convolutional", "fully-connected"] = "convolutional"
    latent_dim: int = Field(default=32, ge=1, le=4096)
    channels: tuple[int, ...] = Field(default=(48, 96), strict=False)
    blocks: tuple[int, ...] = Field(default=(1, 2), strict=False)
    likelihood: LikelihoodConfig = LikelihoodConfig(name="logistic-mixture", components=5)
    clamp: tuple[float, float] = Field(default=(-12.0, 6.0), strict=False)

    def network(self, shape: tuple[int, int, int]) -> VAEConfig:
        """Return the config of the network for images of `shape` (C, H, W)."""
        levels: Literal[2, 256] = 2 if self.likelihood.name == "bernoulli" else 256
        parts = self.model_dump(exclude={"kind"})
        return VAEConfig(**parts, input=InputConfig(shape=shape, levels=levels))


class ObjectiveConfig(Strict):
    """loss = mean(distortion + beta·kl)."""

    kl: Literal["analytic", "monte-carlo"] = "analytic"
    estimator: Literal["reparameterised", "score-function"] = "reparameterised"
    samples: int = Field(default=1, ge=1, le=64, description="of z, an image and step")
    beta: float = Field(default=1.0, ge=0, strict=False)
    beta_warmup_epochs: float = Field(
        default=0.0, ge=0, strict=False, description="beta rises from 0 linearly"
    )
    free_bits: float = Field(default=0.0, ge=0, strict=False, description="nats a latent that cost nothing")

    @model_validator(mode="after")
    def _parts_combine(self) -> Self:
        if self.estimator == "score-function" and self.samples < 2:
            raise ValueError(f"the score-function estimator needs samples ≥ 2, got {self.samples}")
        if self.free_bits and (self.kl, self.estimator) != ("analytic", "reparameterised"):
            raise ValueError("free_bits needs kl = 'analytic' and estimator = 'reparameterised'")
        if self.estimator == "score-function" and self.kl != "analytic":
            raise ValueError("the score-function estimator is offered with kl = 'analytic' only")
        return self


class OptimisationConfig(Strict):
    """AdamW with linear warm-up, cosine decay, clipping and an exponential moving average of weights."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1, description="over all processes")
    learning_rate: float = Field(default=2e-3, gt=0)
    final_learning_rate_fraction: float = Field(default=0.02, ge=0, le=1)
    warmup_steps: int = Field(default=500, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_betas: tuple[float, float] = Field(default=(0.9, 0.99), strict=False)
    max_gradient_norm: float = Field(
        default=500.0, gt=0, strict=False, description="of the loss in nats an image; longer gradients are clipped"
    )
    skip_gradient_norm: float = Field(
        default=1e7, gt=0, strict=False, description="a step with a longer or NaN gradient is skipped and counted"
    )
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"


class EvaluationConfig(Strict):
    """What `evaluate` and `export` compute on the test set."""

    seed: int = Field(default=0, ge=0)
    nll_samples: int = Field(default=500, ge=1, description="K of the IWAE bound")
    nll_images: int = Field(default=1000, ge=1)
    mixture_components: int = Field(default=32, ge=1, le=1024, description="of the aggregated posterior")


class RunConfig(Strict):
    """A whole run: data, network, objective, optimisation, evaluation."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="names the run and its bundle")
    description: str = Field(default="", description="one sentence for the model card")
    license: str = Field(default="other", description="of the data, for the model card")
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(
        default=None, ge=1, description="of torch on the CPU; its own choice by default"
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def read_config(path: Path) -> RunConfig:
    """Read a run's TOML file; raise ConfigError naming every fault."""
    try:
        return RunConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, f['loc'])) or 'run'}: {f['msg']}, got {f['input']!r}" for f in error.errors()
        ]
        raise ConfigError("\n  - ".join([f"{path}: {len(faults)} fault(s)", *faults])) from None
