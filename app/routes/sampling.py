"""GET /sample: images from the prior, the same image for the same seed and index however it is paged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response

from app import openapi, tasks
from app.errors import Kind, Problem
from app.negotiation import IMAGE_FORMATS, Format, Write, stream_images
from app.parameters import Seed, Temperature
from app.routes.common import (
    FormatParameter,
    ModelParameter,
    StrictRoute,
    answer_images,
    check_sheet,
    format_of,
    is_written_quickly,
    service_of,
)
from app.tasks import Draw
from models.bundle import Bundle
from models.priors import Prior

router = APIRouter(route_class=StrictRoute, tags=["samples"])

CountParameter = Annotated[int, Query(alias="n", ge=1, description="Number of images.")]
SeedParameter = Annotated[
    Seed | None, Query(description="Seed; a random one, told in the answer, if absent.")
]
OffsetParameter = Annotated[Seed, Query(description="Index of the first image of the seed.")]
TemperatureParameter = Annotated[Temperature, Query(description="Scale of the noise: 0 gives the means.")]
PriorParameter = Annotated[
    Prior, Query(description="The standard normal, or the mixture fitted to the aggregated posterior.")
]


@router.get("/sample", **openapi.SAMPLE)
async def sample(
    request: Request,
    count: CountParameter = 1,
    seed: SeedParameter = None,
    offset: OffsetParameter = 0,
    temperature: TemperatureParameter = 1.0,
    prior: PriorParameter = "aggregated",
    model: ModelParameter = None,
    format: FormatParameter = None,
) -> Response:
    """Draw z from a prior and decode it: image i of a seed is the same image in every request for it."""
    service = service_of(request)
    bundle = service.bundle(model)
    chosen = format_of(request, format, IMAGE_FORMATS)
    if count > (limit := service.settings.max_samples):
        raise Problem(Kind.INVALID, f"n is {count}; the limit is {limit}", value=count, limit=limit)
    check_sheet(count, chosen)
    seed = tasks.seed_or_random(seed)
    draw, deadline = Draw(prior, seed, offset, count, temperature), service.deadline()
    if chosen is Format.png:  # of which nothing is there before all of it is
        found = await tasks.gather_samples(service, request, bundle, draw, deadline)
        response = await answer_images(request, bundle.id, found.images, chosen, deadline)
    else:
        response = await _streamed(request, bundle, draw, chosen, deadline)
    response.headers["X-Seed"] = str(seed)
    return response


async def _streamed(
    request: Request, bundle: Bundle, draw: Draw, chosen: Format, deadline: float
) -> Response:
    """Answer samples part by part, once the first is written; a fault before is a problem as any other."""
    channels, height, width = bundle.config.input.shape
    shape = height, width, channels
    parts = tasks.samples(service_of(request), request, bundle, draw)
    is_quick = is_written_quickly(draw.count, draw.count * math.prod(shape), chosen)
    write = _at_once if is_quick else _writing(request, chosen, deadline)
    response = stream_images(bundle.id, draw.count, shape, parts, chosen, {"seed": draw.seed}, write)
    written = cast("AsyncGenerator[bytes]", response.body_iterator)
    response.body_iterator = _chain(await anext(written) + await anext(written), written)
    return response


async def _chain(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for part in rest:
            yield part


async def _at_once(function: Callable[[], bytes], _: int) -> bytes:
    return function()


def _writing(request: Request, chosen: Format, deadline: float) -> Write:
    """Return what writes the parts of a stream in threads: the first as any answer, which may be refused.

    A stream that has begun can no longer be: its further parts wait for their turn, among as many as there
    are streams, each of which holds one part and is watched by what sends it.
    """
    service, has_begun = service_of(request), False

    async def write(function: Callable[[], bytes], size_bytes: int) -> bytes:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            return await service.in_thread(request, function, chosen.name, size_bytes, deadline)
        async with service.streaming:
            return await asyncio.to_thread(function)

    return write
