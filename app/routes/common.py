"""What routes have in common: query parameters, and the steps between a request and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.direct import Endpoint, noted
from app.errors import Kind, Problem, echo
from app.negotiation import (
    IMAGES_IN,
    LATENTS_IN,
    Format,
    Limits,
    check_of_pieces,
    choose_format,
    conform,
    content_coding,
    images_answer,
    inflated,
    parse_images,
    parse_latents,
    read_body,
)
from app.operations import ModelTask
from app.service import Service, Work
from app.statistics import Timed
from models.bundle import Bundle
from models.images import Fit

# What is parsed on the event loop, which takes less time than a thread's start; more goes to a thread.
QUICK = Limits(body_bytes=32 << 10, images=64, pixels=32 << 10)
LARGE_BODY_BYTES = 1 << 20  # parsed one at a time: what JSON becomes is many times as large
QUICK_RAW_BYTES = 1 << 22  # more images are copied in a thread
QUICK_IMAGES = 16  # more images are drawn or encoded in a thread
MAX_KEPT_ACCEPT = 256  # characters of an Accept header whose choice is remembered
MAX_SHEET_IMAGES = 1024  # one PNG of them all is held in memory and looked at by a person

ModelParameter = Annotated[str | None, Query(description="Id of a loaded bundle; the default one if absent.")]
FitParameter = Annotated[
    Fit | None, Query(description="How images of another size are brought to the model's; refused if absent.")
]
FormatParameter = Annotated[
    Format | None, Query(description="Format of the answer, in place of the Accept header.")
]
T = TypeVar("T")
Parse = Callable[[bytes, str | None, Limits], T]


class StrictRoute(APIRoute):
    """Refuses query parameters that the route does not have; they would be ignored in silence."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, noted(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Any]]:  # type: ignore[override]
        """Return the handler with the check before it."""
        handle = super().get_route_handler()
        known = {field.alias for field in self.dependant.query_params}

        async def checked(request: Request) -> Any:
            for name in request.query_params if request.scope["query_string"] else ():
                if name not in known:
                    takes = ", ".join(sorted(known)) or "none"
                    detail = f"there is no query parameter {echo(name)} here; there are {takes}"
                    raise Problem(Kind.INVALID, detail, value=name, limit=takes)
            return await handle(request)

        return checked


def service_of(request: Request) -> Service:
    """Return the service that the application was made with."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def check_live(service: Service) -> None:
    """Raise Problem once only a restart can help."""
    if service.is_hopeless:
        raise Problem(Kind.DEVICE_FAULT, str(service.not_ready))


def check_ready(service: Service) -> None:
    """Raise Problem while requests are not taken."""
    if reason := service.not_ready:
        raise Problem(Kind.NOT_READY, f"not ready: {reason}", value=reason)


def format_of(request: Request, override: Format | None, offered: Sequence[Format]) -> Format:
    """Choose the answer's format from `?format=` or the Accept headers; raise Problem where none fits."""
    accept = ", ".join(request.headers.getlist("accept"))
    choose = _chosen_format if len(accept) <= MAX_KEPT_ACCEPT else choose_format
    return choose(accept or None, override, tuple(offered))


# Callers write few Accept headers.
_chosen_format = lru_cache(maxsize=256)(choose_format)


def check_sheet(count: int, chosen: Format) -> None:
    """Raise Problem for more images than one PNG may show."""
    if chosen is Format.png and count > MAX_SHEET_IMAGES:
        detail = f"{count} images as png; a contact sheet shows at most {MAX_SHEET_IMAGES}"
        raise Problem(Kind.INVALID, detail, value=count, limit=MAX_SHEET_IMAGES)


async def read_images(request: Request, bundle: Bundle, fit: Fit | None, task: ModelTask) -> Work:
    """Read a request's images in the shape of a bundle's model, uint8 (N, H, W, C), for a task.

    Raises Problem, overloaded, before it reads, where the task has no room for any.
    """
    shape = bundle.config.input.shape
    only = shape[1:] if fit is None else None

    def parse(body: bytes, content_type: str | None, limits: Limits) -> np.ndarray:
        return conform(parse_images(body, content_type, limits, only=only), shape, fit)

    service_of(request).batcher.check_room(task)
    rows, deadline = await read(request, parse, IMAGES_IN)
    return Work(rows, deadline)


async def read_latents(request: Request, bundle: Bundle, task: ModelTask) -> Work:
    """Read a request's latents of a bundle's model, float32 (N, D), for a task, as `read_images` does."""

    def parse(body: bytes, content_type: str | None, limits: Limits) -> np.ndarray:
        return parse_latents(body, content_type, bundle.config.latent_dim, limits)

    service_of(request).batcher.check_room(task)
    rows, deadline = await read(request, parse, LATENTS_IN)
    return Work(rows, deadline)


async def read(
    request: Request, parse: Parse[T], media_types: Sequence[str], json_values: int | None = None
) -> tuple[T, float]:
    """Read and parse a request's body, in a thread where it is large; return it and its deadline.

    It is taken to be of its Content-Type, where that is among `media_types`, while it is inflated. JSON may
    have values for encoded images and latents, or `json_values`.
    The intake bounds the bytes of all that wait for a thread, and so their number.
    The deadline (time.monotonic) of the answer is counted from the body's arrival.
    """
    service = service_of(request)
    limits, content_type = service.limits, request.headers.get("content-type")
    if json_values is not None:
        limits = replace(limits, json_values=json_values)
    coding = content_coding(request)
    with service.intake.body() as admit:
        body = await _received(read_body(request, limits.body_bytes, admit), service)
        deadline = service.deadline()
        if coding is not None:
            check = check_of_pieces(content_type, media_types, limits)
            inflating = inflated(body, coding, limits.body_bytes, admit, check)
            body = await service.unless_departed(request, service.in_time(inflating, deadline))
        if len(body) <= QUICK.body_bytes:
            try:
                return parse(body, content_type, QUICK.within(limits)), deadline
            except Problem as problem:
                if problem.kind is not Kind.TOO_LARGE:
                    raise
        if len(body) <= LARGE_BODY_BYTES:
            parsing = asyncio.to_thread(parse, body, content_type, limits)
            return await service.unless_departed(request, service.in_time(parsing, deadline)), deadline
        await service.unless_departed(request, service.in_time(service.parsing.acquire(), deadline))
        try:  # whose thread is waited for, as it holds what the next would
            return await asyncio.to_thread(parse, body, content_type, limits), deadline
        finally:
            service.parsing.release()


async def _received(reading: Awaitable[bytes], service: Service) -> bytes:
    seconds = service.settings.deadline_seconds
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        detail = f"the body has not arrived within {seconds:g} seconds"
        raise Problem(Kind.DEADLINE, detail, limit=seconds) from None


def is_written_quickly(count: int, levels: int, chosen: Format) -> bool:
    """Return whether images of so many levels in all are written in less time than a thread's start."""
    if chosen in (Format.npy, Format.safetensors):
        return levels <= QUICK_RAW_BYTES
    return count <= QUICK_IMAGES and levels <= QUICK.pixels


async def answer_images(
    request: Request, model: str | None, images: np.ndarray, chosen: Format, deadline: float
) -> Response:
    """Answer uint8 images (N, H, W, C), written in a thread where that takes long.

    Raises Problem, overloaded or deadline, though they were computed: writing may be what takes longest.
    """
    writing = partial(images_answer, model, images, chosen)
    if is_written_quickly(len(images), images.size, chosen):
        return writing()
    return await service_of(request).in_thread(request, writing, chosen.name, images.nbytes, deadline)


def timed(response: Response, answer: Timed) -> Response:
    """Add where the time went, in milliseconds, as Server-Timing."""
    response.headers["Server-Timing"] = (
        f"queue;dur={answer.queue_seconds * 1e3:.3f}, compute;dur={answer.compute_seconds * 1e3:.3f}"
    )
    return response
