"""A short way to the routes: what a query string means is asked of FastAPI once, then remembered.

    request ─► DirectRoutes ─┬─► FastAPI: routing, validation ─► Call ─► endpoint    the first time
                             └────────────────────────────────► Call ─► endpoint    from then on

FastAPI's way takes longer than parsing a small image, and query strings are few.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import errors
from app.errors import Problem, no_memory

CLIENT_CLOSED_REQUEST = 499  # nobody reads this answer; it is what the metrics count
Endpoint = Callable[..., Awaitable[Response]]
_CALL = "vaeserve.call"  # in a request's scope


class Call(NamedTuple):
    """An endpoint, the parameters that it is called with, and its route."""

    endpoint: Endpoint
    parameters: Mapping[str, Any]
    route: object


def noted(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that leaves its call in the scope of a request that it answers.

    Where the memory ends that the request would take, that is a problem as any other.
    """

    async def answer(request: Request, **parameters: Any) -> Response:
        try:
            return await endpoint(request, **parameters)
        except MemoryError as error:
            raise no_memory() from error

    @wraps(endpoint)
    async def noting(request: Request, **parameters: Any) -> Response:
        response = await answer(request, **parameters)
        request.scope[_CALL] = Call(answer, parameters, request.scope.get("route"))
        return response

    return noting


class DirectRoutes:
    """Calls the endpoints of requests whose method, path and query string were valid before."""

    max_calls = 1024  # remembered; the oldest is forgotten
    max_query_bytes = 256

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._calls: dict[tuple[str, str, bytes], Call] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = (scope["method"], scope["path"], scope["query_string"])
        if (call := self._calls.get(asked)) is None:
            await self._app(scope, receive, send)
            self._remember(asked, scope.get(_CALL))
            return
        scope["route"] = call.route
        try:
            response = await call.endpoint(Request(scope, receive), **call.parameters)
        except Problem as problem:
            response = errors.answer(problem, scope["path"])
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        await response(scope, receive, send)

    def _remember(self, asked: tuple[str, str, bytes], call: Call | None) -> None:
        if call is None or len(asked[1]) + len(asked[2]) > self.max_query_bytes:
            return
        if len(self._calls) >= self.max_calls:
            del self._calls[next(iter(self._calls))]
        self._calls[asked] = call
