"""A training run's TOML file, checked strictly: an unknown key or a value out of range is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from models.config import InputConfig, LikelihoodConfig, Strict, VAEConfig
from training.datasets import DataConfig

MAX_SEED = 2**32 - 1  # the least of the generators' limits: scikit-learn's

AdamBeta = Annotated[float, Field(ge=0, lt=1)]


class ConfigError(ValueError):
    """A configuration file that cannot be used, with every fault found in it."""


class Section(Strict):
    """A table of the file; its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class ModelConfig(Section):
    """The network; the input's shape comes from the data."""

    kind: Literal["vae", "autoencoder"] = "vae"
    family: Literal["convolutional", "fully-connected"] = "convolutional"
    latent_dim: int = Field(default=32, ge=1, le=4096)
    channels: tuple[PositiveInt, ...] = Field(default=(48, 96), strict=False)
    blocks: tuple[NonNegativeInt, ...] = Field(default=(1, 2), strict=False)
    likelihood: LikelihoodConfig = LikelihoodConfig(name="logistic-mixture", components=5)
    clamp: tuple[float, float] = Field(default=(-12.0, 6.0), strict=False)

    @model_validator(mode="after")
    def _clamp_rises(self) -> Self:
        if not self.clamp[0] < self.clamp[1]:
            raise ValueError(f"clamp {self.clamp} must rise")
        return self

    def network(self, shape: tuple[int, int, int]) -> VAEConfig:
        """Return the config of the network for images of `shape` (C, H, W).

        Raises ConfigError where the parts, or the images, do not fit together.
        """
        levels: Literal[2, 256] = 2 if self.likelihood.name == "bernoulli" else 256
        parts = self.model_dump(exclude={"kind"})
        try:
            return VAEConfig(**parts, input=InputConfig(shape=shape, levels=levels))
        except ValidationError as error:
            raise ConfigError(f"model: {'; '.join(fault['msg'] for fault in error.errors())}") from None


class ObjectiveConfig(Section):
    """loss = mean(distortion + beta·kl)."""

    kl: Literal["analytic", "monte-carlo"] = "analytic"
    estimator: Literal["reparameterised", "score-function"] = "reparameterised"
    samples: int = Field(default=1, ge=1, le=64, description="of z, an image and step")
    beta: float = Field(default=1.0, ge=0)
    beta_warmup_epochs: float = Field(default=0.0, ge=0, description="beta rises from 0 linearly")
    free_bits: float = Field(default=0.0, ge=0, description="nats a latent that cost nothing")

    @model_validator(mode="after")
    def _parts_combine(self) -> Self:
        if self.estimator == "score-function" and self.samples < 2:
            raise ValueError(f"the score-function estimator needs samples ≥ 2, got {self.samples}")
        if self.free_bits and (self.kl, self.estimator) != ("analytic", "reparameterised"):
            raise ValueError("free_bits needs kl = 'analytic' and estimator = 'reparameterised'")
        if self.estimator == "score-function" and self.kl != "analytic":
            raise ValueError("the score-function estimator is offered with kl = 'analytic' only")
        return self


class OptimisationConfig(Section):
    """AdamW with linear warm-up, cosine decay, clipping and an exponential moving average of weights."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1, description="over all processes")
    learning_rate: float = Field(default=2e-3, gt=0)
    final_learning_rate_fraction: float = Field(default=0.02, ge=0, le=1)
    warmup_steps: int = Field(default=500, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_betas: tuple[AdamBeta, AdamBeta] = Field(default=(0.9, 0.99), strict=False)
    max_gradient_norm: float = Field(
        default=500.0, gt=0, description="of the loss in nats an image; longer gradients are clipped"
    )
    skip_gradient_norm: float = Field(
        default=1e7, gt=0, description="a step with a longer or NaN gradient is skipped and counted"
    )
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"


class EvaluationConfig(Section):
    """What `evaluate` and `export` compute on the test set."""

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    nll_samples: int = Field(default=500, ge=1, description="K of the IWAE bound")
    nll_images: int = Field(default=1000, ge=1)
    mixture_components: int = Field(default=32, ge=1, le=1024, description="of the aggregated posterior")


class RunConfig(Section):
    """A whole run: data, network, objective, optimisation, evaluation."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="names the run and its bundle")
    description: str = Field(default="", description="one sentence for the model card")
    license: str = Field(
        default="other", pattern=r"^[a-z0-9][a-z0-9.-]*$", description="a hub's identifier, of the data"
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
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
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, f['loc'])) or 'run'}: {f['msg']}, got {f['input']!r}" for f in error.errors()
        ]
        raise ConfigError("\n  - ".join([f"{path}: {len(faults)} fault(s)", *faults])) from None
