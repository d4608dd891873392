"""Closing a port without a loss: what the kernel has taken is accepted, also in the last moment.

Closing a listening socket resets what waits to be accepted, and a client may connect between the last look
and the closing. So the queue of those that wait is made as short as can be, and a connection of our own is
left in it: while that is there the kernel takes no other. Who asks then asks again a second later, and is
refused, or taken by whoever listens by then.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import suppress

FILL_SECONDS = 0.1  # at most, until the queue is filled
_CONNECT_SECONDS = 0.005  # to this machine, where the kernel takes the connection at all
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def accepted_last(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits, and close the listening socket, which does not block, so that nothing is reset.

    Other processes that listen at the same socket are left with the short queue.
    """
    taken: list[socket.socket] = []
    deadline = time.monotonic() + FILL_SECONDS
    with listener:
        listener.listen(0)  # for one
        is_filled = False
        while not is_filled and time.monotonic() < deadline:
            taken += accepted(listener)
            with socket.socket(listener.family) as own:
                is_filled = _is_taken(own, listener)
                if is_filled:
                    listener.close()
    return taken


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits."""
    taken = []
    with suppress(OSError):  # none is left, or no descriptor for it
        while True:
            taken.append(listener.accept()[0])
    return taken


def _is_taken(own: socket.socket, listener: socket.socket) -> bool:
    """Whether the kernel takes a connection to a listening socket; not where another waits already."""
    host, port, *rest = listener.getsockname()
    own.setblocking(False)
    if own.connect_ex((_ANY_HOST.get(host, host), port, *rest)) not in (0, errno.EINPROGRESS):
        return False
    poll = select.poll()  # whose descriptors may be above 1,023
    poll.register(own, select.POLLOUT)
    return bool(poll.poll(1000 * _CONNECT_SECONDS)) and not own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
