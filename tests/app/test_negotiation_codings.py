"""Content-Encoding: what comes coded is read within limits, what goes out is coded where it is accepted."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest
from starlette.requests import Request

from app.errors import Kind, Problem, answer
from app.negotiation import accepted_coding, content_coding, deflated, inflated, is_worth_coding

CODED = {"gzip": gzip.compress, "deflate": zlib.compress}
INFLATES = {"gzip": gzip.decompress, "deflate": zlib.decompress}
LIMIT = 1 << 22


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def inflate(body: bytes, coding: str = "gzip", limit: int = LIMIT) -> tuple[bytes | Problem, list[int]]:
    told: list[int] = []
    try:
        return asyncio.run(inflated(body, coding, limit, told.append)), told
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
        (
            gzip.compress(bytes(1 << 26))[:-4] + bytes(4),
            "gzip",
            LIMIT + 1,
            LIMIT + 1,
        ),  # it says something else
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
