"""The application, and the server around it: start, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.direct import CLIENT_CLOSED_REQUEST, DirectRoutes
from app.errors import Kind, Problem
from app.metrics import Metrics
from app.openapi import build_document
from app.routes import ROUTERS
from app.service import Service
from app.settings import Settings

OTHER_ROUTES = "other"  # the label of paths that people make up
DESCRIPTION = "Encode images with variational autoencoders, decode latents, sample, score, compress."


def create_app(settings: Settings, engine_socket: Path | None = None) -> FastAPI:
    """Build the application; its models are loaded once it runs, or run in the process at a Unix socket."""
    service = Service(settings, engine_socket)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.load())
        yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await service.close()

    app = FastAPIOffline(
        title="vaeserve",
        version=version("vaeserve"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_middleware(DirectRoutes)
    app.add_middleware(MeasuredRequests, metrics=service.metrics)
    expect_requests(service.metrics)

    def describe() -> dict[str, Any]:
        document = app.openapi_schema or build_document(app, service.default_config)
        app.openapi_schema = document if service.default_config else None  # its examples need the model
        return document

    app.openapi = describe  # type: ignore[method-assign]
    return app


def expect_requests(metrics: Metrics) -> None:
    """Have the counters of every answer that a route documents."""
    for route in (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)):
        for status in (HTTPStatus.OK, *route.responses):
            metrics.of_route(route.path).expect(int(status))
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        metrics.of_route(OTHER_ROUTES).expect(status)


class MeasuredRequests:
    """Counts and times every request by its route, and answers those that the grace period leaves over."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note the status of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = request_bytes = response_bytes = 0
        started = time.perf_counter()

        async def counted() -> Message:
            nonlocal request_bytes
            message = await receive()
            request_bytes += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            nonlocal status, response_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            response_bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, counted, noted)
        except asyncio.CancelledError:
            if status:
                raise
            problem = Problem(Kind.NOT_READY, "the service stopped before the answer was there")
            await errors.answer(problem)(scope, counted, noted)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", OTHER_ROUTES)
            self._metrics.of_route(route).count(status or 500, seconds, request_bytes, response_bytes)


class Server(uvicorn.Server):
    """A server that leaves the load balancer first, exits 0 when told to stop, and 1 when it cannot load."""

    def __init__(self, settings: Settings, engine_socket: Path | None = None) -> None:
        self.app = create_app(settings, engine_socket)
        self._service: Service = self.app.state.service
        self._drain_delay_seconds = settings.drain_delay_seconds
        self._closes_at = float("inf")
        super().__init__(
            uvicorn.Config(
                self.app,
                host=settings.host,
                port=settings.port,
                log_level=settings.log_level,
                access_log=settings.access_log,
                timeout_graceful_shutdown=settings.grace_seconds,
                server_header=False,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn readiness off and close the port after the drain delay; at once when told again.

        Ctrl-C while the server waits for work in flight ends that wait. The handler may interrupt anything,
        so it takes no lock: the next tick does what it asks for.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        is_repeated = self._closes_at < float("inf")
        self._closes_at = 0.0 if is_repeated else time.monotonic() + self._drain_delay_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: told to, or the models could not be loaded."""
        if self._closes_at < float("inf"):
            self._service.drain()
        if time.monotonic() >= self._closes_at or self._service.load_fault is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    def exit_status(self) -> int:
        """Return the process's exit status after `run`."""
        return 1 if self._service.load_fault is not None else 0

    @property
    def is_computing(self) -> bool:
        """Whether a batch that was not waited for still runs, after `run`."""
        return self._service.is_computing


def serve(server: Server, sockets: list[socket.socket] | None = None) -> int:
    """Serve until told to stop, and return the exit status."""
    server.run(sockets)
    if server.is_computing:  # the interpreter's end would abort the process under a thread inside torch
        logging.shutdown()
        os._exit(server.exit_status())
    return server.exit_status()


def log_as(settings: Settings) -> None:
    """Have what is logged written as the settings say."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s:     %(message)s")


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
