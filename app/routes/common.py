"""What routes have in common: query parameters, and the steps between a request and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from app.batcher import Answer
from app.negotiation import Format, choose_format, conform, parse_images, read_body
from app.service import Service
from models.bundle import Bundle
from models.images import Fit

INLINE_BODY_BYTES = 32 << 10  # larger encoded bodies are parsed off the event loop
INLINE_IMAGES = 16  # more images are encoded off the event loop

ModelParameter = Annotated[str | None, Query(description="Id of a loaded bundle; the default one if absent.")]
FitParameter = Annotated[
    Fit | None, Query(description="How images of another size are brought to the model's; refused if absent.")
]
FormatParameter = Annotated[
    Format | None, Query(description="Format of the answer, in place of the Accept header.")
]


def service_of(request: Request) -> Service:
    """Return the service that the application was made with."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def format_of(request: Request, override: Format | None, offered: Sequence[Format]) -> Format:
    """Choose the answer's format from `?format=` or the Accept headers; raise Problem where none fits."""
    return choose_format(", ".join(request.headers.getlist("accept")) or None, override, offered)


async def read_images(request: Request, bundle: Bundle, fit: Fit | None) -> np.ndarray:
    """Read a request's images in the shape of a bundle's model, uint8 (N, H, W, C)."""
    limits = service_of(request).limits
    body = await read_body(request, limits.body_bytes)
    content_type = request.headers.get("content-type")

    def parse() -> np.ndarray:
        return conform(parse_images(body, content_type, limits), bundle.config.input.shape, fit)

    return parse() if len(body) <= INLINE_BODY_BYTES else await asyncio.to_thread(parse)


def timed(response: Response, answer: Answer) -> Response:
    """Add where the time went, in milliseconds, as Server-Timing."""
    response.headers["Server-Timing"] = (
        f"queue;dur={answer.queue_seconds * 1e3:.3f}, compute;dur={answer.compute_seconds * 1e3:.3f}"
    )
    return response
