"""Opening and closing a port so that nobody waits at it for long, and nobody is lost.

The event loop takes one connection a turn, as libuv does, https://github.com/libuv/libuv/pull/3696. In an
overload a turn lasts as long as answering all of a thousand connections, and who comes last would wait for as
many turns as there are before it. So whoever else waits is taken with it.

Closing a listening socket resets the connections that nobody has accepted, and those that are being made. So
it is first bound to a network interface that does not exist: who asks from then on is refused, as if the
port were closed. What is there by now can be accepted, and a moment later what was being made; then nothing
is left to be reset, unless the network takes longer than that moment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

log = logging.getLogger("vaeserve")
_SO_BINDTOIFINDEX = 62  # of Linux's asm-generic/socket.h; Python has no name for it
_NO_INTERFACE = 0x7FFFFFFF


def take_no_new(listener: socket.socket) -> None:
    """Have the kernel refuse new connections, whichever process has the socket too, where it can.

    The socket listens on, for what has been taken and what is being made.
    """
    try:
        if listener.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX) != _NO_INTERFACE:
            listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError as error:  # of another system than Linux, say
        log.debug("a connection that is being made as the port closes may be reset: %s", error)


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits, and close the listening socket, which does not block."""
    with listener:
        return _waiting(listener)


class PromptTaking:
    """Takes all who wait at listening sockets, told that the event loop has taken one."""

    def __init__(self, listeners: Sequence[socket.socket], make: Callable[[], asyncio.Protocol]) -> None:
        self._listeners, self._make = listeners, make
        self._connecting: set[asyncio.Task[None]] = set()

    def take(self) -> None:
        """Take who else waits."""
        if waiting := [each for listener in self._listeners for each in _waiting(listener)]:
            task = asyncio.create_task(connected(self._make, *waiting))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def close(self) -> None:
        """Close the listening sockets."""
        for listener in self._listeners:
            listener.close()
        self._listeners = ()


async def connected(make: Callable[[], asyncio.Protocol], *connections: socket.socket) -> None:
    """Give each connection a protocol, but for those whose clients have gone."""
    connect = asyncio.get_running_loop().connect_accepted_socket
    ends = await asyncio.gather(*(connect(make, each) for each in connections), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, OSError):
            raise end


def _waiting(listener: socket.socket) -> list[socket.socket]:
    taken = []
    with suppress(OSError):  # none is left, or no descriptor for it
        while True:
            taken.append(listener.accept()[0])
    return taken
