"""`python -m app`: serve."""

from __future__ import annotations

import logging
import os
import sys

from pydantic import ValidationError

from app.server import Server
from app.settings import PREFIX, Settings, unknown_variables


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
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s:     %(message)s")
    server = Server(settings)
    server.run()
    if server.is_computing:  # the interpreter's end would abort the process under a thread inside torch
        logging.shutdown()
        os._exit(server.exit_status())
    return server.exit_status()


if __name__ == "__main__":
    sys.exit(main())
