"""A chunk: some images of the model's shape as one stream.

Latents first, then the pixels given them; or, fast and where the codec has no features, the pixels alone.

levels ─► encoder ─► k ─► slots ──────────────────────────┐
                     └─► decoder ─► features ─► slots ────┴─► stream
stream ─► k ─► decoder ─► features, stream ─► levels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codec import rans
from codec.context import decode_levels, slots_of_levels
from codec.ladder import RUNGS, Modes
from codec.latents import decode_latents, slots_of_latents
from codec.lossy import decode_lossy_chunk, encode_lossy_chunk
from codec.model import CodecError, CodecModel, Golden, load_codec
from codec.networks import Features, Latents, Levels
from codec.rans import StreamError
from codec.search import searched_latents

Slots = tuple[np.ndarray, np.ndarray]  # the first slot of each symbol, and how many it has


def encode_chunks(
    model: CodecModel, chunks: Sequence[Levels], max_error: int = 0, searches_latents: bool = False
) -> list[bytes]:
    """Return the stream of each chunk's images; the networks see all of them together.

    With a `max_error` above 0 the images are those that `coarsened` gives.
    """
    levels = np.concatenate(chunks)
    k = searched_latents(model, levels, max_error) if searches_latents else model.latents_of(levels)
    features = model.features_of(k)
    ends = np.cumsum([len(levels) for levels in chunks])[:-1]
    return [
        _stream(model, *chunk, max_error)
        for chunk in zip(chunks, np.split(k, ends), np.split(features, ends), strict=True)
    ]


def _stream(model: CodecModel, levels: Levels, k: Latents, features: Features, max_error: int) -> bytes:
    return rans.encode(*_slots(model, levels, k, features, max_error))


def _slots(model: CodecModel, levels: Levels, k: Latents, features: Features, max_error: int) -> Slots:
    in_place = np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
    of_latents = slots_of_latents(k, model.latents)
    of_levels = slots_of_levels(in_place, max_error, features, model.best_network, model.tables)
    starts, frequencies = (np.concatenate(parts) for parts in zip(of_latents, of_levels, strict=True))
    return starts, frequencies


class Coded(NamedTuple):
    """A stream, the number of its images, and the largest error that they were allowed."""

    stream: bytes
    images: int
    max_error: int = 0


def decode_chunks(model: CodecModel, chunks: Sequence[Coded]) -> list[Levels | StreamError]:
    """Return the images of each stream, or what is wrong with it."""
    opened = [_latents(model, chunk) for chunk in chunks]
    sound = [start for start in opened if not isinstance(start, StreamError)]
    features: Iterator[Features] = iter(())
    if sound:
        ends = np.cumsum([len(start.k) for start in sound])[:-1]
        features = iter(np.split(model.features_of(np.concatenate([start.k for start in sound])), ends))
    return [
        start if isinstance(start, StreamError) else _levels(model, start, next(features)) for start in opened
    ]


class _Start(NamedTuple):
    """A stream whose latents are decoded."""

    k: Latents
    state: int
    words: np.ndarray
    left: int  # of the words
    max_error: int


def _latents(model: CodecModel, chunk: Coded) -> _Start | StreamError:
    try:
        state, words = rans.opened(chunk.stream)
    except StreamError as error:
        return error
    k, state, count = decode_latents(state, words, len(words), chunk.images, model.latents)
    return _Start(k, state, words, count, chunk.max_error)


def _levels(model: CodecModel, start: _Start, features: Features) -> Levels | StreamError:
    coded = (start.state, start.words, start.left)
    levels, state, count = decode_levels(*coded, features, start.max_error, model.best_network, model.tables)
    try:
        return _ended(levels, state, count)
    except StreamError as error:
        return error


def encode_chunk(model: CodecModel, levels: Levels) -> bytes:
    """Return the stream of images."""
    return encode_chunks(model, [levels])[0]


def decode_chunk(model: CodecModel, stream: bytes, images: int) -> Levels:
    """Return the images of a stream; raise StreamError for one that no encoder wrote."""
    [levels] = decode_chunks(model, [Coded(stream, images)])
    if isinstance(levels, StreamError):
        raise levels
    return levels


def encode_fast_chunk(model: CodecModel, levels: Levels, max_error: int = 0) -> bytes:
    """Return the stream of images, coded without latents."""
    return rans.encode(*_fast_slots(model, levels, max_error))


def _fast_slots(model: CodecModel, levels: Levels, max_error: int) -> Slots:
    in_place = np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
    nothing = _nothing(model, len(levels))
    return slots_of_levels(in_place, max_error, nothing, model.fast_network, model.tables)


def decode_fast_chunk(model: CodecModel, stream: bytes, images: int, max_error: int = 0) -> Levels:
    """Return the images of a stream without latents; raise StreamError for one that no encoder wrote."""
    state, words = rans.opened(stream)
    coded = (state, words, len(words))
    levels, state, left = decode_levels(
        *coded, _nothing(model, images), max_error, model.fast_network, model.tables
    )
    return _ended(levels, state, left)


def shares_of_chunk(model: CodecModel, levels: Levels) -> np.ndarray:
    """Return how many of the TOTAL slots each symbol of a stream of images has."""
    k = model.latents_of(levels)
    return _slots(model, levels, k, model.features_of(k), 0)[1]


def shares_of_fast_chunk(model: CodecModel, levels: Levels) -> np.ndarray:
    """Return how many of the TOTAL slots each symbol of a stream without latents has."""
    return _fast_slots(model, levels, 0)[1]


def _nothing(model: CodecModel, images: int) -> Features:
    """Return no features of so many images."""
    return np.zeros((images, *model.config.shape[1:], 0), np.int16)


def _ended(levels: np.ndarray, state: int, left: int) -> Levels:
    if state or left:
        raise StreamError("the stream does not end with the last pixel")
    return np.ascontiguousarray(levels.transpose(0, 3, 1, 2))


def coarsened(levels: Levels, max_error: int) -> Levels:
    """Return images whose levels are multiples of 2·max_error + 1, or 255: the nearest to each."""
    step = 2 * max_error + 1
    nearest = np.minimum((np.arange(256) + max_error) // step * step, 255).astype(np.uint8)
    return nearest[levels]


def with_golden(model: CodecModel, levels: Levels) -> CodecModel:
    """Return the model with the streams that it makes of images, for other machines to compare with."""
    lossy_stream, lossy_levels = encode_lossy_chunk(model, levels, _golden_modes(levels))
    streams = (encode_chunk(model, levels), encode_fast_chunk(model, levels), lossy_stream)
    best, fast, lossy = (np.frombuffer(stream, np.uint8) for stream in streams)
    return replace(model, golden=Golden(levels, best, fast, lossy, lossy_levels))


def _golden_modes(levels: Levels) -> Modes:
    """Return every other rung, from the highest, each other one of them in parts."""
    images = np.arange(len(levels))
    return Modes(RUNGS - 1 - 2 * images % RUNGS, np.where(images % 2, 0, 11), np.zeros_like(images))


def _encode_golden_modes(model: CodecModel, levels: Levels) -> bytes:
    return encode_lossy_chunk(model, levels, _golden_modes(levels))[0]


def verified(path: Path) -> CodecModel:
    """Load a codec and try its golden images; raise CodecError where this machine makes others of them."""
    model = load_codec(path)
    levels, faults = model.golden.levels, []
    for name, encode, decode, back in (
        ("stream", encode_chunk, decode_chunk, levels),
        ("fast_stream", encode_fast_chunk, decode_fast_chunk, levels),
        ("lossy_stream", _encode_golden_modes, decode_lossy_chunk, model.golden.lossy_levels),
    ):
        stream = getattr(model.golden, name).tobytes()
        if encode(model, levels) != stream:
            faults.append(f"golden.{name}: the golden images make another stream here")
        try:
            if not np.array_equal(decode(model, stream, len(levels)), back):
                faults.append(f"golden.{name}: it makes other images here")
        except StreamError as error:
            faults.append(f"golden.{name}: it cannot be read here: {error}")
    if faults:
        raise CodecError(path, faults)
    return model
