"""A chunk: some images of the model's shape as one stream. Latents first, then the pixels given them.

levels ─► encoder ─► k ─► slots ──────────────────────────┐
                     └─► decoder ─► features ─► slots ────┴─► stream
stream ─► k ─► decoder ─► features, stream ─► levels
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from codec import rans
from codec.context import decode_levels, slots_of_levels
from codec.latents import decode_latents, slots_of_latents, within
from codec.model import CodecError, CodecModel, Golden, load_codec
from codec.networks import Levels
from codec.rans import StreamError


def encode_chunk(model: CodecModel, levels: Levels) -> bytes:
    """Return the stream of images."""
    k = within(model.encoder.latents(levels), model.latents)
    features = model.decoder.features(k)
    in_place = np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
    of_latents = slots_of_latents(k, model.latents)
    of_levels = slots_of_levels(in_place, features, model.context, model.tables)
    starts, frequencies = (np.concatenate(parts) for parts in zip(of_latents, of_levels, strict=True))
    return rans.encode(starts, frequencies)


def decode_chunk(model: CodecModel, stream: bytes, images: int) -> Levels:
    """Return the images of a stream; raise StreamError for one that no encoder wrote."""
    state, words = rans.opened(stream)
    k, state, count = decode_latents(state, words, len(words), images, model.latents)
    features = model.decoder.features(k)
    channels = model.config.shape[0]
    levels, state, count = decode_levels(state, words, count, features, channels, model.context, model.tables)
    if state or count:
        raise StreamError("the stream does not end with the last pixel")
    return np.ascontiguousarray(levels.transpose(0, 3, 1, 2))


def with_golden(model: CodecModel, levels: Levels) -> CodecModel:
    """Return the model with the stream that it makes of images, for other machines to compare with."""
    stream = np.frombuffer(encode_chunk(model, levels), np.uint8)
    return replace(model, golden=Golden(levels, stream))


def verified(path: Path) -> CodecModel:
    """Load a codec and try its golden images; raise CodecError where this machine makes others of them."""
    model = load_codec(path)
    levels, stream = model.golden.levels, model.golden.stream.tobytes()
    faults = []
    if encode_chunk(model, levels) != stream:
        faults.append("the golden images make another stream here")
    try:
        if not np.array_equal(decode_chunk(model, stream, len(levels)), levels):
            faults.append("the golden stream makes other images here")
    except StreamError as error:
        faults.append(f"the golden stream cannot be read here: {error}")
    if faults:
        raise CodecError(path, faults)
    return model
