"""What was freed goes back to the system.

glibc keeps it where anything lies behind it that stays, and takes more for the next batch that does not fit
between: its heaps grow for a long time, though nothing is lost.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache

TRIM_SECONDS = 10.0  # a trim takes two milliseconds, and the pages that are wanted again as much


@cache
def keep_heap_small() -> None:
    """Give back what is free, every TRIM_SECONDS until the process ends; other C libraries are left alone."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        never = threading.Event()
        threading.Thread(target=give_back, args=(trim, TRIM_SECONDS, never), name="heap", daemon=True).start()


def give_back(trim: Callable[[int], object], seconds: float, stop: threading.Event) -> None:
    """Call glibc's malloc_trim again and again, after so many seconds each time."""
    while not stop.wait(seconds):
        trim(0)
