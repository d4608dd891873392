"""Problem documents as exceptions, and what else may be answered in their place."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest

from app.errors import Kind, Problem, answer
from tests.client.conftest import Connect
from tests.client.scripted import answer as said
from tests.client.scripted import scripted
from vaeserve_client import (
    AnswerError,
    Client,
    ConnectionFailed,
    DeviceFault,
    InvalidRequest,
    NotReady,
    OtherModel,
    Overloaded,
    ProblemError,
    ServiceDeadline,
    Unauthorized,
    UnknownModel,
    VaeserveError,
)
from vaeserve_client.errors import problem_of, retry_after_seconds

CLASSES = {
    Kind.MALFORMED: InvalidRequest,
    Kind.UNAUTHORIZED: Unauthorized,
    Kind.MISDIRECTED: InvalidRequest,
    Kind.NOT_FOUND: ProblemError,
    Kind.UNKNOWN_MODEL: UnknownModel,
    Kind.METHOD_NOT_ALLOWED: InvalidRequest,
    Kind.NOT_ACCEPTABLE: InvalidRequest,
    Kind.OTHER_MODEL: OtherModel,
    Kind.TOO_LARGE: InvalidRequest,
    Kind.UNSUPPORTED_MEDIA_TYPE: InvalidRequest,
    Kind.INVALID: InvalidRequest,
    Kind.OVERLOADED: Overloaded,
    Kind.INTERNAL: ProblemError,
    Kind.NOT_READY: NotReady,
    Kind.DEVICE_FAULT: DeviceFault,
    Kind.DEADLINE: ServiceDeadline,
}


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_problem_has_its_class(kind: Kind) -> None:
    response = answer(Problem(kind, "it has 70", value=70, limit=64, retry_after_seconds=3), "/encode")
    found = problem_of(response.status_code, response.headers, bytes(response.body))
    assert type(found) is CLASSES[kind]
    assert (found.status, found.kind, found.title) == (kind.status, kind.slug, kind.title)
    assert (found.detail, found.value, found.limit) == ("it has 70", 70, 64)
    assert found.retry_after_seconds == (3 if kind.is_retried else None)
    assert found.is_retried is (kind.status in (429, 503))
    assert str(found) == f"{kind.status} {kind.slug}: it has 70"


def test_an_error_tells_the_offending_value_and_the_limit(client: Client) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.sample(100_001)
    assert str(raised.value) == "422 invalid: n is 100001; the limit is 100000"
    assert (raised.value.value, raised.value.limit) == (100_001, 100_000)


def test_errors_pass_through_pickle() -> None:
    for error in (problem_of(429, {"retry-after": "2"}, b"{}"), ConnectionFailed("gone", is_retried=True)):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


@pytest.mark.parametrize(
    ("status", "kind", "title"),
    [
        (429, Overloaded, "Too Many Requests"),
        (503, NotReady, "Service Unavailable"),
        (504, ServiceDeadline, "Gateway Timeout"),
        (502, ProblemError, "Bad Gateway"),
        (301, ProblemError, "Moved Permanently"),
        (599, ProblemError, "an error"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>the proxy</html>", b"[1]", b'"the proxy"'])
def test_what_stands_before_the_service_is_understood_by_its_status(
    status: int, kind: type[ProblemError], title: str, body: bytes
) -> None:
    found = problem_of(status, {}, body)
    assert type(found) is kind
    assert (found.kind, found.title, found.detail) == ("", title, body.decode())


def test_a_problem_of_another_service_keeps_its_words() -> None:
    document = {"type": "about:blank", "title": "Teapot", "detail": "short and stout"}
    found = problem_of(418, {}, orjson.dumps(document))
    assert str(found) == "418 Teapot: short and stout"


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("120") == 120
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    seconds = retry_after_seconds(later)
    assert seconds is not None
    assert 3500 < seconds <= 3600


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"{}", b'{"default": "x", "models": [{}]}', b'{"default": 1, "models": 2}'],
)
def test_an_answer_that_is_none_of_the_services_is_an_error(connect: Connect, body: bytes) -> None:
    with (
        scripted(said(200, body)) as server,
        pytest.raises(AnswerError, match="/models answered something else than it should"),
    ):
        connect(server.url).models()


@pytest.mark.parametrize("body", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"hello"])
def test_arrays_that_are_none_are_an_error(connect: Connect, body: bytes) -> None:
    with scripted(said(200, body, "X-Seed: 1")) as server:
        client = connect(server.url)
        for ask in (lambda: client.decode([[0.0]]), lambda: client.sample(1)):
            with pytest.raises(AnswerError):
                ask()


def test_every_error_is_one_of_ours() -> None:
    assert all(issubclass(kind, VaeserveError) for kind in (*CLASSES.values(), AnswerError, ConnectionFailed))
