"""Request bodies: read within limits, then parsed into images or latents."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import orjson
from starlette.requests import Request

from app.errors import Kind, Problem, echo
from app.negotiation import media
from app.negotiation.arrays import NpyPieces, read_npy, read_safetensors
from models.images import (
    Fit,
    ImageError,
    ImageTooLargeError,
    convert_channels,
    decode_image,
    decoded_bytes,
    fit_image,
)

T = TypeVar("T")
Size = tuple[int, int]  # height, width
Images = np.ndarray | Sequence[np.ndarray]  # uint8 (N, H, W, C), or N of (H, W, C) whose sizes may differ

# As Python objects numbers and lists take up to a hundred bytes each, however few they come in; texts and
# objects take some hundreds, and a request needs a text for each image at most.
MAX_JSON_VALUES = 1 << 22
MORE_JSON_VALUES = 1 << 15  # of either kind, that nobody needs: an answer is read as a request, as it came
COUNTED_BYTES = 1 << 20  # at a time: a bomb shows at its beginning
HARMLESS_BYTES = 1 << 20  # of images that may be decoded before it shows that they are too large together

_UINT8, _FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)


@dataclass(frozen=True)
class Limits:
    """How much one request may bring: bytes of body, images (or latents), pixels of each encoded image.

    Of JSON also values, lists and their members alike.
    """

    body_bytes: int
    images: int
    pixels: int
    json_values: int = MAX_JSON_VALUES

    @property
    def decoded_bytes(self) -> int:
        """All images of a request, decoded: what raw arrays may bring, and at least one RGBA image."""
        return max(self.body_bytes, 4 * self.pixels)

    def within(self, other: Limits) -> Limits:
        """Return the narrower of two limits, each by each."""
        return Limits(
            min(self.body_bytes, other.body_bytes),
            min(self.images, other.images),
            min(self.pixels, other.pixels),
            min(self.json_values, other.json_values),
        )


def values_of_rows(count: int, latent_dim: int) -> int:
    """Return how many JSON values a request may have that brings images, latents or both, as answers do."""
    return min(MAX_JSON_VALUES, count * (latent_dim + 2) + MORE_JSON_VALUES)


async def read_body(request: Request, max_bytes: int, admit: Callable[[int], None]) -> bytes:
    """Read a request's body, telling `admit` of the bytes of every part before it is kept.

    Raises 413 beyond `max_bytes`, before reading where Content-Length says so and while reading where it does
    not; 400 for an empty body; ClientDisconnect for one that breaks off.
    """
    declared_bytes = _content_length(request)
    if declared_bytes > max_bytes:
        detail = f"the body has {echo(declared_bytes)} bytes; the limit is {max_bytes}"
        raise Problem(Kind.TOO_LARGE, detail, value=declared_bytes, limit=max_bytes)
    body = BytesIO()  # which gives its bytes away without a copy
    async for part in request.stream():
        admit(len(part))
        body.write(part)
        if (size := body.tell()) > max_bytes:
            detail = f"the body has {size} bytes or more; the limit is {max_bytes}"
            raise Problem(Kind.TOO_LARGE, detail, value=size, limit=max_bytes)
    if not body.tell():
        raise Problem(Kind.MALFORMED, "the body is empty", value=0)
    return body.getvalue()


def check_of_pieces(
    content_type: str | None, media_types: Sequence[str], limits: Limits
) -> Callable[[bytes], None]:
    """Return what raises Problem at one of a body's pieces where the whole would be refused.

    It spares the rest, of which there may be much where a body is coded. The media types are those that are
    parsed as what they say; the pieces of others are not looked at.
    """
    media_type = media.without_parameters(content_type)
    if media_type in media_types and media_type == media.JSON:
        return JsonPieces(limits).check
    if media_type in media_types and media_type == media.NPY:
        return NpyPieces(limits.body_bytes).check
    return lambda _: None


def parse_images(
    body: bytes,
    content_type: str | None,
    limits: Limits,
    keep_alpha: bool = False,
    only: Size | None = None,
) -> Images:
    """Parse a body into uint8 images of 1 or 3 channels, or of 4 where alpha is kept.

    npy and safetensors give one array (a view of the body where possible); encoded images give a list, as
    their sizes may differ. Raises 400 for a body that is not what its type says, 413 beyond a limit, 415 for
    other types, 422 for wrong content; with `only`, that too for an encoded image of more pixels than this
    size has, before they are decoded.
    """
    match media.media_type_of(content_type, media.IMAGES_IN):
        case media.JSON:
            return _images_of_json(body, limits, keep_alpha, only)
        case media.NPY:
            return checked_images(read_npy(body, _UINT8), limits, keep_alpha)
        case media.SAFETENSORS:
            return checked_images(read_safetensors(body, "images", _UINT8), limits, keep_alpha)
        case _:
            read = partial(_read, limits=limits, keep_alpha=keep_alpha, only=only, kind=Kind.MALFORMED)
            return [read(decode_image, body, name="the body", index=0)]


def conform(images: Images, shape: tuple[int, int, int], fit: Fit | None) -> np.ndarray:
    """Bring images to a model's shape (C, H, W), as uint8 (N, H, W, C).

    Grey and colour are converted; another size is fitted as `fit` says, and without it raises 422. One array
    of the right shape is returned as it is.
    """
    if isinstance(images, np.ndarray) and images.shape[1:3] == shape[1:]:
        return convert_channels(images, shape[0])
    fitted = [_conform_one(index, image, shape, fit) for index, image in enumerate(images)]
    return fitted[0][None] if len(fitted) == 1 else np.stack(fitted)


def as_one_array(images: Images) -> np.ndarray:
    """Return images as they are, as uint8 (N, H, W, C); raises 422 for images of several shapes."""
    if isinstance(images, np.ndarray):
        return images
    shapes = [image.shape for image in images]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            first, other = ("×".join(map(str, shape)) for shape in (shapes[0], shape))
            detail = (
                f"images[0] is {first} and images[{index}] is {other} (height × width × channels); "
                "a payload holds images of one shape"
            )
            raise Problem(Kind.INVALID, detail, value=list(shape), limit=list(shapes[0]))
    return np.stack(images)


def parse_payload(body: bytes, content_type: str | None, limits: Limits) -> bytes:
    """Return the payload that a body is, or that it has in base64; raises as parse_images does."""
    if media.media_type_of(content_type, media.PAYLOADS_IN) == media.PAYLOAD:
        return body
    document = json_of(body, limits)
    if not isinstance(document, dict) or "payload" not in document:
        raise Problem(Kind.INVALID, 'the body is not of the form {"payload": "…"}', value=document)
    return _base64(document["payload"], "payload", "a payload")


def parse_latents(body: bytes, content_type: str | None, latent_dim: int, limits: Limits) -> np.ndarray:
    """Parse a body into finite float32 latents (N, latent_dim); raises as parse_images does."""
    match media.media_type_of(content_type, media.LATENTS_IN):
        case media.JSON:
            latents = _latents_of_json(body, latent_dim, limits)
        case media.NPY:
            latents = read_npy(body, _FLOAT32)
        case _:
            latents = read_safetensors(body, "z", _FLOAT32)
    return checked_latents(latents, latent_dim, limits)


def checked_images(images: np.ndarray, limits: Limits, keep_alpha: bool = False) -> np.ndarray:
    """Return an array of images as uint8 (N, H, W, C).

    Raises 422 for another shape, no images or no pixels, 413 beyond the limit.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in ((1, 3, 4) if keep_alpha else (1, 3)):
        expected = "(N, H, W), (N, H, W, 1) or (N, H, W, 3)" + (" or (N, H, W, 4)" if keep_alpha else "")
        detail = f"the images have shape {echo(images.shape)}; expected {expected}"
        raise Problem(Kind.INVALID, detail, value=images.shape, limit=expected)
    _check_count(len(images), "images", limits.images)
    if images.size == 0:
        raise Problem(
            Kind.INVALID, f"the images have shape {echo(images.shape)}; no pixels", value=images.shape
        )
    return images


def decoded_images(
    files: Sequence[bytes], limits: Limits, keep_alpha: bool = False, only: Size | None = None
) -> list[np.ndarray]:
    """Decode PNG, JPEG and WebP files; raises 422 for another one, 413 for too many or too large ones.

    `only` is as for parse_images. Where they might be too large together, what the headers of all declare is
    looked at before a pixel is decoded.
    """
    _check_count(len(files), "images", limits.images)
    read = partial(_read, limits=limits, keep_alpha=keep_alpha, only=only, kind=Kind.INVALID)
    whole_bytes = 0
    if len(files) * 4 * _max_pixels(limits, only) > limits.decoded_bytes > HARMLESS_BYTES:
        for index, file in enumerate(files):
            whole_bytes += read(decoded_bytes, file, name=f"images[{index}]", index=index)
            _check_together(index, whole_bytes, limits)
    images: list[np.ndarray] = []
    whole_bytes = 0
    for index, file in enumerate(files):
        images.append(read(decode_image, file, name=f"images[{index}]", index=index))
        whole_bytes += images[-1].nbytes  # of a PNG, more where its transparency follows its pixels
        _check_together(index, whole_bytes, limits)
    return images


def checked_latents(latents: np.ndarray, latent_dim: int, limits: Limits) -> np.ndarray:
    """Return latents where they are finite and (N, latent_dim); raises 422, or 413 beyond the limit."""
    if latents.ndim != 2 or latents.shape[1] != latent_dim:
        detail = f"the latents have shape {echo(latents.shape)}; expected (N, {latent_dim})"
        raise Problem(Kind.INVALID, detail, value=latents.shape, limit=latent_dim)
    _check_count(len(latents), "latents", limits.images)
    if not np.isfinite(latents).all():
        row, column = np.argwhere(~np.isfinite(latents))[0].tolist()
        value = float(latents[row, column])
        raise Problem(
            Kind.INVALID, f"latents[{row}][{column}] is {value}; latents are finite float32", value=value
        )
    return latents


class JsonPieces:
    """JSON that comes in pieces: no more values than may be held at once."""

    def __init__(self, limits: Limits) -> None:
        self._max_values, self._max_texts = limits.json_values, limits.images + MORE_JSON_VALUES
        self._values = self._quotes = self._objects = 0

    def check(self, piece: bytes) -> None:
        """Raise 413 for too many values in all, or too many texts and objects among them."""
        objects = piece.count(b"{")
        self._objects += objects
        self._quotes += piece.count(b'"')
        self._values += piece.count(b",") + piece.count(b"[") + objects
        self._check("values", self._values, self._max_values)
        self._check("texts and objects", self._quotes // 2 + self._objects, self._max_texts)

    @staticmethod
    def _check(what: str, count: int, limit: int) -> None:
        if count > limit:
            detail = f"the JSON has {count} {what} or more; the limit is {limit}"
            raise Problem(Kind.TOO_LARGE, detail, value=count, limit=limit)


def json_of(body: bytes | memoryview, limits: Limits) -> Any:
    """Parse JSON; raises 400 for what is none, 413 for more values than may be held at once."""
    if len(body) > MORE_JSON_VALUES:  # as there is a byte to each at least
        pieces = JsonPieces(limits)
        for start in range(0, len(body), COUNTED_BYTES):
            pieces.check(bytes(body[start : start + COUNTED_BYTES]))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(Kind.MALFORMED, f"the body is not JSON: {error}") from error


def _content_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()) or len(declared) > 20:
        detail = f"Content-Length is {echo(declared)}; expected a whole number of bytes"
        raise Problem(Kind.MALFORMED, detail, value=declared)
    return int(declared)


def _images_of_json(body: bytes, limits: Limits, keep_alpha: bool, only: Size | None) -> list[np.ndarray]:
    encoded = _list_of_json(body, "images", limits)
    files = [_base64(text, f"images[{index}]", "an encoded image") for index, text in enumerate(encoded)]
    return decoded_images(files, limits, keep_alpha, only)


def _base64(text: object, name: str, expected: str) -> bytes:
    if not isinstance(text, str):
        detail = f"{name} is {echo(text)}; expected {expected} in base64"
        raise Problem(Kind.INVALID, detail, value=text)
    if text.startswith("data:"):
        text = text.partition(";base64,")[2]
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Problem(Kind.INVALID, f"{name} is not base64: {error}", value=text) from error


def _max_pixels(limits: Limits, only: Size | None) -> int:
    return limits.pixels if only is None else min(limits.pixels, math.prod(only))


def _check_together(index: int, whole_bytes: int, limits: Limits) -> None:
    if whole_bytes > limits.decoded_bytes:  # small files of many pixels each: a bomb in parts
        detail = f"images[0] to [{index}] decode to {whole_bytes} bytes; the limit is {limits.decoded_bytes}"
        raise Problem(Kind.TOO_LARGE, detail, value=whole_bytes, limit=limits.decoded_bytes)


def _read(
    reading: Callable[[bytes, int, bool], T],
    data: bytes,
    *,
    limits: Limits,
    keep_alpha: bool,
    only: Size | None,
    kind: Kind,
    name: str,
    index: int,
) -> T:
    try:
        return reading(data, _max_pixels(limits, only), keep_alpha)
    except ImageTooLargeError as error:
        if only is not None and error.size is not None and math.prod(error.size) <= limits.pixels:
            raise _another_size(index, error.size, only) from error
        raise Problem(
            Kind.TOO_LARGE, f"{name}: {error}", value=error.value, limit=error.limit or limits.pixels
        ) from error
    except ImageError as error:
        raise Problem(kind, f"{name}: {error}") from error


def _conform_one(index: int, image: np.ndarray, shape: tuple[int, int, int], fit: Fit | None) -> np.ndarray:
    actual, size = image.shape[:2], shape[1:]
    if actual == size:
        return convert_channels(image, shape[0])
    if fit is None:
        raise _another_size(index, (actual[0], actual[1]), size)
    return fit_image(image, shape, fit)


def _another_size(index: int, actual: Size, size: Size) -> Problem:
    sizes = f"{actual[0]}×{actual[1]}; the model takes {size[0]}×{size[1]} (height × width)"
    detail = f"images[{index}] is {sizes} unless fit=resize, crop or pad is given"
    return Problem(Kind.INVALID, detail, value=list(actual), limit=list(size))


def _latents_of_json(body: bytes, latent_dim: int, limits: Limits) -> np.ndarray:
    rows = _list_of_json(body, "latents", limits)
    for index, row in enumerate(rows):
        if not isinstance(row, list):
            detail = f"latents[{index}] is {echo(row)}; expected a list of {latent_dim} numbers"
            raise Problem(Kind.INVALID, detail, value=row, limit=latent_dim)
        if len(row) != latent_dim:
            detail = f"latents[{index}] has {len(row)} numbers; the model's latents have {latent_dim}"
            raise Problem(Kind.INVALID, detail, value=len(row), limit=latent_dim)
        if not {type(value) for value in row} <= {int, float}:
            column, value = next(found for found in enumerate(row) if type(found[1]) not in (int, float))
            detail = f"latents[{index}][{column}] is {echo(value)}; expected a number"
            raise Problem(Kind.INVALID, detail, value=value)
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which parse_latents refuses
        return np.array(rows, np.float32)


def _list_of_json(body: bytes, name: str, limits: Limits) -> list[Any]:
    document = json_of(body, limits)
    if not isinstance(document, dict) or not isinstance(document.get(name), list):
        raise Problem(Kind.INVALID, f'the body is not of the form {{"{name}": […]}}', value=document)
    members: list[Any] = document[name]
    _check_count(len(members), name, limits.images)  # before anything is made of them
    return members


def _check_count(count: int, name: str, limit: int) -> None:
    if count == 0:
        raise Problem(Kind.INVALID, f"0 {name}; at least 1 is needed", value=0, limit=1)
    if count > limit:
        raise Problem(
            Kind.TOO_LARGE, f"{count} {name}; the limit is {limit} a request", value=count, limit=limit
        )
