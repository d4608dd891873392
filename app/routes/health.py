"""GET /health/live, /health/ready, /metrics: for those who run the service."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app import openapi
from app.negotiation import json_answer
from app.routes.common import check_live, check_ready, service_of

router = APIRouter(tags=["health"])


@router.get("/health/live", **openapi.LIVE)
async def live(request: Request) -> Response:
    """Say that the process answers; 503 once the device is lost and only a restart can help."""
    check_live(service_of(request))
    return json_answer({"status": "live"})


@router.get("/health/ready", **openapi.READY)
async def ready(request: Request) -> Response:
    """Say whether requests are taken: not while loading, warming up or draining, nor with the device lost."""
    check_ready(service_of(request))
    return json_answer({"status": "ready"})


@router.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """Give Prometheus its figures."""
    return Response(await service_of(request).exposition(), media_type=CONTENT_TYPE_LATEST)
