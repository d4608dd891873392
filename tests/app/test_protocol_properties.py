"""A request that offers another protocol is taken as one that does not: property-based, over real bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.protocol import Patience, PromptProtocol
from fuzzing.wire import Wire

CLOSED = Counter("closed", "…", ["cause"], registry=None)
OFFER, NO_OFFER = b"Upgrade: h2c\r\n", b"Xpgrade: h2c\r\n"


async def taken(data: bytes, step: int) -> tuple[list[tuple[Any, ...]], bytes, bool]:
    """Return the requests in some bytes that come `step` at a time, the answers, and whether it closed."""
    requests: list[tuple[Any, ...]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, is_whole = b"", False
        while not is_whole:
            message = await receive()
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
        kept = [header for header in scope["headers"] if header[0] not in (b"upgrade", b"xpgrade")]
        requests.append((scope["method"], scope["raw_path"], scope["http_version"], kept, body))
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    config = Config(app, log_config=None)
    wire, state = Wire(), ServerState()
    protocol = PromptProtocol(config, state, {}, patience=Patience(60, 60, 60), closed=CLOSED)
    protocol.connection_made(wire)
    for at in range(0, len(data), step):
        if wire.is_closed:
            break
        protocol.data_received(data[at : at + step])
        for _ in range(8):  # for the answers to be written, and what waits behind them to be parsed
            await asyncio.sleep(0)
    while state.tasks and protocol._stage != "body":
        await asyncio.wait(state.tasks, timeout=0.01)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    return requests, wire.written, wire.is_closed


@st.composite
def request_bytes(draw: st.DrawFn) -> bytes:
    body = draw(st.binary(max_size=40))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    connection = draw(
        st.sampled_from([b"Upgrade", b"Upgrade, HTTP2-Settings", b"close, Upgrade", b"keep-alive, Upgrade"])
    )
    headers = [b"Host: localhost\r\n", b"Connection: %b\r\n" % connection, OFFER]
    method = draw(st.sampled_from([b"GET", b"POST"]))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    content = b""
    if framing == "length":
        headers.append(b"Content-Length: %d\r\n" % len(body))
        content = body
    elif framing == "chunked" and version == b"1.1":
        headers.append(b"Transfer-Encoding: chunked\r\n")
        content = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in _chunks(body)) + b"0\r\n\r\n"
    lines = draw(st.permutations(headers))
    return b"%b /path?a=%%20 HTTP/%b\r\n%b\r\n%b" % (method, version, b"".join(lines), content)


def _chunks(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), 7):
        yield body[at : at + 7]


@settings(max_examples=300, deadline=None)
@given(requests=st.lists(request_bytes(), min_size=1, max_size=3), step=st.sampled_from([1, 5, 33, 1 << 16]))
def test_an_offer_of_another_protocol_changes_nothing(requests: list[bytes], step: int) -> None:
    data = b"".join(requests)
    found, answers, is_closed = asyncio.run(taken(data, step))
    assert (found, answers, is_closed) == asyncio.run(taken(data.replace(OFFER, NO_OFFER), step))
    assert found
