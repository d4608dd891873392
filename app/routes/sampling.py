"""GET /sample: images from the prior, the same image for the same seed and index however it is paged."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app import openapi
from app.errors import Kind, Problem
from app.negotiation import IMAGE_FORMATS, Format, ImageChunk, stream_images
from app.operations import ModelTask, Operation
from app.routes.common import FormatParameter, ModelParameter, format_of, service_of
from app.service import Service
from models.bundle import Bundle
from models.noise import MAX_SEED
from models.priors import Prior, sample_latents

router = APIRouter()
MAX_SHEET_IMAGES = 1024  # one PNG of them all is held in memory and looked at by a person
RANDOM_SEED_BITS = 32

CountParameter = Annotated[int, Query(alias="n", ge=1, description="Number of images.")]
SeedParameter = Annotated[
    int | None, Query(ge=0, le=MAX_SEED, description="Seed; a random one, told in the answer, if absent.")
]
OffsetParameter = Annotated[
    int, Query(ge=0, le=MAX_SEED, description="Index of the first image of the seed.")
]
TemperatureParameter = Annotated[
    float, Query(ge=0, le=10, allow_inf_nan=False, description="Scale of the noise: 0 gives the means.")
]
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
    limit = MAX_SHEET_IMAGES if chosen is Format.png else service.settings.max_samples
    if count > limit:
        raise Problem(
            Kind.INVALID, f"n is {count}; the limit as {chosen} is {limit}", value=count, limit=limit
        )
    seed = secrets.randbits(RANDOM_SEED_BITS) if seed is None else seed
    parts = _parts(service, bundle, prior, seed, offset, count, temperature)
    first = await anext(parts)  # a fault before the first image is an ordinary problem document
    channels, height, width = bundle.config.input.shape
    extra = {"seed": seed}
    response = stream_images(bundle.id, count, (height, width, channels), _chain(first, parts), chosen, extra)
    response.headers["X-Seed"] = str(seed)
    return response


async def _parts(
    service: Service, bundle: Bundle, prior: Prior, seed: int, offset: int, count: int, temperature: float
) -> AsyncGenerator[ImageChunk]:
    """Yield the images in parts of a batch, each computed once the one before it is sent."""
    task = ModelTask(bundle.id, Operation.DECODE)
    submit = service.batcher.submit  # the first part meets admission like any request
    for start in range(offset, offset + count, service.settings.max_batch):
        size = min(service.settings.max_batch, offset + count - start)
        z = sample_latents(
            bundle.latents, prior, seed=seed, offset=start, count=size, temperature=temperature
        )
        answer = await submit(task, z, service.deadline())
        yield ImageChunk(answer.arrays[0], z)
        submit = service.batcher.submit_when_room


async def _chain(first: ImageChunk, rest: AsyncGenerator[ImageChunk]) -> AsyncGenerator[ImageChunk]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
