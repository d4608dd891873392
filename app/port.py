"""Closing a port without a loss: who has been taken by the kernel is answered.

Closing a listening socket resets the connections that nobody has accepted, and those that are being made. So
the kernel is first told to take no new ones: their clients ask again a second later, and are refused, or
taken by whoever listens then. What is there by now can be accepted, and a moment later what is being made;
then nothing is left to be reset, unless the network takes longer than that moment.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
from contextlib import suppress

log = logging.getLogger("vaeserve")
_SO_ATTACH_FILTER = 26  # of Linux's asm-generic/socket.h; Python has no name for it
_FLAGS_OFFSET, _SYN = 13, 0x02  # in a TCP header, where the filter's segments begin
# A program of linux/filter.h: its instructions have a code, two jumps and a value. It drops what has SYN set.
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, _FLAGS_OFFSET),  # load a byte
        (0x45, 0, 1, _SYN),  # past the next one unless this bit is set
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # let pass
    )
)
_FILTER = struct.Struct("@HP")  # the number of instructions, and where they are


def take_no_new(listener: socket.socket) -> None:
    """Have the kernel take no new connections, in whichever process has the socket; warn where it cannot.

    The socket listens on, for what has been taken and what is being made.
    """
    program = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    instructions = len(_PROGRAM) // _INSTRUCTION.size
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER.pack(instructions, ctypes.addressof(program))
        )
    except OSError as error:
        log.warning("a connection that is being made as the port closes may be reset: %s", error)


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits, and close the listening socket, which does not block."""
    taken = []
    with listener, suppress(OSError):  # none is left, or no descriptor for it
        while True:
            taken.append(listener.accept()[0])
    return taken
