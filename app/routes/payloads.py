"""POST /compress, /decompress: images to a payload and back, pixel for pixel unless less is asked for."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app import openapi
from app.coder import Coder, bytes_of
from app.errors import Kind, Problem
from app.negotiation import (
    COMPRESSED_FORMATS,
    IMAGE_FORMATS,
    Limits,
    as_one_array,
    compressed_answer,
    parse_images,
    parse_payload,
)
from app.routes.common import (
    QUICK,
    FormatParameter,
    ModelParameter,
    StrictRoute,
    answer_images,
    check_sheet,
    format_of,
    read,
    service_of,
    timed,
)
from codec.archive import ArchiveTooLargeError, header_of, is_archive, opened
from codec.encoding import Effort, Manner, MannerError
from codec.lossy import BEST_QUALITY
from codec.payload import LARGEST_ERROR, Header, PayloadError, UnknownModelError, parsed
from models.images import encode_png, encode_webp

MAX_ARCHIVE_PAYLOADS, MAX_INDEX_BYTES = 4096, 1 << 20
MAX_COMPARED = 1 << 14  # levels: of noise, WebP at its smallest takes half a second
router = APIRouter(route_class=StrictRoute)
EffortParameter = Annotated[
    Effort, Query(description="`fast` takes a half to a tenth of the time, for a payload that is less small.")
]
ErrorParameter = Annotated[
    int,
    Query(ge=0, le=LARGEST_ERROR, description="By how much a level may come back different; 0 is lossless."),
]
QualityParameter = Annotated[
    int | None,
    Query(
        ge=1,
        le=BEST_QUALITY,
        description="Lossy: more bytes and less error, the higher. From latents alone with `effort=fast`.",
    ),
]
TargetParameter = Annotated[
    int | None,
    Query(ge=1, description="Bytes that the payload may have at most: lossy, unless lossless fits."),
]
CompareParameter = Annotated[
    bool, Query(description="Whether to tell what PNG and lossless WebP files of few images would take, too.")
]
IndexParameter = Annotated[
    int | None, Query(ge=0, description="Number, from 0, of the one image to read out of the payload.")
]


@router.post("/compress", **openapi.COMPRESS)
async def compress(
    request: Request,
    effort: EffortParameter = "best",
    max_error: ErrorParameter = 0,
    quality: QualityParameter = None,
    target_bytes: TargetParameter = None,
    compare: CompareParameter = False,
    model: ModelParameter = None,
    format: FormatParameter = None,
) -> Response:
    """Compress images of one shape into a payload, without loss by default: what comes back is what went in.

    One of `max_error`, `quality` and `target_bytes` makes it smaller; the last two are for images of the
    model's shape alone. Other images are coded as lossless WebP. Nothing is resized or converted.
    """
    service = service_of(request)
    bundle = service.bundle(model)
    chosen = format_of(request, format, COMPRESSED_FORMATS)

    def parse(body: bytes, content_type: str | None, limits: Limits) -> np.ndarray:
        return as_one_array(parse_images(body, content_type, limits, keep_alpha=True))

    images, deadline = await read(request, parse)
    if compare and images.size > MAX_COMPARED:
        detail = f"compare of {images.size} levels; the limit is {MAX_COMPARED}"
        raise Problem(Kind.INVALID, detail, value=images.size, limit=MAX_COMPARED)
    coding = service.coder.compress(
        images.transpose(0, 3, 1, 2), bundle.id, Manner(effort, max_error, quality, target_bytes), deadline
    )
    try:
        coded = await service.unless_departed(request, coding)
    except MannerError as error:
        raise Problem(Kind.INVALID, str(error), value=error.value, limit=error.limit) from error
    except PayloadError as error:  # no payload holds images of such sides
        raise Problem(Kind.INVALID, str(error), value=list(images.shape)) from error
    others = await asyncio.to_thread(file_bytes, images) if compare else None
    answer = partial(compressed_answer, coded.model, coded.found, images.size, chosen, others)
    is_quick = images.size <= QUICK.pixels
    return timed(answer() if is_quick else await asyncio.to_thread(answer), coded)


def file_bytes(images: np.ndarray) -> dict[str, int]:
    """Return the bytes of images (N, H, W, C) as files of their own, by format."""
    return {
        "png": sum(len(encode_png(image, is_smallest=True)) for image in images),
        "webp": sum(len(encode_webp(image)) for image in images),
    }


@router.post("/decompress", **openapi.DECOMPRESS)
async def decompress(
    request: Request,
    index: IndexParameter = None,
    model: ModelParameter = None,
    format: FormatParameter = None,
) -> Response:
    """Return the images of a payload, or the one at `index`, which is decoded with the few around it alone.

    The payload names its model; `model` refuses those of any other. Of an archive, as `python -m codec`
    writes it, `index` counts through its payloads.
    """
    service = service_of(request)
    expected = None if model is None else service.bundle(model).id
    chosen = format_of(request, format, IMAGE_FORMATS)

    def parse(body: bytes, content_type: str | None, limits: Limits) -> bytes:
        return parse_payload(body, content_type)

    payload, deadline = await read(request, parse)
    opening = partial(_opened, service.coder, payload, index)
    is_quick = len(payload) <= QUICK.body_bytes and not is_archive(payload)  # whose names may be many
    header, place = opening() if is_quick else await asyncio.to_thread(opening)
    _check_model(service.coder, header, expected)
    _check_size(header, place, service.limits)
    check_sheet(header.count if place is None else 1, chosen)
    try:
        decoded = await service.unless_departed(request, service.coder.decompress(header, place, deadline))
    except PayloadError as error:
        raise Problem(Kind.MALFORMED, f"the payload: {error}") from error
    return timed(await answer_images(decoded.model, decoded.found, chosen), decoded)


def _opened(coder: Coder, data: bytes, index: int | None) -> tuple[Header, int | None]:
    """Return the header of a payload, or of the one in an archive that `index` is in, and the place there."""
    try:
        if is_archive(data):
            return _opened_archive(coder, data, index)
        header = parsed(data, coder.find)
    except ArchiveTooLargeError as error:
        raise Problem(Kind.TOO_LARGE, str(error)) from error
    except UnknownModelError as error:
        loaded = coder.loaded
        raise Problem(
            Kind.OTHER_MODEL, f"the payload was {error}; loaded are {loaded}", limit=loaded
        ) from error
    except PayloadError as error:
        raise Problem(Kind.MALFORMED, f"the payload: {error}") from error
    if index is not None and index >= header.count:
        raise _outside(index, header.count)
    return header, index


def _opened_archive(coder: Coder, data: bytes, index: int | None) -> tuple[Header, int | None]:
    archive = opened(data, MAX_ARCHIVE_PAYLOADS, MAX_INDEX_BYTES)
    if index is not None:
        place = index
        for names, payload in zip(archive.names, archive.payloads, strict=True):
            if place < len(names):
                return header_of(payload, names, coder.find), place
            place -= len(names)
        raise _outside(index, index - place)
    if len(archive.payloads) != 1:
        detail = f"an archive of {len(archive.payloads)} payloads; without index, one is read at a time"
        raise Problem(Kind.INVALID, detail, value=len(archive.payloads), limit=1)
    return header_of(archive.payloads[0], archive.names[0], coder.find), None


def _outside(index: int, count: int) -> Problem:
    return Problem(
        Kind.INVALID, f"index is {index}; the payload has {count} images", value=index, limit=count
    )


def _check_model(coder: Coder, header: Header, expected: str | None) -> None:
    if expected is not None and header.model is not None and not coder.has(expected, header.model):
        actual = coder.id_of(header.model)
        detail = f"the payload is of model {actual}, not of {expected}"
        raise Problem(Kind.OTHER_MODEL, detail, value=actual, limit=expected)


def _check_size(header: Header, index: int | None, limits: Limits) -> None:
    """Raise Problem before anything of a declared size is allocated."""
    if index is None and header.count > limits.images:
        detail = f"{header.count} images; the limit is {limits.images} a request, or one with index"
        raise Problem(Kind.TOO_LARGE, detail, value=header.count, limit=limits.images)
    size = bytes_of(header, index)
    if size > limits.decoded_bytes:
        detail = f"the images decode to {size} bytes; the limit is {limits.decoded_bytes}"
        raise Problem(Kind.TOO_LARGE, detail, value=size, limit=limits.decoded_bytes)
