"""The application, and the server around it: start, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app import errors
from app.direct import CLIENT_CLOSED_REQUEST, DirectRoutes
from app.document import build_document
from app.guard import ANY, Guard
from app.observation import ObservedRequests, expect_requests
from app.port import PromptTaking, accepted, connected, take_no_new
from app.protocol import Patience, PromptProtocol
from app.routes import ROUTERS
from app.service import Service
from app.settings import Settings

log = logging.getLogger("vaeserve")
ANSWER_SECONDS = 5.0
CLOSING_SECONDS = 0.1  # for connections that are being made when the server stops
_ROUNDS = 2  # of the event loop at most, until a connection that it has accepted is there
FIGURES = ("X-Original-Bytes", "X-Compressed-Bytes", "X-Bits-Per-Dim", "X-Png-Bytes", "X-Webp-Bytes")
EXPOSED_HEADERS = ("Retry-After", "Server-Timing", "X-Request-Id", "X-Seed", *FIGURES)
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
        generate_unique_id_function=_operation_id,
        telemetry={
            "tracing": settings.tracing,
            "metrics": False,  # GET /metrics has them
            "logs": False,
            "operation_spans": False,
            "auto_configure": settings.tracing,
        },
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    if not settings.tracing:  # whose spans FastAPI names as it finds the route
        app.add_middleware(DirectRoutes)
    keys = settings.keys()
    if keys or ANY not in settings.allowed_hosts:
        hosts, opens_metrics = settings.allowed_hosts, settings.open_metrics
        app.add_middleware(Guard, hosts=hosts, keys=keys, opens_metrics=opens_metrics)
    if settings.cors_origins:  # before the guard: a browser asks without a key whether it may ask
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(ObservedRequests, metrics=service.metrics, logs_access=settings.access_log)
    expect_requests(service.metrics, ROUTERS)

    def describe() -> dict[str, Any]:
        document = app.openapi_schema or build_document(app, service)
        app.openapi_schema = document if service.default_config else None  # its examples need the model
        return document

    app.openapi = describe  # type: ignore[method-assign]
    return app


class Server(uvicorn.Server):
    """A server that leaves the load balancer first, exits 0 when told to stop, and 1 when it cannot load.

    `closes_port` tells, when it stops, whether the port is closed with it: others may listen on.
    """

    def __init__(
        self,
        settings: Settings,
        engine_socket: Path | None = None,
        closes_port: Callable[[], bool] = lambda: True,
    ) -> None:
        self.app = create_app(settings, engine_socket)
        self._service: Service = self.app.state.service
        self._drain_delay_seconds = settings.drain_delay_seconds
        self._closes_at = float("inf")
        self._closes_port = closes_port
        self._taking: PromptTaking | None = None  # once the port is open
        # A body that is late is answered first: then there is a moment for the client to read that.
        body_seconds = settings.deadline_seconds + ANSWER_SECONDS
        patience = Patience(settings.head_seconds, body_seconds, settings.reading_seconds)
        closed = self._service.metrics.closed_connections
        self._protocol = partial(PromptProtocol, patience=patience, closed=closed)
        protocol = partial(self._protocol, taken=self._take_waiting)
        super().__init__(
            uvicorn.Config(
                self.app,
                host=settings.host,
                port=settings.port,
                http=cast("type[asyncio.Protocol]", protocol),
                ws="none",  # whose connections have no such patience
                log_config=None,
                access_log=False,
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load and listen; take all who wait at the port at once, unless other processes take them too."""
        await super().startup(sockets)
        if sockets is None:
            listening = [socket.socket(fileno=os.dup(each.fileno())) for each in self._listening]
            self._taking = PromptTaking(listening, self._new_protocol)

    def _take_waiting(self) -> None:
        if self._taking is not None:
            self._taking.take()

    @property
    def _listening(self) -> list[socket.socket]:
        return [each for server in self.servers for each in server.sockets]

    def _new_protocol(self) -> asyncio.Protocol:
        state, app_state = self.server_state, self.lifespan.state
        return self._protocol(config=self.config, server_state=state, app_state=app_state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that closing the port would reset; then stop."""
        try:
            await self._take_last(sockets or ())
        except OSError as error:  # no descriptor is left for them, say
            log.warning("connections that waited to be taken are reset: %s", error)
        await super().shutdown(sockets)

    async def _take_last(self, sockets: Sequence[socket.socket]) -> None:
        listening = self._listening
        if not self._closes_port():  # told with all the others, it may be the first to stop
            await asyncio.sleep(CLOSING_SECONDS)
        for each in listening if self._closes_port() else ():
            take_no_new(each)
        await asyncio.sleep(CLOSING_SECONDS)
        copies = [socket.socket(fileno=os.dup(each.fileno())) for each in listening]
        if self._taking is not None:
            self._taking.close()
        for server in self.servers:
            server.close()
        for ours in sockets:
            ours.close()
        taken = [connection for copy in copies for connection in accepted(copy)]
        await connected(self._new_protocol, *taken)
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)

    def exit_status(self) -> int:
        """Return the process's exit status after `run`."""
        return 1 if self._service.load_fault is not None else 0

    @property
    def leaves_at_once(self) -> bool:
        """Whether the interpreter's end would abort the process, after `run`.

        By a batch that was not waited for, whose thread is inside torch, or by the pinned buffers of a device
        that is lost.
        """
        return self._service.is_computing or self._service.device_is_lost


def serve(server: Server, sockets: list[socket.socket] | None = None) -> int:
    """Serve until told to stop, and return the exit status."""
    server.run(sockets)
    if server.leaves_at_once:
        logging.shutdown()
        os._exit(server.exit_status())
    return server.exit_status()


def _operation_id(route: APIRoute) -> str:
    return f"inference_{route.name}" if route.path.startswith(errors.INFERENCE_PREFIX) else route.name


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
