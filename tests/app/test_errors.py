"""Problem documents: their exact bytes, and that every kind of error becomes one."""

import asyncio
import math
from typing import Annotated, Any, Literal

import httpx
import orjson
import pytest
from fastapi import FastAPI, Query
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from app.errors import Kind, Problem, answer, echo, install


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/sample")
    async def sample(
        n: Annotated[int, Query(ge=1, le=4096)],
        prior: Annotated[Literal["standard", "aggregated"], Query()] = "standard",
    ) -> int:
        return n

    @app.get("/full")
    async def full() -> None:
        raise Problem(Kind.OVERLOADED, "64 images wait; the limit is 64", value=64, limit=64)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", {"X-Spout": "1"})

    return app


def ask(app: FastAPI, url: str, method: str = "GET") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url)

    return asyncio.run(send())


PATH = "/encode"


class TestKinds:
    def test_table(self) -> None:
        assert {(kind.status, kind.slug) for kind in Kind} == {
            (400, "malformed"),
            (401, "unauthorized"),
            (421, "misdirected"),
            (404, "not-found"),
            (404, "unknown-model"),
            (405, "method-not-allowed"),
            (409, "other-model"),
            (406, "not-acceptable"),
            (413, "too-large"),
            (415, "unsupported-media-type"),
            (422, "invalid"),
            (429, "overloaded"),
            (500, "internal"),
            (503, "not-ready"),
            (503, "device-fault"),
            (504, "deadline"),
        }

    def test_no_kind_is_an_alias_of_another(self) -> None:
        assert len(Kind) == len(Kind.__members__)

    @pytest.mark.parametrize("kind", Kind)
    def test_retry_after_goes_with_what_passes_by_itself(self, kind: Kind) -> None:
        response = answer(Problem(kind, "later", retry_after_seconds=1.2), PATH)
        expected = "2" if kind in (Kind.OVERLOADED, Kind.NOT_READY) else None
        assert response.headers.get("retry-after") == expected

    def test_retry_after_is_at_least_a_second(self) -> None:
        response = answer(Problem(Kind.OVERLOADED, "full", retry_after_seconds=0), PATH)
        assert response.headers["retry-after"] == "1"


class TestDocument:
    def test_bytes(self) -> None:
        problem = Problem(
            Kind.TOO_LARGE,
            "the body has 70000001 bytes; the limit is 67108864",
            value=70000001,
            limit=67108864,
        )
        response = answer(problem, PATH)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        assert response.body == (
            b'{"type":"urn:vaeserve:problem:too-large","title":"The request is larger than allowed",'
            b'"status":413,"detail":"the body has 70000001 bytes; the limit is 67108864",'
            b'"value":70000001,"limit":67108864}'
        )

    def test_value_and_limit_are_left_out_where_there_are_none(self) -> None:
        assert orjson.loads(answer(Problem(Kind.DEADLINE, "too late"), PATH).body) == {
            "type": "urn:vaeserve:problem:deadline",
            "title": "The deadline passed",
            "status": 504,
            "detail": "too late",
        }

    def test_false_and_zero_are_values(self) -> None:
        document = orjson.loads(answer(Problem(Kind.INVALID, "n is 0", value=0, limit=False), PATH).body)
        assert (document["value"], document["limit"]) == (0, False)

    def test_detail_is_shortened(self) -> None:
        document = orjson.loads(answer(Problem(Kind.INVALID, "x" * 5000), PATH).body)
        assert document["detail"] == "x" * 999 + "…"

    def test_lone_surrogates_do_not_break_the_document(self) -> None:
        document = orjson.loads(answer(Problem(Kind.INVALID, "\ud800", value="\udfff"), PATH).body)
        assert (document["detail"], document["value"]) == ("?", "?")

    def test_the_inference_protocol_has_a_form_of_its_own(self) -> None:
        response = answer(
            Problem(Kind.OVERLOADED, "8200 images; the limit is 8192"), "/v2/models/encode/infer"
        )
        assert (response.status_code, response.headers["content-type"]) == (429, "application/json")
        assert response.headers["retry-after"] == "1"
        assert response.body == b'{"error":"8200 images; the limit is 8192"}'


class TestEcho:
    @pytest.mark.parametrize("value", [None, True, 0, -7, 2**53 - 1, 0.5, "text", [28, 28], []])
    def test_plain_values_stay(self, value: object) -> None:
        assert echo(value) == value
        assert type(echo(value)) is type(value)

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ((3, 64, 64), [3, 64, 64]),
            (math.nan, "nan"),
            (-math.inf, "-inf"),
            (2**53, "9007199254740992"),  # beyond what every JSON reader keeps exact
            (b"\x89PNG", "b'\\x89PNG'"),
            ("y" * 101, "y" * 99 + "…"),
            (["a"], "['a']"),
            ([2**52] * 7, str([2**52] * 7)[:99] + "…"),
        ],
    )
    def test_everything_else_becomes_short_text(self, value: object, shown: Any) -> None:
        assert echo(value) == shown

    def test_integers_that_python_refuses_to_print(self) -> None:
        assert echo(1 << 40_000) == "an integer of 40001 bits"
        assert echo({"n": 1 << 40_000}) == "a dict"

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists
        )
    )
    def test_is_always_json_of_at_most_a_hundred_characters(self, value: object) -> None:
        echoed = echo(value)
        assert len(str(echoed)) <= 100
        assert orjson.loads(orjson.dumps(echoed)) == echoed


class TestInstalled:
    def test_a_problem(self, app: FastAPI) -> None:
        response = ask(app, "/full")
        assert response.status_code == 429
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"] == "1"
        assert response.json()["value"] == 64

    def test_unknown_address(self, app: FastAPI) -> None:
        response = ask(app, "/nowhere")
        assert response.status_code == 404
        assert response.json() == {
            "type": "urn:vaeserve:problem:not-found",
            "title": "There is nothing at this address",
            "status": 404,
            "detail": "there is nothing at /nowhere",
            "value": "/nowhere",
        }

    def test_wrong_method_keeps_the_allow_header(self, app: FastAPI) -> None:
        response = ask(app, "/sample", "DELETE")
        assert response.status_code == 405
        assert response.headers["allow"] == "GET"
        document = response.json()
        assert document["type"] == "urn:vaeserve:problem:method-not-allowed"
        assert document["detail"] == "/sample does not take DELETE; it takes GET"
        assert (document["value"], document["limit"]) == ("DELETE", "GET")

    def test_other_http_errors_keep_status_and_headers(self, app: FastAPI) -> None:
        response = ask(app, "/teapot")
        assert response.status_code == 418
        assert response.headers["x-spout"] == "1"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "type": "about:blank",
            "title": "I'm a Teapot",
            "status": 418,
            "detail": "short and stout",
        }

    def test_value_out_of_bounds(self, app: FastAPI) -> None:
        response = ask(app, "/sample?n=5000")
        fault = {
            "parameter": "n",
            "detail": "query parameter n: input should be less than or equal to 4096, got 5000",
            "value": "5000",
            "limit": 4096,
        }
        assert response.status_code == 422
        assert response.json() == {
            "type": "urn:vaeserve:problem:invalid",
            "title": "The request is well-formed but wrong",
            "status": 422,
            "detail": fault["detail"],
            "value": "5000",
            "limit": 4096,
            "errors": [fault],
        }

    def test_missing_parameter(self, app: FastAPI) -> None:
        document = ask(app, "/sample").json()
        assert document["detail"] == "query parameter n: field required"
        assert "value" not in document

    def test_every_error_is_listed(self, app: FastAPI) -> None:
        document = ask(app, "/sample?n=x&prior=flat").json()
        assert [error["parameter"] for error in document["errors"]] == ["n", "prior"]
        assert document["errors"][1]["limit"] == "'standard' or 'aggregated'"

    @pytest.mark.parametrize("n", ["9" * 6000, "nan", "%00", "%ff%fe"])
    def test_absurd_values_are_echoed_short(self, app: FastAPI, n: str) -> None:
        response = ask(app, f"/sample?n={n}")
        assert response.status_code == 422
        assert len(response.json()["value"]) <= 100

    def test_unexpected_errors_say_nothing_of_the_inside(self, app: FastAPI) -> None:
        response = ask(app, "/broken")
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "type": "urn:vaeserve:problem:internal",
            "title": "The service failed",
            "status": 500,
            "detail": "an unexpected error; the service's log has it",
        }
