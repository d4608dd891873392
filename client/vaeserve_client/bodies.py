"""What a caller gives, as the bytes of a request's body.

One array goes as npy: a header and its bytes as they are. So do a list of arrays and PIL images of one shape,
stacked. An encoded file goes as it is: decoding it here would cost the caller's time and send more bytes.
Several of them, and images of several sizes, go as base64 in JSON, the one body that holds any mixture, for a
third more bytes.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.lib import format as npy_format
from numpy.typing import ArrayLike, NDArray

from vaeserve_client.results import Compressed, to_pil

File: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview
Image: TypeAlias = NDArray[np.uint8] | PIL.Image.Image | File
Images: TypeAlias = Image | Sequence[Image]
Payload: TypeAlias = Compressed | File

JSON, NPY = "application/json", "application/x-npy"
PAYLOAD = "application/vnd.vaeserve.payload"
T = TypeVar("T")
_AS_THEY_ARE = ("L", "RGB")  # modes of PIL whose arrays are what the service takes
_WITHOUT_PNG = ("CMYK", "YCbCr", "LAB", "HSV")
_BYTES = (bytes, bytearray, memoryview)
_PATH = (str, os.PathLike)
_ONE = (PIL.Image.Image, *_PATH, *_BYTES)


@dataclass(frozen=True)
class Body:
    """Bytes and their media type."""

    content: bytes
    media_type: str


def images_body(images: Images) -> Body:
    """Write images: one array (N, H, W[, C]) or (H, W), one image of another kind, or a sequence of any.

    In a sequence an array is one image, (H, W) or (H, W, C). Raises TypeError for arrays that are not uint8
    and what is no image, ValueError for files that are no PNG, JPEG or WebP, OSError for those that cannot be
    read.
    """
    if isinstance(images, np.ndarray):
        return _array_body(images[None] if images.ndim == 2 else images)
    if isinstance(images, _ONE) or _is_open_file(images) or not isinstance(images, Iterable):
        images = [cast(Image, images)]
    read = [_read(image) for image in images]
    arrays = [image for image in read if isinstance(image, np.ndarray)]
    if arrays and len(arrays) == len(read) and len({image.shape for image in arrays}) == 1:
        return _array_body(np.stack(arrays))
    files = [_png(to_pil(image)) if isinstance(image, np.ndarray) else image for image in read]
    if len(files) == 1:
        return Body(files[0], _media_type(files[0]))
    listed = b'","'.join(base64.b64encode(file) for file in files)
    return Body(b'{"images":["' + listed + b'"]}' if files else b'{"images":[]}', JSON)


def latents_body(latents: ArrayLike) -> Body:
    """Write latents (N, D), or one (D,), as float32."""
    array = np.asarray(latents, np.float32)
    return _npy(array[None] if array.ndim == 1 else array)


def payload_body(payload: Payload) -> Body:
    """Write a payload: what compressing gave, its bytes, or the path of a file of them."""
    if isinstance(payload, Compressed):
        payload = payload.payload
    return Body(_bytes_of(payload, "a payload is what compress gave"), PAYLOAD)


def many_images(images: T) -> T:
    """Return what holds images of any number; raise TypeError for one image alone."""
    is_one = isinstance(images, _ONE) or _is_open_file(images)
    if is_one or (isinstance(images, np.ndarray) and images.ndim < 3):
        raise TypeError(
            "images of any number are an array (N, H, W) or (N, H, W, C), or an iterable of images; "
            f"got one {_kind_of(images)}: give a list of it"
        )
    return images


def many_latents(latents: T) -> T:
    """Return what holds latents of any number; raise TypeError for one latent alone."""
    if isinstance(latents, np.ndarray) and latents.ndim < 2:
        raise TypeError(
            "latents of any number are an array (N, D), or an iterable of latents (D,); "
            f"got one {_kind_of(latents)}: give a list of it"
        )
    return latents


def _read(image: Image) -> NDArray[np.uint8] | bytes:
    """Return an image as an array or as an encoded file."""
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, PIL.Image.Image):
        image = PIL.ImageOps.exif_transpose(image)  # as the service turns the same file
        return np.asarray(image) if image.mode in _AS_THEY_ARE else _png(image)
    file = _bytes_of(image, "an image is an array, a PIL image")
    try:
        _media_type(file)
    except ValueError as error:
        raise ValueError(f"{os.fspath(image)}: {error}") if isinstance(image, _PATH) else error from None
    return file


def _bytes_of(given: File, otherwise: str) -> bytes:
    if isinstance(given, _BYTES):
        return bytes(given)
    if isinstance(given, _PATH):
        return Path(given).read_bytes()
    raise TypeError(f"{otherwise}, or the path or the bytes of a file; got one {_kind_of(given)}")


def _is_open_file(given: object) -> bool:
    return hasattr(given, "read")


def _kind_of(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"array of shape {given.shape}"
    return f"{type(given).__name__}, an open file" if _is_open_file(given) else type(given).__name__


def _checked(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise TypeError(f"images are uint8, of levels from 0 to 255; got {array.dtype}")
    return array


def _array_body(array: NDArray[Any]) -> Body:
    return _npy(_checked(array))


def _npy(array: NDArray[Any]) -> Body:
    array = np.ascontiguousarray(array)
    return Body(b"".join((_npy_header(array.dtype.str, array.shape), array.data)), NPY)


@lru_cache(maxsize=256)  # calls have few shapes, and writing one costs more than everything else here
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = BytesIO()
    npy_format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _png(image: PIL.Image.Image) -> bytes:
    file = BytesIO()
    image = image.convert("RGB") if image.mode in _WITHOUT_PNG else image
    image.save(file, "PNG", compress_level=1)  # it crosses the network once
    return file.getvalue()


def _media_type(file: bytes) -> str:
    if file.startswith(b"\x89PNG"):
        return "image/png"
    if file.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"no PNG, JPEG or WebP file; it starts with {file[:8].hex(' ') or 'nothing'}")
