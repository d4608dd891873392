"""A training run's TOML file, checked strictly: an unknown key or a value out of range is an error."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from codec.model import FeatureCount
from models.config import (
    Blocks,
    Channels,
    Family,
    InputConfig,
    LikelihoodConfig,
    NetworkConfig,
    Strict,
    VAEConfig,
    Width,
)
from training.errors import ConfigError

MAX_RUN_SEED = 2**32 - 1  # the least of the generators' limits: scikit-learn's

AdamBeta = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Strict):
    """Where a data set lies and how it is read."""

    format: Literal["idx", "folder", "npz", "cifar10"]
    path: Path = Field(strict=False)
    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)] | None = Field(
        default=None, description="(C, H, W): a folder's images are fitted to it, others must have it already"
    )
    fit: Literal["resize", "crop", "pad"] = Field(
        default="crop", description="how a folder's images reach the shape; others are never fitted"
    )
    test_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="held out where the source has no test split of its own"
    )

    @model_validator(mode="after")
    def _shape_is_of_images(self) -> Self:
        if self.shape is not None and self.shape[0] not in (1, 3):
            raise ValueError(f"shape {self.shape} has {self.shape[0]} channels, expected 1 or 3")
        if self.format == "folder" and self.shape is None:
            raise ValueError("format 'folder' needs shape = [channels, height, width]")
        return self


class ModelConfig(NetworkConfig):
    """The network; the input's shape comes from the data."""

    kind: Literal["vae", "autoencoder"] = "vae"
    family: Family = "convolutional"
    latent_dim: Width = 32
    channels: Channels = (48, 96)
    blocks: Blocks = (1, 2)
    likelihood: LikelihoodConfig = LikelihoodConfig(name="logistic-mixture", components=5)

    def network(self, shape: tuple[int, int, int]) -> VAEConfig:
        """Return the config of the network for images of `shape` (C, H, W).

        Raises ConfigError for images outside the network's limits.
        """
        levels: Literal[2, 256] = 2 if self.likelihood.name == "bernoulli" else 256
        parts = self.model_dump(exclude={"kind"})
        try:
            return VAEConfig(**parts, input=InputConfig(shape=shape, levels=levels))
        except ValidationError as error:
            raise ConfigError(f"model: {'; '.join(fault['msg'] for fault in error.errors())}") from None


class ObjectiveConfig(Strict):
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


class OptimisationConfig(Strict):
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


class EvaluationConfig(Strict):
    """What `evaluate` and `export` compute on the test set."""

    seed: int = Field(default=0, ge=0, le=MAX_RUN_SEED)
    nll_samples: int = Field(default=500, ge=1, description="K of the IWAE bound")
    nll_images: int = Field(default=1000, ge=1)
    mixture_components: int = Field(default=32, ge=1, le=1024, description="of the aggregated posterior")


class FastTraining(Strict):
    """The codec's network without latents, of two hidden layers."""

    reach: int = Field(default=2, ge=1, le=8, description="of the context, in pixels")
    hidden: Width = Field(default=24, description="units of a hidden layer")
    components: int = Field(default=3, ge=1, le=64, description="of a level's mixture")
    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)


class CodecTraining(Strict):
    """The codec that `export` trains for a finished run, its encoder left as it is."""

    latent_step: float = Field(default=10.0, gt=0, description="of integer latents, in medians of σ")
    reach: int = Field(default=4, ge=1, le=8, description="of the context, in pixels")
    features: FeatureCount = Field(
        default=24, description="of the decoder, a pixel; 0 codes levels without latents"
    )
    hidden: Width = Field(default=64, description="units of a hidden layer of the context network")
    layers: int = Field(default=2, ge=1, le=8, description="hidden layers")
    components: int = Field(default=5, ge=1, le=64, description="of a level's mixture")
    epochs: int = Field(default=8, ge=1)
    stride: int = Field(
        default=2, ge=1, le=8, description="of the pixels of an image that a step learns from"
    )
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    decoder_learning_rate: float = Field(default=5e-4, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0, description="of each network's loss")
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    picture_epochs: int = Field(default=6, ge=1, description="of the decoder of latents alone")
    fast: FastTraining = FastTraining()


class RunConfig(Strict):
    """A whole run: data, network, objective, optimisation, evaluation, codec."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="names the run and its bundle")
    description: str = Field(default="", description="one sentence for the model card")
    license: str = Field(
        default="other", pattern=r"^[a-z0-9][a-z0-9.-]*$", description="a hub's identifier, of the data"
    )
    seed: int = Field(default=0, ge=0, le=MAX_RUN_SEED)
    threads: int | None = Field(
        default=None, ge=1, description="of torch on the CPU; its own choice by default"
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    codec: CodecTraining | None = None


def read_config(path: Path, data: Path | None = None) -> RunConfig:
    """Read a run's TOML file, or the config in a bundle's training.json.

    `data` replaces the path of the data, which training.json does not have. Raises ConfigError naming every
    fault.
    """
    try:
        values = _read_values(path)
        if data is not None and isinstance(values, dict) and isinstance(values.get("data"), dict):
            values["data"]["path"] = data
        return RunConfig.model_validate(values)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors()]
        raise ConfigError("\n  - ".join([f"{path}: {len(faults)} fault(s)", *faults])) from None


def _read_values(path: Path) -> Any:
    content = path.read_bytes()
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        if kind == "TOML":
            return tomllib.loads(content.decode())
        training = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not {kind}: {error}") from None
    return training.get("config") if isinstance(training, dict) else training


def _describe(fault: ErrorDetails) -> str:
    hint = "; --data names it too" if fault["loc"] == ("data", "path") else ""
    where = ".".join(map(str, fault["loc"])) or "run"
    return f"{where}: {fault['msg']}{hint}, got {fault['input']!r}"
