"""Content-Encoding of bodies, gzip or deflate: undone within limits, and done where a client accepts it."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from io import BytesIO

from starlette.requests import Request

from app.errors import Kind, Problem, echo

# The window bits that zlib knows each by. HTTP's deflate is zlib's format, not the bare stream.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_OLD_NAMES = {"x-gzip": "gzip"}  # which HTTP has kept
BODY_CODINGS = ("identity", *_WINDOW_BITS, *_OLD_NAMES)
_PIECE_BYTES = 1 << 20  # made at once, so that what is held is known before there is more
_QUICK_BYTES, _QUICK_PIECE_BYTES = 16 << 10, 64 << 10  # in less time than a thread's start
_LEAST_BYTES = 1 << 10  # of an answer; a packet takes as long whatever is in it
_REFUSED = re.compile(r"q=0(\.0{0,3})?")
_LEVEL = 1  # floats and pixels hardly become smaller with more


def content_coding(request: Request) -> str | None:
    """Return how a request's body is coded, None for not at all; raise Problem for a coding not known."""
    coding: str = request.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return None
    coding = _OLD_NAMES.get(coding, coding)
    if coding not in _WINDOW_BITS:
        supported = ", ".join(("identity", *_WINDOW_BITS))
        detail = f"Content-Encoding is {echo(coding)}; supported are {supported}"
        headers = {"Accept-Encoding": ", ".join(_WINDOW_BITS)}
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, detail, value=coding, limit=supported, headers=headers)
    return coding


async def inflated(
    body: bytes,
    coding: str,
    max_bytes: int,
    admit: Callable[[int], None],
    check: Callable[[bytes], None] = lambda _: None,
) -> bytes:
    """Undo a coding piece by piece, showing each to `check`, and telling `admit` of its bytes.

    Raises Problem for a damaged body, and for more than `max_bytes` in it: after the first piece where gzip
    says so, whose last bytes are the size, modulo 2**32; what `check` raises, too, which a thread calls.
    The caller bounds for how long threads are waited for, and by `admit` for how many bodies.
    """
    said = int.from_bytes(body[-4:], "little") if coding == "gzip" else 0
    inflating = zlib.decompressobj(_WINDOW_BITS[coding])
    rest, whole = body, BytesIO()  # which gives its bytes away without a copy

    def inflate(piece_bytes: int) -> int:
        nonlocal rest, whole
        held = whole.tell()
        piece = inflating.decompress(rest, min(piece_bytes, max_bytes + 1 - held))
        rest = inflating.unconsumed_tail
        if piece:
            check(piece)
        if not held and not inflating.eof:
            # Room for all there may be, which takes memory as it is written. Growing might hold it twice.
            whole = BytesIO(bytes(max_bytes + 1))
        return whole.write(piece)

    while not inflating.eof:
        try:
            if not whole.tell() and len(body) <= _QUICK_BYTES:
                size = inflate(_QUICK_PIECE_BYTES)
            else:  # which returns no bytes: they would be held as long as the thread's future is
                size = await asyncio.to_thread(inflate, _PIECE_BYTES)
        except zlib.error as error:
            raise Problem(Kind.MALFORMED, f"the body is not {coding}: {error}") from error
        if not size and not rest and not inflating.eof:
            raise Problem(Kind.MALFORMED, f"the body is not {coding}: it ends early", value=len(body))
        admit(size)
        made = max(whole.tell(), said) if rest else whole.tell()
        if made > max_bytes:
            detail = f"the body inflates to {made} bytes or more; the limit is {max_bytes}"
            raise Problem(Kind.TOO_LARGE, detail, value=made, limit=max_bytes)
    if inflating.unused_data:
        detail = f"{len(inflating.unused_data)} bytes after the end of the {coding} body"
        raise Problem(Kind.MALFORMED, detail, value=len(inflating.unused_data))
    whole.truncate()
    return whole.getvalue()


def accepted_coding(request: Request, insisted: bool = False) -> str | None:
    """Return the coding of an answer that the client accepts by name, None for none.

    With `insisted`, only one that it names alone: most clients accept all they know with every request.
    """
    accepted = {
        name.strip().lower()
        for element in ",".join(request.headers.getlist("accept-encoding")).split(",")
        for name, _, weight in (element.partition(";"),)
        if not _REFUSED.fullmatch(weight.strip())
    }
    if insisted and len(accepted) != 1:
        return None
    return next((coding for coding in _WINDOW_BITS if coding in accepted), None)


def deflated(body: bytes, coding: str) -> bytes:
    """Code an answer."""
    deflating = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[coding])
    return deflating.compress(body) + deflating.flush()


def is_worth_coding(body: bytes) -> bool:
    """Whether an answer is long enough to become shorter in a way that matters."""
    return len(body) >= _LEAST_BYTES
