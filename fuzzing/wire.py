"""A connection without a socket, for what is handed to the protocol in one process."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire(asyncio.Transport):
    """A connection whose client reads everything."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 8000)})
        self.written, self.is_closed = b"", False

    def write(self, data: Any) -> None:
        """Keep what is written."""
        self.written += data

    def close(self) -> None:
        """Note that no more is written."""
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        """Tell whether the connection is closed."""
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        """Return 0: all was read."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing: all was read."""

    resume_reading = pause_reading
