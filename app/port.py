"""Closing a port without a loss: the kernel takes nobody new first.

Closing a listening socket resets the connections that nobody has accepted, and those that are being made. So
it is first bound to a network interface that does not exist: who asks from then on is refused, as if the
port were closed. What is there by now can be accepted, and a moment later what was being made; then nothing
is left to be reset, unless the network takes longer than that moment.
"""

from __future__ import annotations

import logging
import socket
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
    taken = []
    with listener, suppress(OSError):  # none is left, or no descriptor for it
        while True:
            taken.append(listener.accept()[0])
    return taken
