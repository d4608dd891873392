"""Errors as RFC 9457 problem documents: one table of kinds, one exception, one place that answers.

raise Problem(Kind.TOO_LARGE, "the body has 70 bytes; the limit is 64", value=70, limit=64)

answers 413 with application/problem+json:

{"type": "urn:vaeserve:problem:too-large", "title": …, "status": 413, "detail": …, "value": 70, "limit": 64}

Below /v2 the Open Inference Protocol has its own form, {"error": detail}, with the same status.
"""

import math
import reprlib
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
INFERENCE_PREFIX = "/v2"
NAMING_HEADERS = "vaeserve.naming-headers"  # in a request's scope: what tells the caller of its id
_ECHO_CHARACTERS = 100
_DETAIL_CHARACTERS = 1000
_LISTED_ERRORS = 20
_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "expected")
_reprs = reprlib.Repr()
_reprs.maxother = _reprs.maxstring = _reprs.maxlong = _ECHO_CHARACTERS


class Kind(Enum):
    """What can go wrong: status, slug of the type, title."""

    MALFORMED = 400, "malformed", "The request cannot be read"
    UNAUTHORIZED = 401, "unauthorized", "A key is needed"
    NOT_FOUND = 404, "not-found", "There is nothing at this address"
    UNKNOWN_MODEL = 404, "unknown-model", "The model is not loaded"
    METHOD_NOT_ALLOWED = 405, "method-not-allowed", "The address does not take this method"
    NOT_ACCEPTABLE = 406, "not-acceptable", "The answer has none of the accepted media types"
    OTHER_MODEL = 409, "other-model", "The payload is of another model"
    TOO_LARGE = 413, "too-large", "The request is larger than allowed"
    UNSUPPORTED_MEDIA_TYPE = 415, "unsupported-media-type", "The body's media type is not read here"
    MISDIRECTED = 421, "misdirected", "The request is for another host"
    INVALID = 422, "invalid", "The request is well-formed but wrong"
    OVERLOADED = 429, "overloaded", "The queue is full"
    INTERNAL = 500, "internal", "The service failed"
    NOT_READY = 503, "not-ready", "The service is not ready"
    DEVICE_FAULT = 503, "device-fault", "The device failed"
    DEADLINE = 504, "deadline", "The deadline passed"

    def __init__(self, status: int, slug: str, title: str):
        self.status = status
        self.slug = slug
        self.title = title

    @property
    def is_retried(self) -> bool:
        """Whether the same request may succeed soon, which Retry-After then says."""
        return self in (Kind.OVERLOADED, Kind.NOT_READY)


GUARDED = (Kind.UNAUTHORIZED, Kind.MISDIRECTED)  # answered before a route is looked for


class Problem(Exception):
    """A request that cannot be answered: `detail` names the offending value and the limit, in words."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        value: object = None,
        limit: object = None,
        retry_after_seconds: float = 1,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.value = value
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers or {}


def no_memory() -> Problem:
    """Return the problem of a request that would take more memory than the host has now."""
    return Problem(Kind.OVERLOADED, "the host has no memory for this request now")


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document: ours, the router's, the validator's, the unexpected."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(Exception, _answer_unexpected)


def answer(problem: Problem, path: str) -> Response:
    """Render a problem as the response that carries it, in the form that the path's protocol has."""
    kind = problem.kind
    headers = {**problem.headers}
    if kind.is_retried:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_seconds)))
    if kind is Kind.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="vaeserve", Bearer'
    return _respond(path, _document(kind, problem.detail, problem.value, problem.limit), headers)


def invalid(place: str, error: ValidationError) -> Problem:
    """Return what pydantic found first, in `place`, as a problem."""
    fault = _fault({**error.errors()[0], "loc": (place, *error.errors()[0]["loc"])})
    return Problem(Kind.INVALID, fault["detail"], value=fault.get("value"), limit=fault.get("limit"))


def echo(value: object) -> Any:
    """Return a value as JSON can carry it in an error: at most 100 characters, whatever a caller sent."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= 8 and all(type(item) is int for item in value):
        items = [echo(item) for item in value]
        return items if len(str(items)) <= _ECHO_CHARACTERS else _shorten(str(items), _ECHO_CHARACTERS)
    if isinstance(value, str):
        return _shorten(value, _ECHO_CHARACTERS)
    return _shorten(_represent(value), _ECHO_CHARACTERS)


def _represent(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    try:
        return _reprs.repr(value)
    except Exception:  # such as an integer within, too long for Python to print
        return f"a {type(value).__name__}"


def _shorten(text: str, characters: int) -> str:
    # Lone surrogates, which JSON cannot carry, become question marks.
    shown = text if len(text) <= characters else text[: characters - 1] + "…"
    return shown.encode("utf-8", "replace").decode()


def _document(kind: Kind, detail: str, value: object = None, limit: object = None) -> dict[str, Any]:
    document = {
        "type": f"urn:vaeserve:problem:{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": _shorten(detail, _DETAIL_CHARACTERS),
    }
    extension = {"value": echo(value), "limit": echo(limit)}
    return document | {name: member for name, member in extension.items() if member is not None}


def _respond(path: str, document: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    if path == INFERENCE_PREFIX or path.startswith(f"{INFERENCE_PREFIX}/"):
        error = {"error": document["detail"]}
        return Response(orjson.dumps(error), document["status"], headers, "application/json")
    return Response(orjson.dumps(document), document["status"], headers, MEDIA_TYPE)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error, request.url.path)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = echo(request.url.path)
    allowed = (error.headers or {}).get("Allow", "")
    match error.status_code:
        case 404:
            document = _document(Kind.NOT_FOUND, f"there is nothing at {path}", value=path)
        case 405:
            detail = f"{path} does not take {request.method}; it takes {allowed}"
            document = _document(Kind.METHOD_NOT_ALLOWED, detail, request.method, allowed)
        case status:
            title = HTTPStatus(status).phrase
            document = {"type": "about:blank", "title": title, "status": status, "detail": str(error.detail)}
    return _respond(request.url.path, document, error.headers)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()[:_LISTED_ERRORS]]
    first = faults[0]
    document = _document(Kind.INVALID, first["detail"], first.get("value"), first.get("limit"))
    return _respond(request.url.path, document | {"errors": faults})


def _fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    place, *names = fault["loc"]
    parameter = _shorten(".".join(map(str, names)) or place, _ECHO_CHARACTERS)
    context = fault.get("ctx", {})
    limit = echo(next((context[bound] for bound in _BOUNDS if bound in context), None))
    value = None if fault["type"] == "missing" else echo(fault.get("input"))
    message = fault["msg"][0].lower() + fault["msg"][1:]
    got = "" if value is None else f", got {value}"
    detail = _shorten(f"{place} parameter {parameter}: {message}{got}", _DETAIL_CHARACTERS)
    members = {"parameter": parameter, "detail": detail, "value": value, "limit": limit}
    return {name: member for name, member in members.items() if member is not None}


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so that the server logs it with its traceback.
    problem = Problem(Kind.INTERNAL, "an unexpected error; the service's log has it")
    response = answer(problem, request.url.path)
    response.raw_headers.extend(request.scope.get(NAMING_HEADERS, ()))  # sent past what adds them elsewhere
    return response
