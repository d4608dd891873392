"""Every request as it passes: counted and timed by its route, named, and logged where that is asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.errors import GUARDED, Kind, Problem
from app.logs import name_request
from app.metrics import Metrics
from app.statistics import TIMING

OTHER_ROUTES = "other"  # the label of paths that people make up
log = logging.getLogger("vaeserve.access")


def expect_requests(metrics: Metrics, routers: Sequence[APIRouter]) -> None:
    """Have the counters of every answer that a route documents."""
    guarded = [kind.status for kind in GUARDED]
    for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
        for status in (HTTPStatus.OK, *route.responses):
            if status not in guarded:
                metrics.of_route(route.path).expect(int(status))
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, *guarded):
        metrics.of_route(OTHER_ROUTES).expect(status)


class ObservedRequests:
    """Observes every request, and answers those that the grace period leaves over."""

    def __init__(self, app: ASGIApp, metrics: Metrics, logs_access: bool = False) -> None:
        self._app, self._metrics, self._logs_access = app, metrics, logs_access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what comes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = request_bytes = response_bytes = 0
        started = time.perf_counter()
        scope[errors.NAMING_HEADERS] = naming_headers = name_request(scope["headers"]).headers()

        async def counted() -> Message:
            nonlocal request_bytes
            message = await receive()
            request_bytes += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            nonlocal status, response_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *naming_headers]
            response_bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, counted, noted)
        except asyncio.CancelledError:
            if status:
                raise
            problem = Problem(Kind.NOT_READY, "the service stopped before the answer was there")
            await errors.answer(problem, scope["path"])(scope, counted, noted)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", OTHER_ROUTES)
            self._metrics.of_route(route).count(status or 500, seconds, request_bytes, response_bytes)
            if self._logs_access:
                _log(scope, route, status or 500, seconds, request_bytes, response_bytes)


def _log(
    scope: Scope, route: str, status: int, seconds: float, request_bytes: int, response_bytes: int
) -> None:
    client, _ = scope.get("client") or ("", 0)
    fields: dict[str, Any] = {
        "client": client,
        "method": scope["method"],
        "path": scope["path"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1e3, 3),
        "request_bytes": request_bytes,
        "response_bytes": response_bytes,
        **{f"{name}_ms": round(spent * 1e3, 3) for name, spent in scope.get(TIMING, {}).items()},
    }
    line = "%s %s %s %d %.1f ms"
    path = quote(scope["path"])  # which may have a line's end, and all that a terminal obeys
    log.info(line, client, scope["method"], path, status, seconds * 1e3, extra=fields)
