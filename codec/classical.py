"""Images without a model: WebP of a sheet, or the bytes themselves where those are fewer.

Lossless for images that no model knows; lossy where that serves colour images better than their model.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from codec.rans import StreamError

Images = UInt8[np.ndarray, "image channel height width"]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
LOSSY_CHANNELS = 3
MAX_SIDE = 8192
MAX_SHEET_SIDE = 16383  # WebP's
# Pillow's method and quality. On large images the slow ones would save a percent in four times the time.
_QUICK, _LARGE, _SMALL = (0, 0), (1, 0), (4, 75)
_LARGE_LEVELS = 1 << 20
_VP8L_SIGNATURE = 0x2F
_VP8_START = b"\x9d\x01\x2a"  # after three bytes, of which the first is even in a whole picture
_VP8_BYTES = 10  # up to the size and the size itself
LOSSY_METHOD = 6  # of 0 … 6, the slowest
_RIFF_BYTES = 20  # of a file's header: RIFF, size, WEBP, VP8L or VP8, size


def encode_classical(images: Images, quick: bool = False) -> bytes:
    """Return images one below the other as a VP8L stream, or their bytes in place (N,H,W,C) if not longer.

    `quick` takes a tenth of the time, and a third more bytes or so.
    """
    raw = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if raw.size <= 64:
        return raw.tobytes()
    method, quality = _QUICK if quick else _LARGE if raw.size > _LARGE_LEVELS else _SMALL
    kind, content = _webp(raw, lossless=True, exact=True, method=method, quality=quality)
    return content if kind == b"VP8L" and len(content) < raw.size else raw.tobytes()


def encode_lossy_classical(images: Images, quality: float, method: int = LOSSY_METHOD) -> bytes:
    """Return colour images one below the other as a VP8 stream of a quality, 0 … 100.

    It has another length than the images' bytes in place, by which those are known.
    """
    raw = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    _, content = _webp(raw, method=method, quality=quality)
    return content if len(content) != raw.size else content + b"\0"


def _webp(raw: UInt8[np.ndarray, "image height width channel"], **options: object) -> tuple[bytes, bytes]:
    """Return the name and the content of the one chunk of a WebP file."""
    count, height, width, channels = raw.shape
    sheet = raw.reshape(count * height, width, channels)
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet, MODES[channels])
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    file = buffer.getvalue()
    size = int.from_bytes(file[16:20], "little")  # of the chunk, which may be padded
    return file[12:16], file[_RIFF_BYTES : _RIFF_BYTES + size]


def decode_classical(stream: bytes, shape: tuple[int, int, int], count: int) -> Images:
    """Return `count` images of `shape`; raise StreamError for a stream that is not theirs."""
    channels, height, width = shape
    if len(stream) == count * height * width * channels:
        raw = np.frombuffer(stream, np.uint8).reshape(count, height, width, channels)
        return np.ascontiguousarray(raw.transpose(0, 3, 1, 2))
    kind, size = _kind_and_size(stream)
    if size != (width, count * height):
        raise StreamError(f"a sheet of {size}, expected {(width, count * height)}")
    if kind == b"VP8 " and channels != LOSSY_CHANNELS:
        raise StreamError(f"a VP8 stream of images with {channels} channels, expected {LOSSY_CHANNELS}")
    padded = stream + b"\0" * (len(stream) % 2)
    header = b"RIFF" + struct.pack("<I", len(padded) + 12) + b"WEBP" + kind + struct.pack("<I", len(stream))
    try:
        with Image.open(io.BytesIO(header + padded), formats=["WEBP"]) as image:
            sheet = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise StreamError(f"not a {kind.decode().strip()} stream: {error}") from error
    images = sheet[..., :channels].reshape(count, height, width, channels)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _kind_and_size(stream: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return the name of a stream's chunk, and its sheet's size, before anything of it is allocated."""
    if len(stream) >= 5 and stream[0] == _VP8L_SIGNATURE:
        bits = int.from_bytes(stream[1:5], "little")
        return b"VP8L", (bits % 2**14 + 1, (bits >> 14) % 2**14 + 1)
    if len(stream) >= _VP8_BYTES and stream[0] % 2 == 0 and stream[3:6] == _VP8_START:
        width, height = struct.unpack("<HH", stream[6:_VP8_BYTES])
        return b"VP8 ", (width, height)
    raise StreamError(f"not a VP8L or VP8 stream; it starts with {stream[:6].hex(' ') or 'nothing'}")
