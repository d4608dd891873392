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
# Pillow's method and quality. On large images the slow ones would save a percent in four times the time.
_QUICK, _LARGE, _SMALL = (0, 0), (1, 0), (4, 75)
_LARGE_LEVELS = 1 << 20
_VP8L_SIGNATURE = 0x2F
_RIFF_BYTES = 20  # of a file's header: RIFF, size, WEBP, VP8L, size


def encode_classical(images: Images, quick: bool = False) -> bytes:
    """Return images one below the other as a VP8L stream, or their bytes in place (N,H,W,C) if not longer.

    `quick` takes a tenth of the time, and a third more bytes or so.
    """
    count, channels, height, width = images.shape
    raw = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if raw.size <= 64:
        return raw.tobytes()
    sheet = raw.reshape(count * height, width, channels)
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet, MODES[channels])
    buffer = io.BytesIO()
    method, quality = _QUICK if quick else _LARGE if raw.size > _LARGE_LEVELS else _SMALL
    image.save(buffer, "WEBP", lossless=True, exact=True, method=method, quality=quality)
    file = buffer.getvalue()
    size = int.from_bytes(file[16:20], "little")  # of the chunk, which may be padded
    if file[12:16] != b"VP8L" or size >= raw.size:
        return raw.tobytes()
    return file[_RIFF_BYTES : _RIFF_BYTES + size]


def decode_classical(stream: bytes, shape: tuple[int, int, int], count: int) -> Images:
    """Return `count` images of `shape`; raise StreamError for a stream that is not theirs."""
    channels, height, width = shape
    if len(stream) == count * height * width * channels:
        raw = np.frombuffer(stream, np.uint8).reshape(count, height, width, channels)
        return np.ascontiguousarray(raw.transpose(0, 3, 1, 2))
    _check_size(stream, width, count * height)
    padded = stream + b"\0" * (len(stream) % 2)
    header = b"RIFF" + struct.pack("<I", len(padded) + 12) + b"WEBPVP8L" + struct.pack("<I", len(stream))
    try:
        with Image.open(io.BytesIO(header + padded), formats=["WEBP"]) as image:
            sheet = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise StreamError(f"not a VP8L stream: {error}") from error
    images = sheet[..., :channels].reshape(count, height, width, channels)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _check_size(stream: bytes, width: int, height: int) -> None:
    """Raise StreamError for another size than expected, before anything of it is allocated."""
    if len(stream) < 5 or stream[0] != _VP8L_SIGNATURE:
        raise StreamError(f"not a VP8L stream; it starts with {stream[:5].hex(' ') or 'nothing'}")
    bits = int.from_bytes(stream[1:5], "little")
    size = (bits % 2**14 + 1, (bits >> 14) % 2**14 + 1)
    if size != (width, height):
        raise StreamError(f"a sheet of {size}, expected {(width, height)}")
