"""POST /compress, /decompress: images to a payload and back, pixel for pixel unless less is asked for."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app import openapi, tasks
from app.errors import Kind, Problem
from app.negotiation import (
    COMPRESSED_FORMATS,
    IMAGE_FORMATS,
    IMAGES_IN,
    PAYLOADS_IN,
    Format,
    Limits,
    as_one_array,
    compressed_answer,
    parse_images,
    parse_payload,
)
from app.parameters import Index, MaxError, Quality, TargetBytes
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
from app.service import Work
from codec.encoding import Effort, Manner

MAX_COMPARED = 1 << 14  # levels: of noise, WebP at its smallest takes half a second
router = APIRouter(route_class=StrictRoute, tags=["payloads"])
EffortParameter = Annotated[
    Effort, Query(description="`fast` takes a half to a tenth of the time, for a payload that is less small.")
]
ErrorParameter = Annotated[
    MaxError,
    Query(description="By how much a level may come back different; 0 is lossless."),
]
QualityParameter = Annotated[
    Quality | None,
    Query(
        description="Lossy: more bytes and less error, the higher. From latents alone with `effort=fast`.",
    ),
]
TargetParameter = Annotated[
    TargetBytes | None,
    Query(description="Bytes that the payload may have at most: lossy, unless lossless fits."),
]
CompareParameter = Annotated[
    bool, Query(description="Whether to tell what PNG and lossless WebP files of few images would take, too.")
]
IndexParameter = Annotated[
    Index | None, Query(description="Number, from 0, of the one image to read out of the payload.")
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

    if target_bytes is None:  # which waits for no batch
        service.coder.check_room(bundle.id)
    images, deadline = await read(request, parse, IMAGES_IN)
    if compare and images.size > MAX_COMPARED:
        detail = f"compare of {images.size} levels; the limit is {MAX_COMPARED}"
        raise Problem(Kind.INVALID, detail, value=images.size, limit=MAX_COMPARED)
    manner = Manner(effort, max_error, quality, target_bytes)
    coded = await tasks.compress(service, request, bundle, Work(images, deadline), manner)
    others = None
    if compare:
        others = await service.unless_departed(request, service.coder.compare(images, deadline))
    writing = partial(compressed_answer, coded.model, coded.found, images.size, chosen, others)
    if chosen is Format.payload or images.size <= QUICK.pixels:
        return timed(writing(), coded)
    response = await service.in_thread(request, writing, "payload", len(coded.found), deadline)
    return timed(response, coded)


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

    service.coder.check_room(expected)
    payload, deadline = await read(request, parse_payload, PAYLOADS_IN)
    opened = await tasks.open_payload(service, request, payload, index, expected, deadline)
    check_sheet(opened.count, chosen)
    decoded = await tasks.decompress(service, request, opened, deadline)
    response = await answer_images(request, decoded.model, decoded.found, chosen, deadline)
    return timed(response, decoded)
