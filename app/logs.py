"""Logs as text or JSON, and what names a request in them: its id, and the W3C trace that it is part of."""

from __future__ import annotations

import logging
import random
import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pythonjsonlogger.json import JsonFormatter

from app.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]
_GIVEN_ID = re.compile(rb"[!-~]{1,128}")  # no spaces or controls, which a log's reader could mistake
_FIELDS = {"levelname": "level", "name": "logger"}
_PROPAGATOR = TraceContextTextMapPropagator()
# Seeded once: the system gives random bytes without the interpreter's lock, which takes long to come back.
_random = random.Random(secrets.randbits(256))


class Names(NamedTuple):
    """A request's id, the caller's where it gave one, and its place in a trace."""

    request_id: str
    span: SpanContext | None

    @property
    def trace_id(self) -> str | None:
        """The trace that it is part of, in hexadecimal."""
        return None if self.span is None else trace.format_trace_id(self.span.trace_id)

    @property
    def span_id(self) -> str | None:
        """Its place in the trace, in hexadecimal."""
        return None if self.span is None else trace.format_span_id(self.span.span_id)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return what tells the caller of them."""
        headers = [(b"x-request-id", self.request_id.encode())]
        if self.span is not None:
            flags = f"{self.span.trace_flags:02x}"
            headers.append((b"traceresponse", f"00-{self.trace_id}-{self.span_id}-{flags}".encode()))
        return headers


_current: ContextVar[Names | None] = ContextVar("names", default=None)


def name_request(headers: Headers) -> Names:
    """Name the request that is answered from here on, in its logs too.

    The span is that of tracing, where it is on; or else a new one in the trace of a `traceparent` header.
    """
    request_id, traceparent = b"", b""
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value
        elif name == b"traceparent":
            traceparent = value
    if not _GIVEN_ID.fullmatch(request_id):
        request_id = b"%016x" % _random.getrandbits(64)
    span = trace.get_current_span().get_span_context()
    names = Names(request_id.decode(), span if span.is_valid else _within(traceparent))
    _current.set(names)
    return names


def _within(traceparent: bytes) -> SpanContext | None:
    if not traceparent:
        return None
    context = _PROPAGATOR.extract({"traceparent": traceparent.decode("latin-1")})
    caller = trace.get_current_span(context).get_span_context()
    if not caller.is_valid:
        return None
    span_id = _random.getrandbits(63) + 1
    return SpanContext(caller.trace_id, span_id, is_remote=False, trace_flags=TraceFlags(caller.trace_flags))


class _Naming(logging.Filter):
    """Adds the names of the request that is answered to a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (names := _current.get()) is not None:
            record.request_id = names.request_id
            if names.span is not None:
                record.trace_id, record.span_id = names.trace_id, names.span_id
        return True


def log_as(settings: Settings) -> None:
    """Have what is logged, by the server too, written to standard error as the settings say."""
    handler = logging.StreamHandler()
    handler.addFilter(_Naming())
    if settings.log_format == "json":
        handler.setFormatter(
            JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, timestamp=True)
        )
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s:     %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
