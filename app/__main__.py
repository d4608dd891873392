"""`python -m app`: serve."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError

from app import cluster
from app.logs import log_as
from app.server import Server, serve
from app.settings import PREFIX, Settings, unknown_variables

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def main() -> int:
    """Serve until told to stop; return the exit status: 0, 1 where loading failed, 2 for wrong settings."""
    if unknown := unknown_variables():
        print(f"error: no such setting: {', '.join(unknown)}; the README lists them all", file=sys.stderr)
        return 2
    try:
        settings = Settings()
    except ValidationError as error:
        for fault in error.errors():
            name = PREFIX + "_".join(map(str, fault["loc"])).upper()
            print(f"error: {name}: {fault['msg']}, got {fault['input']!r}", file=sys.stderr)
        return 2
    if settings.tracing and not any(map(os.environ.get, ENDPOINTS)):
        print(f"error: VAE_TRACING needs {ENDPOINTS[0]}: where the spans go", file=sys.stderr)
        return 2
    log_as(settings)
    return cluster.run(settings) if settings.frontends > 1 else serve(Server(settings))


if __name__ == "__main__":
    sys.exit(main())
