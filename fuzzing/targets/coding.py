"""Bodies that come gzipped or deflated, against the standard library's readers and what is parsed of them."""

from __future__ import annotations

import zlib
from functools import partial

from app.negotiation import IMAGES_IN, check_of_pieces, inflated, parse_images
from app.negotiation.media import JSON, NPY
from fuzzing import sums
from fuzzing.expected import LIMITS, accepted, awaited

mended = sums.mended_coding
WINDOW_BITS = {"gzip": 31, "deflate": 15}


def check(data: bytes) -> None:
    """Inflate a body, gzip where it begins as such, within the limit and with every byte told before."""
    coding = "gzip" if data.startswith(b"\x1f\x8b") else "deflate"
    told: list[int] = []
    found = accepted(lambda: awaited(inflated(data, coding, LIMITS.body_bytes, told.append)))
    if found is None:
        return
    assert found == zlib.decompress(data, WINDOW_BITS[coding])
    assert sum(told) == len(found) <= LIMITS.body_bytes
    for media_type in (JSON, NPY):
        if accepted(partial(parse_images, found, media_type, LIMITS)) is not None:
            checked = check_of_pieces(media_type, IMAGES_IN, LIMITS)
            assert awaited(inflated(data, coding, LIMITS.body_bytes, told.append, checked)) == found
