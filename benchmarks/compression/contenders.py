"""Everything that makes one file of images: our codecs, image formats, general compressors."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import imagecodecs
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from codec.encoding import KINDS, Effort, Manner, compress
from codec.model import CodecModel
from codec.payload import decompress, parsed

Images = UInt8[np.ndarray, "image channel height width"]
Shape = tuple[int, ...]
Sheet = UInt8[np.ndarray, "..."]  # (H, W), or (H, W, 3)
Data = bytes | bytearray


@dataclass(frozen=True)
class Contender:
    """A way to make one file of images, and images of the file: their shape is known to both."""

    name: str
    pack: Callable[[Images], bytes]
    unpack: Callable[[bytes, Shape], Images]


def contenders(codec: CodecModel) -> Iterator[Contender]:
    """Yield our codec in each effort, then the peers at their smallest; one thread each."""
    for effort in KINDS:
        yield _ours(codec, effort)
    yield image_format("JPEG XL, effort 9", _jpeg_xl, imagecodecs.jpegxl_decode)
    yield image_format(
        "WebP, method 6", partial(pillow, format="WEBP", lossless=True, method=6, quality=100), read
    )
    yield image_format("JPEG-LS", imagecodecs.jpegls_encode, imagecodecs.jpegls_decode)
    yield image_format("JPEG 2000", _jpeg_2000, imagecodecs.jpeg2k_decode)
    yield image_format("AVIF, speed 0", _avif, imagecodecs.avif_decode)
    yield image_format("PNG, optimised", partial(pillow, format="PNG", optimize=True), read)
    yield _general(
        "brotli 11", partial(imagecodecs.brotli_encode, level=11, lgwin=24), imagecodecs.brotli_decode
    )
    yield _general("xz 9e", partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress)
    yield _general("bzip2 9", partial(bz2.compress, compresslevel=9), bz2.decompress)
    yield _general("zstd 22", partial(imagecodecs.zstd_encode, level=22), imagecodecs.zstd_decode)
    yield _general("gzip 9", partial(gzip.compress, compresslevel=9, mtime=0), gzip.decompress)


def _ours(codec: CodecModel, effort: Effort) -> Contender:
    def unpack(data: bytes, _: Shape) -> Images:
        return decompress(parsed(data, {codec.prefix: codec}.get))

    return Contender(f"vaeserve, {effort}", lambda images: compress(images, codec, Manner(effort)), unpack)


def image_format(
    name: str, encode: Callable[[Sheet], Data], decode: Callable[[bytes], np.ndarray]
) -> Contender:
    """Return a contender that makes a picture of a sheet of images."""

    def unpack(data: bytes, shape: Shape) -> Images:
        return cells(np.asarray(decode(data)), shape)

    return Contender(name, lambda images: bytes(encode(sheet(images))), unpack)


def _general(name: str, encode: Callable[[bytes], Data], decode: Callable[[bytes], Data]) -> Contender:
    def unpack(data: bytes, shape: Shape) -> Images:
        return np.frombuffer(decode(data), np.uint8).reshape(shape)

    return Contender(name, lambda images: bytes(encode(images.tobytes())), unpack)


def sheet(images: Images) -> Sheet:
    """Lay images out in a near-square grid, what is left over black: (H, W), or (H, W, 3) for colour."""
    count, channels, height, width = images.shape
    columns = math.isqrt(count - 1) + 1
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, channels, height, width), np.uint8)
    grid[:count] = images
    laid = grid.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    laid = laid.reshape(rows * height, columns * width, channels)
    return np.ascontiguousarray(laid[..., 0] if channels == 1 else laid)


def cells(laid: Sheet, shape: Shape) -> Images:
    """Return the images of a sheet."""
    count, channels, height, width = shape
    columns = math.isqrt(count - 1) + 1
    if channels == 1 and laid.ndim == 3:  # a format without grey pictures
        laid = laid[..., :1]
    grid = laid.reshape(math.ceil(count / columns), height, columns, width, channels)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, channels, height, width)[:count]


def _jpeg_xl(picture: Sheet) -> Data:
    return imagecodecs.jpegxl_encode(picture, lossless=True, effort=9, numthreads=1)


def _jpeg_2000(picture: Sheet) -> Data:
    return imagecodecs.jpeg2k_encode(picture, level=0, reversible=True, codecformat="j2k")


def _avif(picture: Sheet) -> Data:
    return imagecodecs.avif_encode(picture, level=100, speed=0, numthreads=1)


def pillow(picture: Sheet, **options: object) -> bytes:
    """Return a picture as Pillow writes it."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(data: bytes) -> np.ndarray:
    """Return a picture as Pillow reads it."""
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)
