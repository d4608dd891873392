"""Content-Encoding: what comes coded is read within limits, what goes out is coded where it is accepted."""

import asyncio
import gzip
import tracemalloc
import zlib

import numpy as np
import pytest
from starlette.requests import Request

from app.errors import Kind, Problem, answer
from app.negotiation import (
    IMAGES_IN,
    Limits,
    accepted_coding,
    check_of_pieces,
    content_coding,
    deflated,
    inflated,
    is_worth_coding,
)
from tests.app.test_routes import NPY, npy

CODED = {"gzip": gzip.compress, "deflate": zlib.compress}
INFLATES = {"gzip": gzip.decompress, "deflate": zlib.decompress}
LIMIT = 1 << 22


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def inflate(
    body: bytes, coding: str = "gzip", limit: int = LIMIT, content_type: str | None = None
) -> tuple[bytes | Problem, list[int]]:
    told: list[int] = []
    check = check_of_pieces(content_type, IMAGES_IN, Limits(limit, images=8, pixels=8))
    try:
        return asyncio.run(inflated(body, coding, limit, told.append, check)), told
    except Problem as problem:
        return problem, told


@pytest.mark.parametrize("coding", CODED)
def test_what_comes_coded_is_read(coding: str) -> None:
    assert inflate(CODED[coding](b"hello"), coding) == (b"hello", [5])


@pytest.mark.parametrize("coding", CODED)
def test_every_piece_is_told_of(coding: str) -> None:
    body = bytes(range(256)) * 10_000
    whole, told = inflate(CODED[coding](body), coding)
    assert whole == body
    assert sum(told) == len(body)
    assert max(told) <= 1 << 20


def test_a_body_is_held_once_while_it_is_inflated() -> None:
    body = gzip.compress(bytes(LIMIT))

    async def peak_bytes() -> int:
        tracemalloc.start()
        try:
            await inflated(body, "gzip", LIMIT, lambda _: None)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert asyncio.run(peak_bytes()) < 1.75 * LIMIT


@pytest.mark.parametrize(
    ("body", "coding", "made", "most"),
    [
        (zlib.compress(bytes(1 << 26)), "deflate", LIMIT + 1, LIMIT + 1),
        (gzip.compress(bytes(1 << 26)), "gzip", 1 << 26, 1 << 20),  # it says so
        (gzip.compress(bytes(1 << 26))[:-4] + bytes(4), "gzip", LIMIT + 1, LIMIT + 1),  # it says none
        (gzip.compress(bytes(1 << 26))[:-4] + b"\1\0\0\0", "gzip", LIMIT + 1, LIMIT + 1),  # or one
        (gzip.compress(bytes(LIMIT + 1)), "gzip", LIMIT + 1, 1 << 20),
    ],
)
def test_what_inflates_beyond_the_limit_is_refused(body: bytes, coding: str, made: int, most: int) -> None:
    problem, told = inflate(body, coding)
    assert isinstance(problem, Problem)
    assert problem.kind is Kind.TOO_LARGE
    assert (problem.value, problem.limit) == (made, LIMIT)
    assert sum(told) <= most


def test_what_inflates_to_the_limit_is_read() -> None:
    assert inflate(gzip.compress(bytes(LIMIT)))[0] == bytes(LIMIT)


SMALL_NPY = npy(np.zeros((1, 8, 8), np.uint8))


@pytest.mark.parametrize("level", [9, 0])  # a small body, and a large one
@pytest.mark.parametrize(
    ("content_type", "content", "kind", "words", "most"),
    [
        ("application/json", b"[" * (1 << 25), Kind.TOO_LARGE, "the JSON has", 4 << 20),
        ("application/json; charset=utf-8", b"1," * (1 << 24), Kind.TOO_LARGE, "the JSON has", 8 << 20),
        (NPY, bytes(1 << 25), Kind.MALFORMED, "not an .npy file", 0),
        (NPY, SMALL_NPY + bytes(1 << 25), Kind.MALFORMED, "declares 192 bytes with it;", 0),
        (
            NPY,
            npy(np.zeros((1, 1 << 13, 1 << 13), np.uint8)),
            Kind.TOO_LARGE,
            "declares shape [1, 8192, 8192], 67108992 bytes with it; the limit is 33554432",
            0,
        ),
    ],
)
def test_what_would_be_refused_is_not_inflated_to_its_end(
    content_type: str, content: bytes, kind: Kind, words: str, most: int, level: int
) -> None:
    problem, told = inflate(zlib.compress(content, level), "deflate", 1 << 25, content_type)
    assert isinstance(problem, Problem)
    assert problem.kind is kind
    assert words in problem.detail
    assert sum(told) <= most


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b'["' + b"x" * (1 << 23) + b'"]'),
        (NPY, SMALL_NPY),
        (NPY, npy(np.zeros((1, 1 << 11, 1 << 11), np.uint8))),
        (NPY, SMALL_NPY[:100]),
        (NPY, SMALL_NPY.replace(b"'|u1'", b"'|O' ") + bytes(1 << 20)),  # of objects, of any size
        ("image/png", b"[" * (1 << 23)),
        ("text/plain", b"[" * (1 << 23)),
    ],
)
def test_what_may_be_right_is_inflated(content_type: str, content: bytes) -> None:
    assert inflate(zlib.compress(content), "deflate", 1 << 25, content_type)[0] == content


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"not coded at all", "the body is not gzip: "),
        (gzip.compress(b"hello")[:-3], "the body is not gzip: it ends early"),
        (gzip.compress(b"hello") + b"more", "4 bytes after the end of the gzip body"),
        (gzip.compress(b"hello")[:-8] + bytes(8), "the body is not gzip: "),
    ],
)
def test_damaged(body: bytes, words: str) -> None:
    problem, _ = inflate(body)
    assert isinstance(problem, Problem)
    assert problem.kind is Kind.MALFORMED
    assert words in problem.detail


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("identity", None),
        (" Identity", None),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
    ],
)
def test_the_coding_of_a_body(header: str, coding: str | None) -> None:
    assert content_coding(request(content_encoding=header)) == coding
    assert content_coding(request()) is None


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, gzip", ""])
def test_another_coding_is_refused(header: str) -> None:
    with pytest.raises(Problem, match="supported are identity, gzip, deflate") as raised:
        content_coding(request(content_encoding=header))
    assert raised.value.kind is Kind.UNSUPPORTED_MEDIA_TYPE
    assert answer(raised.value, "/encode").headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("br, GZIP", "gzip"),
        ("gzip; q=0, deflate", "deflate"),
        ("gzip;q=0.0", None),
        ("gzip;q=0.000", None),
        ("identity", None),
        ("*", None),
        ("", None),
    ],
)
def test_the_coding_of_an_answer(header: str, coding: str | None) -> None:
    assert accepted_coding(request(accept_encoding=header)) == coding
    assert accepted_coding(request()) is None


@pytest.mark.parametrize(
    ("header", "coding"), [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None), ("", None)]
)
def test_the_coding_that_a_client_insists_on(header: str, coding: str | None) -> None:
    assert accepted_coding(request(accept_encoding=header), insisted=True) == coding


@pytest.mark.parametrize("coding", CODED)
def test_an_answer_is_coded(coding: str) -> None:
    assert INFLATES[coding](deflated(b"hello", coding)) == b"hello"
    assert [is_worth_coding(bytes(size)) for size in (1023, 1024)] == [False, True]
