"""Everything that makes a file with some loss: our modes and image formats, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np

from benchmarks.compression.contenders import Contender, Data, Images, Shape, image_format, pillow, read
from codec.encoding import Manner, compress
from codec.model import CodecModel
from codec.payload import decompress, parsed

QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
OUR_QUALITIES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
LATENT_QUALITIES = (1, 10, 20, 30, 40, 50)
ERRORS = (1, 2, 4, 8, 16, 32)
DISTANCES = (25.0, 15.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2)


@dataclass(frozen=True)
class Curve:
    """A way to lose more or less, and a contender for each of its settings."""

    name: str
    settings: Sequence[tuple[float, Contender]]


def curves(codec: CodecModel) -> Iterator[Curve]:
    """Yield our lossy modes, then the peers' at their slowest."""
    yield _curve("vaeserve, quality", OUR_QUALITIES, lambda q: _ours(codec, Manner(quality=q)))
    yield _curve(
        "vaeserve, quality, fast", LATENT_QUALITIES, lambda q: _ours(codec, Manner("fast", quality=q))
    )
    yield _curve("vaeserve, max_error", ERRORS, lambda e: _ours(codec, Manner(max_error=e)))
    yield _curve(
        "WebP, method 6", QUALITIES, lambda q: _pillow_format("WebP", format="WEBP", quality=q, method=6)
    )
    yield _curve(
        "JPEG, optimised",
        QUALITIES,
        lambda q: _pillow_format("JPEG", format="JPEG", quality=q, optimize=True),
    )
    yield _curve(
        "AVIF, speed 0", QUALITIES, lambda q: _pillow_format("AVIF", format="AVIF", quality=q, speed=0)
    )
    yield _curve("JPEG XL, effort 9", DISTANCES, lambda d: _jpeg_xl(d))


def _curve(name: str, settings: Sequence[float], contender: Callable[..., Contender]) -> Curve:
    return Curve(name, [(setting, contender(setting)) for setting in settings])


def _ours(codec: CodecModel, manner: Manner) -> Contender:
    def unpack(data: bytes, _: Shape) -> Images:
        return decompress(parsed(data, {codec.prefix: codec}.get))

    return Contender("vaeserve", lambda images: compress(images, codec, manner), unpack)


def _pillow_format(name: str, **options: Any) -> Contender:
    return image_format(name, lambda picture: pillow(picture, **options), read)


def _jpeg_xl(distance: float) -> Contender:
    def encode(picture: np.ndarray) -> Data:
        return imagecodecs.jpegxl_encode(picture, distance=distance, effort=9, numthreads=1)

    return image_format("JPEG XL", encode, imagecodecs.jpegxl_decode)
