"""Payloads, made: images as bytes, without loss or with as much as is allowed.

images ─► chunks of 2^16 levels or so ─► a stream each ─► header, lengths, CRCs, streams
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from codec.chunk import coarsened, encode_chunks, encode_fast_chunk
from codec.classical import (
    LOSSY_CHANNELS,
    LOSSY_METHOD,
    decode_classical,
    encode_classical,
    encode_lossy_classical,
)
from codec.ladder import RUNGS, RUNGS_OF_LATENTS, Modes
from codec.lossy import (
    BEST_QUALITY,
    Costs,
    at_quality,
    best_at_quality,
    encode_lossy_chunk,
    in_parts,
    least_cost,
    rung_costs,
    squared_errors,
    within_cost,
)
from codec.model import CodecModel
from codec.payload import (
    CLASSICAL_VERSION,
    CRC_BYTES,
    LARGEST_ERROR,
    MAGIC,
    MAX_LEVELS,
    VERSION,
    Each,
    Images,
    Kind,
    PayloadError,
    Shape,
    check_levels,
    check_shape,
    crc,
    images_a_chunk,
    times,
    varint,
)
from codec.rans import COSTS_A_BIT

CLASSICAL_MARGIN = 1.5  # a quick attempt that is longer by as much is not worth a slow one
Effort = Literal["best", "fast"]
KINDS: dict[Effort, Kind] = {"best": Kind.BEST, "fast": Kind.FAST}
NEAR_KINDS: dict[Effort, Kind] = {"best": Kind.NEAR_BEST, "fast": Kind.NEAR_FAST}
RUNGS_TRIED: dict[Effort, int] = {"best": RUNGS, "fast": RUNGS_OF_LATENTS}
COSTS_A_BYTE = 8 * COSTS_A_BIT
WEBP_QUALITIES = (0, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80)  # above, levels do better
MAX_WEBP_QUALITY = 100
# A step of quality may take a fifth more bytes; between two of them lie what these make.
WEBP_FRACTIONS = np.arange(-1, 2, 0.25)
WEBP_METHODS = (2, 4, 5, 6)


class Manner(NamedTuple):
    """How images are to be coded: how hard to try, and how much may be lost, said in one way at most."""

    effort: Effort = "best"
    max_error: int = 0  # of a level
    quality: int | None = None  # 1 … 99
    target_bytes: int | None = None  # of the payload
    searches_latents: bool = False  # for each image, with effort best, lossless or within a max_error

    @property
    def takes_a_rung(self) -> bool:
        """Whether each image takes a rung of the ladder."""
        return self.quality is not None or self.target_bytes is not None


LOSSLESS = Manner()


class Stream(NamedTuple):
    """A coded chunk."""

    content: bytes
    is_classical: bool
    images: Images  # that come back

    def crc(self, start: int) -> int:
        """Return the CRC-32 of what `start` is that of, and the chunk."""
        return crc(start, self.images, self.content if self.is_classical else b"")


def is_learned(payload: bytes) -> bool:
    """Return whether a payload that was made here names a model."""
    return payload[len(MAGIC)] % 16 != Kind.CLASSICAL


class MannerError(PayloadError):
    """A manner in which the images cannot be coded: what was asked for, and what can be had."""

    def __init__(self, message: str, value: object, limit: object) -> None:
        super().__init__(message)
        self.value, self.limit = value, limit


def compress(images: Images, model: CodecModel | None, manner: Manner = LOSSLESS, each: Each = map) -> bytes:
    """Return a payload: with the model where the images have its shape, without one otherwise.

    Raises PayloadError for other than 1, 3 or 4 channels, sides over 8192, no or too many images;
    MannerError for a manner out of range, a lossy one for images of another shape, a target too small.

    Chunks are coded by `each`: map, or an executor's, for several at a time.
    """
    parts = divided(images, model, manner)
    model = model_for(images.shape[1:], model)
    if manner.target_bytes is not None:
        assert model is not None
        return _compress_to_size(parts, model, manner, manner.target_bytes, each)
    return assembled(list(each(lambda part: encoded([part], model, manner)[0], parts)), model, manner)


def model_for(shape: Sequence[int], model: CodecModel | None) -> CodecModel | None:
    """Return the model if images of a shape are coded with it."""
    return model if model is not None and model.config.shape == tuple(shape) else None


def divided(images: Images, model: CodecModel | None, manner: Manner) -> list[Images]:
    """Return the images of each chunk; raise PayloadError as `compress` does."""
    count, *dimensions = images.shape
    shape: Shape = (dimensions[0], dimensions[1], dimensions[2])
    check_shape(shape)
    check_levels(count, shape, MAX_LEVELS)
    _check_manner(manner, model, shape)
    size = images_a_chunk(shape)
    return [images[i : i + size] for i in range(0, count, size)]


def _check_manner(manner: Manner, model: CodecModel | None, shape: Shape) -> None:
    error, quality = manner.max_error, manner.quality
    if not 0 <= error <= LARGEST_ERROR:
        raise MannerError(f"max_error is {error}, outside 0 … {LARGEST_ERROR}", error, LARGEST_ERROR)
    if quality is not None and not 1 <= quality <= BEST_QUALITY:
        raise MannerError(f"quality is {quality}, outside 1 … {BEST_QUALITY}", quality, BEST_QUALITY)
    wanted = {"max_error": error or None, "quality": quality, "target_bytes": manner.target_bytes}
    given = [f"{name} = {value}" for name, value in wanted.items() if value is not None]
    if len(given) > 1:
        both = " and ".join(given)
        raise MannerError(f"{both} together; one of them at most", both, None)
    if manner.searches_latents and (manner.effort != "best" or manner.takes_a_rung):
        other = given[0] if manner.takes_a_rung else f"effort {manner.effort}"
        raise MannerError(f"latents are searched for with effort best alone, not with {other}", other, "best")
    if manner.takes_a_rung and model is None:
        raise MannerError(f"{given[0]} needs a model with a codec, and there is none", given[0], None)
    if manner.takes_a_rung and model is not None and model.config.shape != shape:
        expected, found = times(model.config.shape), times(shape)
        message = f"{given[0]} needs images of the model's shape {expected}, these are {found}"
        raise MannerError(message, found, expected)


def encoded(parts: Sequence[Images], model: CodecModel | None, manner: Manner) -> list[Stream]:
    """Return a stream for each part that `divided` gave: the shortest, or the best bargain at a quality.

    Not for a manner with `target_bytes`, which all parts share.
    """
    if manner.quality is not None:
        assert model is not None
        return [_encoded_at_quality(part, model, manner.quality, manner.effort) for part in parts]
    if manner.max_error:
        parts = [coarsened(part, manner.max_error) for part in parts]
    if model is None:
        is_quick = manner.effort == "fast"
        return [Stream(encode_classical(part, quick=is_quick), True, part) for part in parts]
    if manner.effort == "fast":
        return [_shorter_fast(part, encode_fast_chunk(model, part, manner.max_error)) for part in parts]
    learned = encode_chunks(model, parts, manner.max_error, manner.searches_latents)
    return [_shorter(part, stream) for part, stream in zip(parts, learned, strict=True)]


def assembled(streams: Sequence[Stream], model: CodecModel | None, manner: Manner) -> bytes:
    """Return the payload of the streams that `encoded` gave."""
    if all(stream.is_classical for stream in streams):
        model = None
    channels, height, width = streams[0].images.shape[1:]
    count = sum(len(stream.images) for stream in streams)
    version = CLASSICAL_VERSION if any(stream.is_classical for stream in streams) else VERSION
    head = MAGIC + _head(version, manner, model, (channels, height, width), count)
    lengths = b"".join(varint(2 * len(stream.content) + stream.is_classical) for stream in streams)
    start = zlib.crc32(head)
    crcs = b"".join(stream.crc(start).to_bytes(CRC_BYTES, "big") for stream in streams)
    contents = b"".join(stream.content for stream in streams)
    return head + (lengths if len(streams) > 1 else b"") + crcs + contents


def _encoded_at_quality(images: Images, model: CodecModel, quality: int, effort: Effort) -> Stream:
    modes = at_quality(rung_costs(model, images, RUNGS_TRIED[effort]), quality)
    streams = [_encoded_in_modes(images, model, modes)]
    if _may_be_lossy_webp(images, effort):
        streams += [_lossy_webp(images, quality) for quality in WEBP_QUALITIES]
    errors = [squared_errors(stream.images, images).sum() for stream in streams]
    costs = [COSTS_A_BYTE * len(stream.content) for stream in streams]
    return streams[best_at_quality(Costs(np.array([errors]), np.array([costs])), quality)]


def _may_be_lossy_webp(images: Images, effort: Effort) -> bool:
    # Grey images never gain by it: their models do better at every rate.
    return effort == "best" and images.shape[1] == LOSSY_CHANNELS


def _lossy_webp(images: Images, quality: float, method: int = LOSSY_METHOD) -> Stream:
    content = encode_lossy_classical(images, quality, method)
    count, channels, height, width = images.shape
    return Stream(content, True, decode_classical(content, (channels, height, width), count))


def _encoded_in_modes(images: Images, model: CodecModel, modes: Modes) -> Stream:
    content, levels = encode_lossy_chunk(model, images, modes)
    classical = encode_classical(images)  # which may be shorter still, of drawings and the like
    if len(classical) < len(content):
        return Stream(classical, True, images)
    return Stream(content, False, levels)


def _compress_to_size(
    parts: Sequence[Images], model: CodecModel, manner: Manner, target_bytes: int, each: Each
) -> bytes:
    """Return a payload of as many bytes at most, with little error; without loss where that fits."""
    other_bytes = len(assembled([Stream(b"", False, part) for part in parts], model, manner))
    if target_bytes <= other_bytes:
        message = f"target_bytes is {target_bytes}; what is not the images takes {other_bytes}"
        raise MannerError(message, target_bytes, other_bytes)
    lossless = list(each(lambda part: encoded([part], model, Manner(manner.effort))[0], parts))
    payload = assembled(lossless, model, Manner(manner.effort))
    if len(payload) <= target_bytes:
        return payload
    tried = list(each(lambda part: rung_costs(model, part, RUNGS_TRIED[manner.effort]), parts))
    costs = Costs(*(np.concatenate(arrays) for arrays in zip(*tried, strict=True)))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    while True:
        most = (target_bytes - other_bytes) * COSTS_A_BYTE
        least = least_cost(costs)
        rungs, left = within_cost(costs, max(most, least))
        modes = in_parts(model, parts[0][:1], costs, rungs, left)
        of_parts = zip(parts, *(np.split(of_images, ends) for of_images in modes), strict=True)
        streams = list(each(lambda of: _encoded_in_modes(of[0], model, Modes(*of[1:])), of_parts))
        payload = assembled(streams, model, manner)
        if len(payload) <= target_bytes:
            return _or_lossy_webp(parts, streams, payload, manner)
        if most <= least:
            message = f"target_bytes is {target_bytes}; these images need {len(payload)} at least"
            raise MannerError(message, target_bytes, len(payload))
        other_bytes += len(payload) - target_bytes  # streams end with whole bytes, and lengths take some


def _or_lossy_webp(
    parts: Sequence[Images], streams: Sequence[Stream], payload: bytes, manner: Manner
) -> bytes:
    """Return a payload of WebP where that keeps to as many bytes with less error; of a single chunk alone."""
    [images, *others] = parts
    if others or not _may_be_lossy_webp(images, manner.effort):
        return payload
    assert manner.target_bytes is not None
    room = manner.target_bytes - len(assembled([Stream(b"", True, images)], None, manner))
    best, best_error = streams[0], squared_errors(streams[0].images, images).sum()
    for quality, method in _webp_manners(images, room):
        stream = _lossy_webp(images, quality, method)
        if len(stream.content) > room:
            continue
        if (error := squared_errors(stream.images, images).sum()) < best_error:
            best, best_error = stream, error
    return payload if best is streams[0] else assembled([best], None, manner)


def _webp_manners(images: Images, most: int) -> Iterator[tuple[float, int]]:
    """Yield the qualities and methods of WebP around the highest quality that keeps to so many bytes."""
    low, high = -1, MAX_WEBP_QUALITY
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode_lossy_classical(images, middle)) > most:
            high = middle - 1
        else:
            low = middle
    for quality in low + WEBP_FRACTIONS:
        if 0 <= quality <= MAX_WEBP_QUALITY:
            yield from ((quality, method) for method in WEBP_METHODS)


def _shorter(images: Images, stream: bytes) -> Stream:
    quick = min(len(encode_classical(images, quick=True)), len(zlib.compress(images.tobytes(), 1)))
    if quick < CLASSICAL_MARGIN * len(stream):
        classical = encode_classical(images)
        if len(classical) < len(stream):
            return Stream(classical, True, images)
    return Stream(stream, False, images)


def _shorter_fast(images: Images, stream: bytes) -> Stream:
    # Trying WebP each time would cost more than coding does.
    if min(len(zlib.compress(images.tobytes(), 1)), images.size) < len(stream):
        classical = encode_classical(images, quick=True)
        if len(classical) < len(stream):
            return Stream(classical, True, images)
    return Stream(stream, False, images)


def _head(version: int, manner: Manner, model: CodecModel | None, shape: Shape, count: int) -> bytes:
    if model is None:
        start = bytes([16 * version + Kind.CLASSICAL, shape[0]])
        return start + varint(shape[1]) + varint(shape[2]) + varint(count)
    if manner.takes_a_rung:
        start = bytes([16 * version + Kind.LOSSY])
    elif manner.max_error == 0:
        start = bytes([16 * version + KINDS[manner.effort]])
    else:
        start = bytes([16 * version + NEAR_KINDS[manner.effort], manner.max_error])
    return start + model.prefix + varint(count)
