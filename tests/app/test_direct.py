"""The short way to the routes: the same answers as the long one, which is taken once a query string."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app import errors
from app.direct import DirectRoutes
from app.errors import Kind, Problem
from app.routes.common import StrictRoute


class Counted:
    """Counts the requests that come as far."""

    count = 0

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Counted.count += 1
        await self._app(scope, receive, send)


router = APIRouter(route_class=StrictRoute)


@router.post("/double")
async def double(request: Request, n: int = 1, add: float = 0.0) -> Response:
    """Answer 2·n + add and the body."""
    body = (await request.body()).decode()
    if body == "gone":
        raise ClientDisconnect
    if body == "large":
        raise MemoryError
    if body == "wrong":
        raise Problem(Kind.INVALID, "the body is wrong", value=body)
    return Response(f"{2 * n + add:g} {body}", headers={"X-Route": request.scope["route"].path})


@pytest.fixture
def app() -> FastAPI:
    Counted.count = 0
    app = FastAPI()
    app.include_router(router)
    errors.install(app)
    app.add_middleware(Counted)
    app.add_middleware(DirectRoutes)
    return app


@pytest.fixture
async def client(app: FastAPI) -> Iterator[httpx.AsyncClient]:  # type: ignore[misc]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("query", ["", "n=3", "n=3&add=0.5", "add=1e0&n=-2"])
async def test_the_second_answer_is_the_first_ones_like_and_takes_the_short_way(
    client: httpx.AsyncClient, query: str
) -> None:
    first, second = [await client.post(f"/double?{query}", content="a") for _ in range(2)]
    assert (first.status_code, first.content, first.headers) == (200, second.content, second.headers)
    assert second.headers["X-Route"] == "/double"
    other = await client.post(f"/double?{query}", content="b")
    assert other.text == first.text.replace("a", "b")
    assert Counted.count == 1


async def test_methods_and_paths_are_told_apart(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.post("/double")).status_code == 200
        assert (await client.get("/double")).status_code == 405
        assert (await client.post("/double/")).status_code in (307, 404)
    assert Counted.count == 5


@pytest.mark.parametrize("query", ["n=x", "m=1", "n=1&n="])
async def test_what_is_refused_is_refused_again(client: httpx.AsyncClient, query: str) -> None:
    first, second = [await client.post(f"/double?{query}") for _ in range(2)]
    assert first.status_code == second.status_code == 422
    assert first.json() == second.json()
    assert Counted.count == 2


async def test_problems_and_departures_are_answered_the_same_on_both_ways(client: httpx.AsyncClient) -> None:
    expected = await client.post("/double", content="wrong")
    assert (await client.post("/double", content="right")).status_code == 200  # which is remembered
    again = await client.post("/double", content="wrong")
    assert (expected.status_code, expected.json()) == (again.status_code, again.json())
    assert expected.status_code == 422
    assert (await client.post("/double", content="gone")).status_code == 499
    assert Counted.count == 2


async def test_memory_that_ends_is_a_problem_on_both_ways(client: httpx.AsyncClient) -> None:
    expected = await client.post("/double", content="large")
    assert (await client.post("/double", content="right")).status_code == 200  # which is remembered
    again = await client.post("/double", content="large")
    assert (expected.status_code, expected.json()) == (again.status_code, again.json())
    assert (expected.status_code, expected.headers["Retry-After"]) == (429, "1")
    assert expected.json()["detail"] == "the host has no memory for this request now"
    assert Counted.count == 2


async def test_the_oldest_is_forgotten_and_long_ones_are_not_remembered(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectRoutes, "max_calls", 2)
    for n in (1, 2, 3, 3, 2, 1):
        assert (await client.post(f"/double?n={n}")).text == f"{2 * n} "
    assert Counted.count == 4
    for _ in range(2):
        assert (await client.post(f"/double?n={'0' * 300}1")).text == "2 "
    assert Counted.count == 6
