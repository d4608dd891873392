"""What a network is built from: the part of a bundle's config.json that describes it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputConfig(Strict):
    """The images a network is made for."""

    shape: tuple[int, int, int] = Field(description="channels, height, width", strict=False)
    levels: Literal[2, 256] = 256
    range: tuple[float, float] = Field(default=(-1.0, 1.0), description="of x, the model input", strict=False)

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        channels, height, width = self.shape
        if channels not in (1, 3) or not 8 <= height <= 64 or not 8 <= width <= 64:
            raise ValueError(f"shape {self.shape} is outside 1×8×8 … 3×64×64 (channels 1 or 3)")
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range {self.range} must rise")
        return self


class LikelihoodConfig(Strict):
    """The discrete distribution of a pixel given z."""

    name: Literal["bernoulli", "beta-binomial", "logistic-mixture"]
    components: int = Field(default=1, ge=1, le=64, description="of the mixture; 1 elsewhere")

    @model_validator(mode="after")
    def _components_belong_to_the_mixture(self) -> Self:
        if self.name != "logistic-mixture" and self.components != 1:
            raise ValueError(f"{self.name} has no components, got components = {self.components}")
        return self


class VAEConfig(Strict):
    """Everything needed to build a VAE, weights aside."""

    family: Literal["convolutional", "fully-connected"]
    latent_dim: int = Field(ge=1, le=4096)
    channels: tuple[int, ...] = Field(
        min_length=1,
        max_length=6,
        strict=False,
        description="convolutional: channels of each stage, halving the size; fully-connected: hidden widths",
    )
    blocks: tuple[int, ...] = Field(
        default=(), max_length=6, strict=False, description="residual blocks of each convolutional stage"
    )
    likelihood: LikelihoodConfig
    input: InputConfig
    clamp: tuple[float, float] = Field(default=(-12.0, 6.0), description="of logvar", strict=False)

    @model_validator(mode="after")
    def _blocks_fit_the_family(self) -> Self:
        stages = len(self.channels) if self.family == "convolutional" else 0
        if len(self.blocks) != stages:
            raise ValueError(f"blocks must have {stages} entries for this family, got {self.blocks}")
        return self

    @model_validator(mode="after")
    def _levels_fit_the_likelihood(self) -> Self:
        if (self.likelihood.name == "bernoulli") != (self.input.levels == 2):
            raise ValueError(f"{self.likelihood.name} does not describe {self.input.levels} levels")
        return self
