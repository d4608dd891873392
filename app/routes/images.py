"""POST /encode, /decode, /reconstruct, /score: a batch of images or latents in, arrays out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app import openapi, tasks
from app.negotiation import (
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    Format,
    encoded_answer,
    json_answer,
)
from app.operations import ModelTask, Operation
from app.parameters import Samples
from app.routes.common import (
    FitParameter,
    FormatParameter,
    ModelParameter,
    StrictRoute,
    answer_images,
    check_sheet,
    format_of,
    read_images,
    read_latents,
    service_of,
    timed,
)

router = APIRouter(route_class=StrictRoute, tags=["images"])
SamplesParameter = Annotated[
    Samples, Query(description="K, latent samples an image: more tighten the bound `nll`.")
]


@router.post("/encode", **openapi.ENCODE)
async def encode(
    request: Request, model: ModelParameter = None, fit: FitParameter = None, format: FormatParameter = None
) -> Response:
    """Encode images to mu and logvar of q(z given x)."""
    service = service_of(request)
    bundle = service.bundle(model)
    chosen = format_of(request, format, ENCODED_FORMATS)
    images = await read_images(request, bundle, fit, ModelTask(bundle.id, Operation.ENCODE))
    answer = await tasks.compute(service, request, bundle, Operation.ENCODE, images)
    mu, logvar = answer.arrays
    return timed(encoded_answer(bundle.id, mu, logvar, chosen), answer)


@router.post("/decode", **openapi.DECODE)
async def decode(request: Request, model: ModelParameter = None, format: FormatParameter = None) -> Response:
    """Decode latents to images, the means of p(x given z)."""
    service = service_of(request)
    bundle = service.bundle(model)
    chosen = format_of(request, format, IMAGE_FORMATS)
    latents = await read_latents(request, bundle, ModelTask(bundle.id, Operation.DECODE))
    check_sheet(len(latents.rows), chosen)
    answer = await tasks.compute(service, request, bundle, Operation.DECODE, latents)
    decoded = answer.arrays[0]
    return timed(await answer_images(request, bundle.id, decoded, chosen, latents.deadline), answer)


@router.post("/reconstruct", **openapi.RECONSTRUCT)
async def reconstruct(
    request: Request, model: ModelParameter = None, fit: FitParameter = None, format: FormatParameter = None
) -> Response:
    """Send images through mu and back: what the model keeps of them."""
    service = service_of(request)
    bundle = service.bundle(model)
    chosen = format_of(request, format, IMAGE_FORMATS)
    images = await read_images(request, bundle, fit, ModelTask(bundle.id, Operation.RECONSTRUCT))
    check_sheet(len(images.rows), chosen)
    answer = await tasks.compute(service, request, bundle, Operation.RECONSTRUCT, images)
    decoded = answer.arrays[0]
    return timed(await answer_images(request, bundle.id, decoded, chosen, images.deadline), answer)


@router.post("/score", **openapi.SCORE)
async def score(
    request: Request,
    model: ModelParameter = None,
    fit: FitParameter = None,
    samples: SamplesParameter = 16,
    format: FormatParameter = None,
) -> Response:
    """Score images by bounds on log p(x), in nats: a low elbo, a high nll, marks an anomaly.

    `bits_per_dim` is −elbo / (C·H·W·ln 2).
    """
    service = service_of(request)
    tasks.check_score_samples(service, samples)
    bundle = service.bundle(model)
    format_of(request, format, (Format.json,))
    images = await read_images(request, bundle, fit, ModelTask(bundle.id, Operation.SCORE, samples))
    scores = await tasks.score(service, request, bundle, images, samples)
    return timed(json_answer({"model": bundle.id, **scores.figures, "samples": samples}), scores)
