"""GET /models: what is loaded."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app import openapi
from app.negotiation import json_answer
from app.routes.common import StrictRoute, service_of
from app.service import Service
from models.bundle import Bundle

router = APIRouter(route_class=StrictRoute, tags=["models"])


@router.get("/models", **openapi.MODELS)
async def models(request: Request) -> Response:
    """List the loaded bundles, the default first."""
    service = service_of(request)
    bundles = service.bundles
    return json_answer(
        {"default": next(iter(bundles)), "models": [_describe(service, b) for b in bundles.values()]}
    )


@router.get("/models/{id}", **openapi.MODEL)
async def model(request: Request, id: str) -> Response:
    """Describe one loaded bundle: config, metrics, digest, device and the limits of requests."""
    service = service_of(request)
    return json_answer(_describe(service, service.bundle(id)))


@router.get("/models/{id}/latents", **openapi.LATENTS)
async def latents(request: Request, id: str) -> Response:
    """Tell how each latent is spread over the training images: where to move it, and which are in use."""
    bundle = service_of(request).bundle(id)
    spread = bundle.latents
    return json_answer(
        {
            "model": bundle.id,
            "latent_dim": bundle.config.latent_dim,
            "mean": spread.mean,
            "std": spread.std,
            "active": spread.active,
        }
    )


def _describe(service: Service, bundle: Bundle) -> dict[str, Any]:
    settings, codec = service.settings, service.coder.digest_of(bundle.id)
    return {
        "id": bundle.id,
        "digest": f"sha256:{bundle.digest}",
        "codec": codec and f"sha256:{codec}",
        "device": service.device,
        "config": bundle.config.model_dump(mode="json"),
        "metrics": bundle.metrics.model_dump(mode="json"),
        "limits": {
            name: getattr(settings, name)
            for name in ("max_body_bytes", "max_images", "max_pixels", "max_samples", "max_score_samples")
        },
    }
