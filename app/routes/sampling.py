"""GET /sample: images from the prior, the same image for the same seed and index however it is paged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app import openapi, tasks
from app.errors import Kind, Problem
from app.negotiation import IMAGE_FORMATS, ImageChunk, stream_images
from app.parameters import Seed, Temperature
from app.routes.common import (
    FormatParameter,
    ModelParameter,
    StrictRoute,
    check_sheet,
    format_of,
    service_of,
)
from app.tasks import Draw
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
    parts = tasks.samples(service, request, bundle, Draw(prior, seed, offset, count, temperature))
    first = await anext(parts)  # a fault before the first image is an ordinary problem document
    channels, height, width = bundle.config.input.shape
    extra = {"seed": seed}
    response = stream_images(bundle.id, count, (height, width, channels), _chain(first, parts), chosen, extra)
    response.headers["X-Seed"] = str(seed)
    return response


async def _chain(first: ImageChunk, rest: AsyncGenerator[ImageChunk]) -> AsyncGenerator[ImageChunk]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
