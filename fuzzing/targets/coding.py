"""Bodies that come gzipped or deflated, against the standard library's own readers."""

from __future__ import annotations

import zlib

from app.negotiation import inflated
from fuzzing import sums
from fuzzing.expected import LIMITS, accepted, awaited

mended = sums.mended_coding
WINDOW_BITS = {"gzip": 31, "deflate": 15}


def check(data: bytes) -> None:
    """Inflate a body, gzip where it begins as such, within the limit and with every byte told before."""
    coding = "gzip" if data.startswith(b"\x1f\x8b") else "deflate"
    told: list[int] = []
    found = accepted(lambda: awaited(inflated(data, coding, LIMITS.body_bytes, told.append)))
    if found is not None:
        assert found == zlib.decompress(data, WINDOW_BITS[coding])
        assert sum(told) == len(found) <= LIMITS.body_bytes
