"""Payloads, read: images out of bytes. FORMAT.md lays the bytes out.

payload ─► header, lengths, CRCs, streams ─► images of each chunk

`encoding` makes them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import UInt8

from codec.chunk import Coded, decode_chunks, decode_fast_chunk
from codec.classical import MAX_SHEET_SIDE, MAX_SIDE, MODES, decode_classical
from codec.context import FAST_LANES
from codec.lossy import decode_lossy_chunk
from codec.model import DIGEST_BYTES, CodecModel
from codec.rans import StreamError

MAGIC = b"V\xc6"
VERSION, CLASSICAL_VERSION = 1, 2  # of payloads with classical streams, which had the first one before
ARCHIVE = 15  # where a payload has its kind: see archive.py
MAX_LEVELS = 1 << 28  # of a payload's images together
CHUNK_LEVELS = 1 << 16  # of a chunk's images together, or one image
MAX_VARINT_BYTES = 5
CRC_BYTES = 4
Images = UInt8[np.ndarray, "image channel height width"]
Shape = tuple[int, int, int]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class PayloadError(ValueError):
    """Bytes that are no payload, or none that this version reads."""


class UnknownModelError(PayloadError):
    """A payload of a model that is not at hand."""


class Kind(IntEnum):
    """How a payload's images are coded."""

    CLASSICAL = 0  # no model: WebP, lossy only where loss was asked for, or plain bytes
    BEST = 1  # latents, then each level given them and the levels before it
    FAST = 2  # each level given a few of the levels before it
    NEAR_BEST = 3  # the same of levels that may differ, by no more than the payload says
    NEAR_FAST = 4
    LOSSY = 5  # latents alone, or latents and levels that may differ, as each image's mode says


@dataclass(frozen=True)
class Chunk:
    """Some of a payload's images, coded."""

    first: int  # index of its first image
    count: int
    shape: Shape
    kind: Kind
    model: CodecModel | None  # None where the kind is classical
    max_error: int
    stream: bytes
    crc: int
    crc_of_head: int  # its beginning, which the chunks share
    is_stream_summed: bool  # too, as not every bit of a WebP file makes a difference to its images

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of its images, decoded."""
        return self.count * math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a payload says of itself, and its chunks."""

    kind: Kind
    model: CodecModel | None
    shape: Shape
    count: int
    chunks: tuple[Chunk, ...]


TOGETHER = (Kind.BEST, Kind.NEAR_BEST)  # the networks see several chunks at once
LARGEST_ERROR = 127


def images_a_chunk(shape: Shape) -> int:
    """Return how many images of a shape share a chunk."""
    channels, height, width = shape
    size = max(1, min(CHUNK_LEVELS // (channels * height * width), MAX_SHEET_SIDE // height))
    return size - size % FAST_LANES if size > FAST_LANES else size  # whole groups are coded in less time


def parsed(
    payload: bytes, find: Callable[[bytes], CodecModel | None], max_levels: int = MAX_LEVELS
) -> Header:
    """Read a payload's header; `find` gives the model of a digest's first bytes.

    Raises PayloadError for bytes that are no payload or declare more than `max_levels`, UnknownModelError for
    a model that is not found. Nothing of a declared size is allocated.
    """
    reader = Reader(payload)
    if reader.take(len(MAGIC)) != MAGIC:
        raise PayloadError("not a payload: it does not begin with 56 c6")
    version, kind = divmod(reader.take(1)[0], 16)
    if version not in (VERSION, CLASSICAL_VERSION):
        known = f"only {VERSION} and {CLASSICAL_VERSION}"
        raise PayloadError(f"version {version} is not known here, {known}")
    if kind not in list(Kind):
        raise PayloadError(f"kind {kind} is not known here, only 0 … {max(Kind)}")
    model, max_error = None, 0
    if kind == Kind.CLASSICAL:
        shape = (reader.take(1)[0], reader.varint(), reader.varint())
        check_shape(shape)
    else:
        if kind in (Kind.NEAR_BEST, Kind.NEAR_FAST):
            max_error = reader.take(1)[0]
            if not 1 <= max_error <= LARGEST_ERROR:
                raise PayloadError(f"the largest error is {max_error}, outside 1 … {LARGEST_ERROR}")
        prefix = reader.take(DIGEST_BYTES)
        model = find(prefix)
        if model is None:
            raise UnknownModelError(f"made with model {prefix.hex()}, which is not at hand")
        shape = model.config.shape
    count = reader.varint()
    check_levels(count, shape, max_levels)
    crc_of_head = zlib.crc32(payload[: reader.place])
    size = images_a_chunk(shape)
    firsts = range(0, count, size)
    if len(firsts) * CRC_BYTES > len(payload):
        raise PayloadError(
            f"{count} images need {len(firsts)} chunks, more than {len(payload)} bytes can hold"
        )
    lengths = [reader.varint() for _ in firsts] if len(firsts) > 1 else None
    crcs = [int.from_bytes(reader.take(CRC_BYTES), "big") for _ in firsts]
    if lengths is None:
        lengths = [2 * (len(payload) - reader.place) + (kind == Kind.CLASSICAL)]
    if kind == Kind.CLASSICAL and not all(length % 2 for length in lengths):
        raise PayloadError("a chunk is said to be learned, in a payload without a model")
    chunks = []
    for first, length, crc in zip(firsts, lengths, crcs, strict=True):
        is_classical = length % 2 == 1
        of_chunk = (Kind.CLASSICAL, None) if is_classical else (Kind(kind), model)
        stream = reader.take(length // 2)
        images = min(size, count - first)
        is_summed = is_classical and version == CLASSICAL_VERSION
        chunks.append(Chunk(first, images, shape, *of_chunk, max_error, stream, crc, crc_of_head, is_summed))
    reader.check_end()
    return Header(Kind(kind), model, shape, count, tuple(chunks))


def decompress(header: Header, each: Each = map) -> Images:
    """Return every image; raise PayloadError for streams that are damaged."""
    return joined(list(each(lambda chunk: decoded([chunk])[0], header.chunks)))


def chunk_of(header: Header, index: int) -> tuple[Chunk, int]:
    """Return the chunk of an image, and the image's place in it; raise PayloadError for one outside."""
    if not 0 <= index < header.count:
        raise PayloadError(f"index {index} is outside 0 … {header.count - 1}")
    size = images_a_chunk(header.shape)
    return header.chunks[index // size], index % size


def decompress_one(header: Header, index: int) -> Images:
    """Return image `index`, as a batch of one, decoding its chunk alone."""
    chunk, place = chunk_of(header, index)
    return joined(decoded([chunk]))[place, None]


def decoded(chunks: Sequence[Chunk]) -> list[Images | PayloadError]:
    """Return the images of each chunk, or what is wrong with it; those that are learned share a model."""
    together = [chunk for chunk in chunks if chunk.kind in TOGETHER]
    found: Iterator[Images | StreamError] = iter(())
    if together:
        assert together[0].model is not None
        coded = [Coded(chunk.stream, chunk.count, chunk.max_error) for chunk in together]
        found = iter(decode_chunks(together[0].model, coded))
    return [
        _checked(chunk, next(found) if chunk.kind in TOGETHER else _decoded_alone(chunk)) for chunk in chunks
    ]


def joined(parts: Sequence[Images | PayloadError]) -> Images:
    """Return the images of every chunk; raise the first error among them."""
    images = []
    for part in parts:
        if isinstance(part, PayloadError):
            # Anew: its traceback would lead to this one, through an array of objects perhaps, and Python's
            # collector does not look into those for what nobody needs any more.
            raise PayloadError(*part.args)
        images.append(part)
    return np.concatenate(images)


def _decoded_alone(chunk: Chunk) -> Images | StreamError:
    try:
        if chunk.model is None:
            return decode_classical(chunk.stream, chunk.shape, chunk.count)
        if chunk.kind is Kind.LOSSY:
            return decode_lossy_chunk(chunk.model, chunk.stream, chunk.count)
        return decode_fast_chunk(chunk.model, chunk.stream, chunk.count, chunk.max_error)
    except StreamError as error:
        return error


def _checked(chunk: Chunk, images: Images | StreamError) -> Images | PayloadError:
    which = f"images {chunk.first} … {chunk.first + chunk.count - 1}"
    if isinstance(images, StreamError):
        return PayloadError(f"{which}: {images}")
    if crc(chunk.crc_of_head, images, chunk.stream if chunk.is_stream_summed else b"") != chunk.crc:
        return PayloadError(f"{which}: damaged, their CRC-32 is not the payload's")
    return images


def check_shape(shape: Shape) -> None:
    """Raise PayloadError for images that no payload holds."""
    channels, height, width = shape
    if channels not in MODES or not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
        raise PayloadError(f"shape {times(shape)} is outside 1, 3 or 4 channels, sides of 1 … {MAX_SIDE}")


def check_levels(count: int, shape: Shape, limit: int) -> None:
    """Raise PayloadError for no images, or too many levels."""
    levels = count * shape[0] * shape[1] * shape[2]
    if not 0 < levels <= limit:
        raise PayloadError(f"{count} images of {times(shape)}: {levels} levels, outside 1 … {limit}")


def times(shape: Shape) -> str:
    """Return a shape as text."""
    return "×".join(map(str, shape))


def crc(start: int, images: Images, stream: bytes = b"") -> int:
    """Return the CRC-32 of what `start` is that of, images, and a stream."""
    return zlib.crc32(stream, zlib.crc32(images.transpose(0, 2, 3, 1).tobytes(), start))


def varint(number: int) -> bytes:
    """Return seven bits a byte, the lowest first, the eighth set on all bytes but the last (as LEB128)."""
    head = bytearray()
    while number >= 128:
        head.append(number % 128 + 128)
        number //= 128
    return bytes(head) + bytes([number])


class Reader:
    """Bytes taken one after the other; every fault is a PayloadError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if self.place + size > len(self.data):
            raise PayloadError(f"ends after {len(self.data)} bytes, at least {self.place + size} expected")
        self.place += size
        return self.data[self.place - size : self.place]

    def count(self) -> int:
        """Return a number of things that need a byte each, at least."""
        number = self.varint()
        if number > len(self.data):
            raise PayloadError(f"{number} parts are declared, more than there are bytes: {len(self.data)}")
        return number

    def check_end(self) -> None:
        """Raise PayloadError where bytes are left."""
        if left := len(self.data) - self.place:
            raise PayloadError(f"{left} bytes are left over at the end")

    def varint(self) -> int:
        """Return a number written by `varint`."""
        number = 0
        for i in range(MAX_VARINT_BYTES):
            byte = self.take(1)[0]
            number += byte % 128 << 7 * i
            if byte < 128:
                if byte == 0 and i:
                    break
                return number
        raise PayloadError(f"a number of more than {MAX_VARINT_BYTES} bytes, or ending with a zero byte")
