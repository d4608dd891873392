"""Images that no model knows: lossless WebP of a sheet, or the bytes themselves where those are fewer."""

from __future__ import annotations

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from codec.rans import StreamError

Images = UInt8[np.ndarray, "image channel height width"]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
MAX_SIDE = 8192
MAX_SHEET_SIDE = 16383  # WebP's
_RIFF_BYTES = 20  # of a file's header: RIFF, size, WEBP, VP8L, size


def encode_classical(images: Images, effort: int = 4) -> bytes:
    """Return images one below the other as a VP8L stream, or their bytes in place (N,H,W,C) if not longer."""
    count, channels, height, width = images.shape
    raw = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if raw.size <= 64:
        return raw.tobytes()
    sheet = raw.reshape(count * height, width, channels)
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet, MODES[channels])
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, exact=True, method=effort, quality=75 if effort else 0)
    stream = buffer.getvalue()[_RIFF_BYTES:]
    if buffer.getvalue()[12:16] != b"VP8L" or len(stream) >= raw.size:
        return raw.tobytes()
    return stream


def decode_classical(stream: bytes, shape: tuple[int, int, int], count: int) -> Images:
    """Return `count` images of `shape`; raise StreamError for a stream that is not theirs."""
    channels, height, width = shape
    if len(stream) == count * height * width * channels:
        raw = np.frombuffer(stream, np.uint8).reshape(count, height, width, channels)
        return np.ascontiguousarray(raw.transpose(0, 3, 1, 2))
    padded = stream + b"\0" * (len(stream) % 2)
    header = b"RIFF" + struct.pack("<I", len(padded) + 12) + b"WEBPVP8L" + struct.pack("<I", len(stream))
    try:
        with Image.open(io.BytesIO(header + padded), formats=["WEBP"]) as image:
            if image.size != (width, count * height):
                raise StreamError(f"a sheet of {image.size}, expected {(width, count * height)}")
            sheet = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise StreamError(f"not a VP8L stream: {error}") from error
    images = sheet[..., :channels].reshape(count, height, width, channels)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
