"""What can go wrong, as exceptions: a class for each case that a caller would handle in another way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

_TYPE_PREFIX = "urn:vaeserve:problem:"
_SHOWN_CHARACTERS = 200


class VaeserveError(Exception):
    """Everything that this package raises about a call that was made."""

    is_retried = False
    retry_after_seconds: float | None = None


class ConnectionFailed(VaeserveError):
    """No connection (tried again), or one that broke off before the whole answer was here (not tried again).

    A request that broke off had reached the service. It may have been what ended the process, and sending it
    again would end the next one: whoever called decides.
    """

    def __init__(self, detail: str, is_retried: bool = False) -> None:
        super().__init__(detail, is_retried)
        self.is_retried = is_retried

    def __str__(self) -> str:
        return str(self.args[0])


class AnswerError(VaeserveError):
    """An answer that is none of the service's: something else listens there, or another version."""


class DeadlineExceeded(VaeserveError):
    """The call's time is over, its retries and their waits included."""


class ProblemError(VaeserveError):
    """An error that the service answered, an RFC 9457 problem document."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        value: Any = None,
        limit: Any = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        # All of them, so that the exception passes through pickle, as between processes.
        super().__init__(status, kind, title, detail, value, limit, retry_after_seconds)
        self.status = status
        self.kind = kind  # what the problem's type ends in; "" for what did not come from the service itself
        self.title = title
        self.detail = detail
        self.value = value  # the offending one
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        self.is_retried = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

    def __str__(self) -> str:
        return f"{self.status} {self.kind or self.title}: {self.detail}"


class InvalidRequest(ProblemError):
    """The request is wrong and stays so: size, type, parameters, too many images."""


class Unauthorized(ProblemError):
    """The service wants a key: pass `headers={"Authorization": "Bearer …"}` to the client."""


class UnknownModel(InvalidRequest):
    """The model is not loaded."""


class OtherModel(ProblemError):
    """The payload is of a model that is not loaded, or not of the one that was named."""


class Overloaded(ProblemError):
    """The queue stayed full for as long as the call was tried."""


class NotReady(ProblemError):
    """The service is loading or draining."""


class DeviceFault(ProblemError):
    """The service's device failed."""


class ServiceDeadline(ProblemError, DeadlineExceeded):
    """The service's own deadline passed before the answer was there."""


_OF_KIND: dict[str, type[ProblemError]] = {
    "malformed": InvalidRequest,
    "unauthorized": Unauthorized,
    "misdirected": InvalidRequest,
    "unknown-model": UnknownModel,
    "method-not-allowed": InvalidRequest,
    "not-acceptable": InvalidRequest,
    "other-model": OtherModel,
    "too-large": InvalidRequest,
    "unsupported-media-type": InvalidRequest,
    "invalid": InvalidRequest,
    "overloaded": Overloaded,
    "not-ready": NotReady,
    "device-fault": DeviceFault,
    "deadline": ServiceDeadline,
}
# Of what stands before the service, such as a proxy.
_OF_STATUS: dict[int, type[ProblemError]] = {429: Overloaded, 503: NotReady, 504: ServiceDeadline}


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> ProblemError:
    """Return the exception that an answer other than 2xx stands for, whoever wrote it."""
    document = _document_of(body)
    kind = str(document.get("type", ""))
    kind = kind.removeprefix(_TYPE_PREFIX) if kind.startswith(_TYPE_PREFIX) else ""
    found = _OF_KIND.get(kind) or _OF_STATUS.get(status, ProblemError)
    return found(
        status,
        kind,
        str(document.get("title") or _phrase_of(status)),
        str(document.get("detail") or bytes(body[:_SHOWN_CHARACTERS]).decode("utf-8", "replace")),
        document.get("value"),
        document.get("limit"),
        retry_after_seconds(headers.get("retry-after")),
    )


def retry_after_seconds(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; None without one."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _document_of(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _phrase_of(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "an error"
