"""What a network is built from: the part of a bundle's config.json that describes it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_WIDTH = 4096  # channels of a stage, hidden units of a layer, latents
MAX_STAGES = 6
MAX_BLOCKS = 64

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Family = Literal["convolutional", "fully-connected"]
Channels = Annotated[
    tuple[Width, ...],
    Field(
        max_length=MAX_STAGES,
        strict=False,
        description="convolutional: channels of each stage, halving the size; fully-connected: hidden widths",
    ),
]
Blocks = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_BLOCKS)], ...],
    Field(max_length=MAX_STAGES, strict=False, description="residual blocks of each convolutional stage"),
]
Clamp = Annotated[tuple[float, float], Field(description="of logvar", strict=False)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, other types, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
    conditional: bool = Field(
        default=False, description="green given red, blue given both: of a mixture, for three channels"
    )

    @model_validator(mode="after")
    def _options_belong_to_the_mixture(self) -> Self:
        if self.name != "logistic-mixture" and self.components != 1:
            raise ValueError(f"{self.name} has no components, got components = {self.components}")
        if self.name != "logistic-mixture" and self.conditional:
            raise ValueError(f"{self.name} cannot be conditional")
        return self


class NetworkConfig(Strict):
    """A network, but for the images that it is made for."""

    family: Family
    latent_dim: Width
    channels: Channels
    blocks: Blocks = ()
    likelihood: LikelihoodConfig
    clamp: Clamp = (-12.0, 6.0)

    @model_validator(mode="after")
    def _blocks_fit_the_family(self) -> Self:
        if not self.channels:
            raise ValueError("channels must have at least 1 entry")
        stages = len(self.channels) if self.family == "convolutional" else 0
        if len(self.blocks) != stages:
            raise ValueError(f"blocks must have {stages} entries for this family, got {self.blocks}")
        return self

    @model_validator(mode="after")
    def _clamp_rises(self) -> Self:
        if not self.clamp[0] < self.clamp[1]:
            raise ValueError(f"clamp {self.clamp} must rise")
        return self


class VAEConfig(NetworkConfig):
    """Everything needed to build a VAE, weights aside."""

    input: InputConfig

    @model_validator(mode="after")
    def _levels_fit_the_likelihood(self) -> Self:
        if (self.likelihood.name == "bernoulli") != (self.input.levels == 2):
            raise ValueError(f"{self.likelihood.name} does not describe {self.input.levels} levels")
        if self.likelihood.conditional and self.input.shape[0] != 3:
            raise ValueError(
                f"a conditional likelihood needs 3 channels, the images have {self.input.shape[0]}"
            )
        return self
