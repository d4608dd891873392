"""Whatever comes over a connection: requests to the whole application, one after the other."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

from uvicorn.server import ServerState

from app.protocol import PromptProtocol
from fuzzing import sums
from fuzzing.expected import LOOP, awaited
from fuzzing.serving import SERVER
from fuzzing.wire import Wire

mended = sums.mended_http
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
SERVER.config.load()
connected: partial[PromptProtocol] = SERVER.config.http_protocol_class  # type: ignore[assignment]


class Kept(Wire):
    """Keeps no more of the answers than their statuses."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []

    def write(self, data: Any) -> None:
        """Keep the status, where an answer begins."""
        if begun := STATUS.match(data):
            self.statuses.append(int(begun[1]))


def check(data: bytes) -> None:
    """Send bytes, wait for the answers to whole requests, and leave; none says that the service failed."""
    statuses = awaited(_exchanged(data))
    assert all(status < 500 for status in statuses), statuses


async def _exchanged(data: bytes) -> list[int]:
    state, transport = ServerState(), Kept()
    protocol = connected(SERVER.config, state, {}, LOOP)
    protocol.connection_made(transport)
    protocol.data_received(data)
    while state.tasks and not transport.is_closed and protocol._stage != "body":
        await asyncio.wait(state.tasks, return_when=asyncio.FIRST_COMPLETED)
    protocol.connection_lost(None)
    if state.tasks:
        await asyncio.wait(state.tasks)
    for task in state.tasks:
        task.result()
    return transport.statuses
