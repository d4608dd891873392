"""codec.safetensors: the integer networks and the tables of one trained VAE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as dump_safetensors

from codec.context import (
    FAST_LANES,
    FAST_LAYERS,
    INPUTS,
    LANES,
    ContextNetwork,
    Network,
    context_faults,
    packed_network,
)
from codec.integer import Layer
from codec.ladder import STEPS, ladder_faults
from codec.latents import LatentTables, latent_faults, within
from codec.mixture import LOGISTIC_ENTRIES, LOGITS, SCALES, MixtureTables, table_faults
from codec.networks import Doubling, Features, Halving, IntegerDecoder, IntegerEncoder, Latents, Levels
from models.bundle_files import Layout, layout_faults
from models.config import MAX_WIDTH, Blocks, Channels, Strict, Width
from models.vae import stage_sizes

FILE = "codec.safetensors"
DIGEST_BYTES = 4  # of the file's SHA-256, in a payload


class CodecError(Exception):
    """A codec that cannot be used, with every fault found in it."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.path, self.faults = path, faults
        super().__init__("\n  - ".join([f"codec {path}: {len(faults)} fault(s)", *faults]))


Side = Annotated[int, Field(ge=8, le=64)]
FeatureCount = Annotated[int, Field(ge=0, le=MAX_WIDTH)]


class FastConfig(Strict):
    """The sizes of the network that codes without latents; it has two hidden layers."""

    reach: int = Field(ge=1, le=8, description="of the context, in pixels")
    hidden: Width
    components: int = Field(ge=1, le=64, description="of a level's mixture")


class CodecConfig(Strict):
    """The networks' sizes."""

    format_version: Literal[1] = 1
    shape: tuple[Literal[1, 3], Side, Side] = Field(description="channels, height, width", strict=False)
    latent_dim: Width
    channels: Channels
    blocks: Blocks
    padding: int = Field(ge=-128, le=127, description="around an image, less 128")
    reach: int = Field(ge=1, le=8, description="of the context, in pixels")
    features: FeatureCount = Field(description="of the decoder, a pixel; 0 codes levels without latents")
    hidden: Width
    layers: int = Field(ge=1, le=8, description="hidden layers of the context network")
    components: int = Field(ge=1, le=64, description="of a level's mixture")
    fast: FastConfig

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if not 1 <= len(self.channels) == len(self.blocks):
            raise ValueError(f"channels {self.channels} and blocks {self.blocks} must have a stage each")
        return self


class Golden(NamedTuple):
    """Images and their streams: what every machine must make of each other."""

    levels: UInt8[np.ndarray, "image channel height width"]
    stream: UInt8[np.ndarray, " byte"]
    fast_stream: UInt8[np.ndarray, " byte"]
    lossy_stream: UInt8[np.ndarray, " byte"]  # on rungs up and down the ladder
    lossy_levels: UInt8[np.ndarray, "image channel height width"]  # what comes back of it


NO_GOLDEN = Golden(*(np.zeros(shape, np.uint8) for shape in ((0, 1, 1, 1), 0, 0, 0, (0, 1, 1, 1))))


@dataclass(frozen=True, repr=False)
class CodecModel:
    """Everything that coding needs; `digest` is the SHA-256 of the file."""

    config: CodecConfig
    encoder: IntegerEncoder
    decoder: IntegerDecoder | None  # none where levels are coded without latents
    pictures: IntegerDecoder  # of latents alone
    context: ContextNetwork
    fast: ContextNetwork
    latents: LatentTables
    ladder: LatentTables
    tables: MixtureTables
    golden: Golden
    digest: bytes = b""

    def __repr__(self) -> str:
        return f"<CodecModel {'×'.join(map(str, self.config.shape))} {self.prefix.hex()}>"

    def latents_of(self, levels: Levels) -> Latents:
        """Return what levels are coded given: an image's integer latents, or none of them."""
        if self.decoder is None:
            return np.zeros((len(levels), 0), np.int8)
        return within(self.encoder.latents(levels), self.latents)

    def features_of(self, k: Latents) -> Features:
        """Return each pixel's features, given those latents."""
        if self.decoder is None:
            return np.zeros((len(k), *self.config.shape[1:], 0), np.int16)
        return self.decoder.features(k)

    @cached_property
    def best_network(self) -> Network:
        """The context network as it is run."""
        return packed_network(self.context, self.config.features, LANES)

    @cached_property
    def fast_network(self) -> Network:
        """The fast network as it is run."""
        return packed_network(self.fast, 0, FAST_LANES)

    @property
    def prefix(self) -> bytes:
        """What a payload names the model by."""
        return self.digest[:DIGEST_BYTES]


FREE_SIZES = (  # of their first axis
    "latents.starts",
    "ladder.starts",
    "golden.levels",
    "golden.stream",
    "golden.fast_stream",
    "golden.lossy_stream",
    "golden.lossy_levels",
)
LayerOf = Callable[[str, int, int], Layer]  # by name, number of inputs, number of outputs


def save_codec(path: Path, model: CodecModel) -> None:
    """Write codec.safetensors to `path`."""
    path.write_bytes(dumped(model))


def dumped(model: CodecModel) -> bytes:
    """Return the content of codec.safetensors."""
    networks: dict[str, IntegerEncoder | IntegerDecoder] = {
        "encoder": model.encoder,
        "pictures": model.pictures,
    }
    if model.decoder is not None:
        networks["decoder"] = model.decoder
    arrays = {
        f"{part}.{name}.{field}": getattr(layer, field)
        for part, network in networks.items()
        for name, layer in network.layers().items()
        for field in ("weight", "bias", "shift")
    }
    groups: dict[str, ContextNetwork | LatentTables | MixtureTables | Golden] = {
        "context": model.context,
        "fast": model.fast,
        "latents": model.latents,
        "ladder": model.ladder,
        "tables": model.tables,
        "golden": model.golden,
    }
    for part, group in groups.items():
        arrays |= {f"{part}.{field}": array for field, array in group._asdict().items()}
    # The library writes the memory of an array, not its elements: a view would come back scrambled.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return dump_safetensors(contiguous, {"config": model.config.model_dump_json()})


def load_codec(path: Path) -> CodecModel:
    """Load codec.safetensors, its golden images not yet tried: see `codec.chunk.verified`.

    Raises CodecError naming every fault at once: an invalid config, missing and unexpected tensors, wrong
    dtypes and shapes, sums that might not be exact, tables that an entropy coder cannot use.
    """
    try:
        content = path.read_bytes()
        arrays = parse_safetensors(content)
        config = CodecConfig.model_validate_json(_metadata(content)["config"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodecError(path, [f"{type(error).__name__}: {error}"]) from error
    if faults := layout_faults(arrays, _layout(config, arrays)):
        raise CodecError(path, faults)
    parts = {
        name: _part(arrays, name) for name in ("context", "fast", "latents", "ladder", "tables", "golden")
    }
    networks = _networks(config, lambda name, _inputs, _outputs: Layer(**_part(arrays, name)))
    model = CodecModel(
        config,
        *networks,
        ContextNetwork(**parts["context"]),
        ContextNetwork(**parts["fast"]),
        LatentTables(**parts["latents"]),
        LatentTables(**parts["ladder"]),
        MixtureTables(**parts["tables"]),
        Golden(**parts["golden"]),
        hashlib.sha256(content).digest(),
    )
    faults = [
        *model.encoder.faults(),
        *(model.decoder.faults("decoder") if model.decoder is not None else ()),
        *model.pictures.faults("pictures"),
        *context_faults("context", model.context, config.reach),
        *context_faults("fast", model.fast, config.fast.reach),
        *latent_faults("latents", model.latents),
        *ladder_faults(model.ladder),
        *table_faults(model.tables),
    ]
    if faults:
        raise CodecError(path, faults)
    return model


def _metadata(content: bytes) -> dict[str, str]:
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    return metadata


def _part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    }


def _networks(
    config: CodecConfig, layer: LayerOf
) -> tuple[IntegerEncoder, IntegerDecoder | None, IntegerDecoder]:
    """Build the encoder, the decoder that gives features if any, and the one that gives levels."""
    channels, height, width = config.shape
    sizes = stage_sizes(height, width, len(config.channels))
    bottom = sizes[-1][0] * sizes[-1][1]

    def blocks(part: str, stage: int, number: int, size: int) -> tuple[tuple[Layer, Layer], ...]:
        names = (f"{part}.stages.{stage}.blocks.{b}" for b in range(number))
        return tuple(
            (layer(f"{name}.first", 9 * size, size), layer(f"{name}.second", 9 * size, size))
            for name in names
        )

    halvings = []
    for s, (size, number) in enumerate(zip(config.channels, config.blocks, strict=True)):
        inputs = 25 * channels if s == 0 else 9 * config.channels[s - 1]
        halving = layer(f"encoder.stages.{s}.convolution", inputs, size)
        halvings.append(Halving(halving, blocks("encoder", s, number, size)))
    last = layer("encoder.linear", bottom * config.channels[-1], config.latent_dim)
    encoder = IntegerEncoder(tuple(halvings), last, config.padding)

    def decoder(part: str, outputs: int) -> IntegerDecoder:
        first = layer(f"{part}.linear", config.latent_dim, bottom * config.channels[-1])
        doublings = []
        widths = [*config.channels[-2::-1], outputs]
        stages = zip(config.channels[::-1], config.blocks[::-1], widths, strict=True)
        for s, (size, number, after) in enumerate(stages):
            of_stage = blocks(part, s, number, size)
            doublings.append(Doubling(of_stage, layer(f"{part}.stages.{s}.convolution", 9 * size, 4 * after)))
        return IntegerDecoder(first, tuple(doublings), tuple(sizes[::-1]))

    of_features = decoder("decoder", config.features) if config.features else None
    return encoder, of_features, decoder("pictures", channels)


def _layout(config: CodecConfig, arrays: dict[str, np.ndarray]) -> Layout:
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}

    def note(name: str, inputs: int, outputs: int) -> Layer:
        vector = ("int32", (outputs,))
        layout.update(
            {f"{name}.weight": ("int8", (inputs, outputs)), f"{name}.bias": vector, f"{name}.shift": vector}
        )
        nothing = np.zeros(0, np.int32)
        return Layer(nothing, nothing, nothing)

    _networks(config, note)
    layout |= _context_layout("context", config, config.shape[0], config.features, config.layers)
    layout |= _context_layout("fast", config.fast, config.shape[0], 0, FAST_LAYERS)
    sizes = {name: arrays[name].shape[:1] for name in FREE_SIZES if name in arrays and arrays[name].ndim}
    given = config.latent_dim if config.features else 0
    return layout | {
        "latents.lowest": ("int32", (given,)),
        "latents.first": ("int32", (given + 1,)),
        "latents.starts": ("int32", sizes.get("latents.starts", (1,))),
        "ladder.lowest": ("int32", (len(STEPS) * config.latent_dim,)),
        "ladder.first": ("int32", (len(STEPS) * config.latent_dim + 1,)),
        "ladder.starts": ("int32", sizes.get("ladder.starts", (1,))),
        "tables.exponentials": ("int64", (LOGITS,)),
        "tables.steepnesses": ("int64", (SCALES,)),
        "tables.logistic": ("int64", (LOGISTIC_ENTRIES,)),
        "golden.levels": ("uint8", (max(1, sizes.get("golden.levels", (1,))[0]), *config.shape)),
        "golden.stream": ("uint8", sizes.get("golden.stream", (1,))),
        "golden.fast_stream": ("uint8", sizes.get("golden.fast_stream", (1,))),
        "golden.lossy_stream": ("uint8", sizes.get("golden.lossy_stream", (1,))),
        "golden.lossy_levels": ("uint8", (max(1, sizes.get("golden.lossy_levels", (1,))[0]), *config.shape)),
    }


def _context_layout(
    part: str, config: CodecConfig | FastConfig, channels: int, features: int, layers: int
) -> Layout:
    hidden, parameters = config.hidden, 3 * config.components
    context = 2 * config.reach * (config.reach + 1)
    inputs = context * channels + features
    inputs += -inputs % INPUTS
    middle = (channels, layers - 1, hidden)
    return {
        f"{part}.offsets": ("int64", (context, 2)),
        f"{part}.seen_weight": ("int16", (hidden + channels, inputs)),
        f"{part}.own_weight": ("int16", (channels, hidden + 1, channels)),
        f"{part}.first_bias": ("int32", (channels, hidden + 1)),
        f"{part}.first_shift": ("int32", (channels, hidden + 1)),
        f"{part}.middle_weight": ("int16", (*middle, hidden)),
        f"{part}.middle_bias": ("int32", middle),
        f"{part}.middle_shift": ("int32", middle),
        f"{part}.last_weight": ("int16", (channels, parameters, hidden)),
        f"{part}.last_bias": ("int32", (channels, parameters)),
        f"{part}.last_shift": ("int32", (channels, parameters)),
    }
