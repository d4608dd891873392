"""Payloads: images as bytes, and back. FORMAT.md lays the bytes out.

images ─► chunks of 2^16 levels or so ─► a stream each ─► header, lengths, CRCs, streams
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import UInt8

from codec.chunk import decode_chunk, encode_chunk
from codec.classical import MAX_SHEET_SIDE, MAX_SIDE, MODES, decode_classical, encode_classical
from codec.model import DIGEST_BYTES, CodecModel
from codec.rans import StreamError

MAGIC = b"V\xc6"
VERSION = 1
ARCHIVE = 15  # where a payload has its kind: see archive.py
MAX_LEVELS = 1 << 28  # of a payload's images together
CHUNK_LEVELS = 1 << 16  # of a chunk's images together, or one image
MAX_VARINT_BYTES = 5
CLASSICAL_MARGIN = 1.5  # a quick attempt that is longer by as much is not worth a slow one
_CRC_BYTES = 4
Images = UInt8[np.ndarray, "image channel height width"]
Shape = tuple[int, int, int]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class PayloadError(ValueError):
    """Bytes that are no payload, or none that this version reads."""


class UnknownModelError(PayloadError):
    """A payload of a model that is not at hand."""


class Kind(IntEnum):
    """How a payload's images are coded."""

    CLASSICAL = 0  # no model: lossless WebP, or plain bytes
    BEST = 1  # latents, then each level given them and the levels before it


@dataclass(frozen=True)
class Chunk:
    """Some of a payload's images, and where their bytes are."""

    first: int
    count: int
    classical: bool
    start: int
    end: int
    crc: int


@dataclass(frozen=True)
class Header:
    """What a payload says of itself."""

    kind: Kind
    model: CodecModel | None
    shape: Shape
    count: int
    head: bytes  # what comes before the chunks, which their CRCs cover too
    chunks: tuple[Chunk, ...]


def images_a_chunk(shape: Shape) -> int:
    """Return how many images of a shape share a chunk."""
    channels, height, width = shape
    return max(1, min(CHUNK_LEVELS // (channels * height * width), MAX_SHEET_SIDE // height))


def compress(images: Images, model: CodecModel | None, each: Each = map) -> bytes:
    """Return a payload: with the model where the images have its shape, without one otherwise.

    Raises PayloadError for other than 1, 3 or 4 channels, sides over 8192, and no or too many images.

    Chunks are coded by `each`: map, or an executor's, for several at a time.
    """
    count, *dimensions = images.shape
    shape: Shape = (dimensions[0], dimensions[1], dimensions[2])
    _check_shape(shape)
    _check_levels(count, shape, MAX_LEVELS)
    if model is not None and model.config.shape != shape:
        model = None
    size = images_a_chunk(shape)
    parts = [images[i : i + size] for i in range(0, count, size)]
    streams = list(each(lambda part: _smallest(part, model), parts))
    if all(classical for _, classical in streams):
        model = None
    head = MAGIC + _head(model, shape, count)
    lengths = b"".join(varint(2 * len(stream) + classical) for stream, classical in streams)
    crcs = b"".join(_crc(head, part).to_bytes(_CRC_BYTES, "big") for part in parts)
    return head + (lengths if len(parts) > 1 else b"") + crcs + b"".join(stream for stream, _ in streams)


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
    if version != VERSION:
        raise PayloadError(f"version {version} is not known here, only version {VERSION}")
    if kind not in list(Kind):
        raise PayloadError(f"kind {kind} is not known here, only 0 … {max(Kind)}")
    model = None
    if kind == Kind.CLASSICAL:
        shape = (reader.take(1)[0], reader.varint(), reader.varint())
        _check_shape(shape)
    else:
        prefix = reader.take(DIGEST_BYTES)
        model = find(prefix)
        if model is None:
            raise UnknownModelError(f"made with model {prefix.hex()}, which is not at hand")
        shape = model.config.shape
    count = reader.varint()
    _check_levels(count, shape, max_levels)
    head = payload[: reader.place]
    size = images_a_chunk(shape)
    firsts = range(0, count, size)
    if len(firsts) * _CRC_BYTES > len(payload):
        raise PayloadError(
            f"{count} images need {len(firsts)} chunks, more than {len(payload)} bytes can hold"
        )
    lengths = [reader.varint() for _ in firsts] if len(firsts) > 1 else None
    crcs = [int.from_bytes(reader.take(_CRC_BYTES), "big") for _ in firsts]
    if lengths is None:
        lengths = [2 * (len(payload) - reader.place) + (kind == Kind.CLASSICAL)]
    if kind == Kind.CLASSICAL and not all(length % 2 for length in lengths):
        raise PayloadError("a chunk is said to be learned, in a payload without a model")
    chunks = []
    for first, length, crc in zip(firsts, lengths, crcs, strict=True):
        start = reader.place
        reader.take(length // 2)
        chunks.append(Chunk(first, min(size, count - first), bool(length % 2), start, reader.place, crc))
    reader.check_end()
    return Header(Kind(kind), model, shape, count, head, tuple(chunks))


def decompress(payload: bytes, header: Header, each: Each = map) -> Images:
    """Return every image; raise PayloadError for streams that are damaged."""
    return np.concatenate(list(each(lambda chunk: _decoded(payload, header, chunk), header.chunks)))


def decompress_one(payload: bytes, header: Header, index: int) -> Images:
    """Return image `index`, as a batch of one, decoding its chunk alone."""
    if not 0 <= index < header.count:
        raise PayloadError(f"index {index} is outside 0 … {header.count - 1}")
    size = images_a_chunk(header.shape)
    return _decoded(payload, header, header.chunks[index // size])[index % size, None]


def _smallest(images: Images, model: CodecModel | None) -> tuple[bytes, bool]:
    """Return the shorter stream of the two ways, and whether it is the classical one."""
    if model is None:
        return encode_classical(images), True
    stream = encode_chunk(model, images)
    quick = min(len(encode_classical(images, effort=0)), len(zlib.compress(images.tobytes(), 1)))
    if quick < CLASSICAL_MARGIN * len(stream):
        classical = encode_classical(images)
        if len(classical) < len(stream):
            return classical, True
    return stream, False


def _decoded(payload: bytes, header: Header, chunk: Chunk) -> Images:
    stream = payload[chunk.start : chunk.end]
    try:
        if chunk.classical:
            images = decode_classical(stream, header.shape, chunk.count)
        else:
            assert header.model is not None
            images = decode_chunk(header.model, stream, chunk.count)
    except StreamError as error:
        raise PayloadError(f"images {chunk.first} … {chunk.first + chunk.count - 1}: {error}") from error
    if _crc(header.head, images) != chunk.crc:
        last = chunk.first + chunk.count - 1
        raise PayloadError(f"images {chunk.first} … {last}: damaged, their CRC-32 is not the payload's")
    return images


def _head(model: CodecModel | None, shape: Shape, count: int) -> bytes:
    kind = Kind.CLASSICAL if model is None else Kind.BEST
    start = bytes([16 * VERSION + kind])
    if model is None:
        return start + bytes([shape[0]]) + varint(shape[1]) + varint(shape[2]) + varint(count)
    return start + model.prefix + varint(count)


def _check_shape(shape: Shape) -> None:
    channels, height, width = shape
    if channels not in MODES or not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
        raise PayloadError(f"shape {_times(shape)} is outside 1, 3 or 4 channels, sides of 1 … {MAX_SIDE}")


def _check_levels(count: int, shape: Shape, limit: int) -> None:
    levels = count * shape[0] * shape[1] * shape[2]
    if not 0 < levels <= limit:
        raise PayloadError(f"{count} images of {_times(shape)}: {levels} levels, outside 1 … {limit}")


def _times(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _crc(head: bytes, images: Images) -> int:
    return zlib.crc32(images.transpose(0, 2, 3, 1).tobytes(), zlib.crc32(head))


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
