"""`python -m app`: serve."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app import cluster
from app.logs import log_as
from app.server import Server, serve
from app.settings import PREFIX, Settings, unknown_variables

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def described(fault: ErrorDetails) -> str:
    """Return a wrong setting in words: its variable and value, but for a key, and for what spans several."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    name = PREFIX + "_".join(map(str, fault["loc"])).upper()
    got = "" if fault["loc"][0] == "api_keys" else f", got {fault['input']!r}"
    return f"{name}: {message}{got}"


def main() -> int:
    """Serve until told to stop; return the exit status: 0, 1 where loading failed, 2 for wrong settings."""
    if unknown := unknown_variables():
        print(f"error: no such setting: {', '.join(unknown)}; the README lists them all", file=sys.stderr)
        return 2
    try:
        settings = Settings()
    except ValidationError as error:
        for fault in error.errors():
            print(f"error: {described(fault)}", file=sys.stderr)
        return 2
    if settings.tracing and not any(map(os.environ.get, ENDPOINTS)):
        print(f"error: VAE_TRACING needs {ENDPOINTS[0]}: where the spans go", file=sys.stderr)
        return 2
    log_as(settings)
    return cluster.run(settings) if settings.frontends > 1 else serve(Server(settings))


if __name__ == "__main__":
    sys.exit(main())
