"""A port that is closed without a loss, as its clients see it."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import uvloop

from app import port

SOON = 10.0
# Asks on one new connection after the other until none is taken; says how many were answered, and not.
ASKING = """
import collections, socket, sys
fates = collections.Counter()
while not fates["refused"]:
    with socket.socket() as asking:
        asking.settimeout(30)
        try:
            asking.connect(("127.0.0.1", int(sys.argv[1])))
            asking.sendall(b"?")
            fates["answered" if asking.recv(1) == b"!" else "ended"] += 1
        except ConnectionRefusedError:
            fates["refused"] += 1
        except OSError as error:
            fates[type(error).__name__] += 1
print(fates["answered"], sum(fates.values()) - fates["answered"] - 1)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def connecting(listener: socket.socket, seconds: float) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=seconds)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_what_has_come_is_accepted_and_what_comes_later_is_refused(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.setblocking(False)
        address = listener.getsockname()[:2]
        with socket.create_connection(address, timeout=SOON) as early:
            port.take_no_new(listener)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=SOON)
            (taken,) = port.accepted(listener)
            with taken:
                early.sendall(b"?")
                taken.settimeout(SOON)
                assert taken.recv(1) == b"?"
                taken.sendall(b"!")
                assert early.recv(1) == b"!"
            assert listener.fileno() == -1


def test_it_may_be_told_again(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), listener.dup() as same:
        port.take_no_new(listener)
        port.take_no_new(same)
        with pytest.raises(ConnectionRefusedError):
            connecting(listener, SOON)
    assert not caplog.records


def test_no_connection_is_reset_while_the_port_closes(listener: socket.socket) -> None:
    command = [sys.executable, "-c", ASKING, str(listener.getsockname()[1])]
    answered, is_closed = 0, False

    def answer(connection: socket.socket) -> int:
        with connection:
            connection.settimeout(SOON)
            connection.sendall(connection.recv(1) and b"!")
        return 1

    with ExitStack() as stack:
        clients = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        for client in clients:
            stack.callback(client.kill)
        while select.select([listener], [], [], 0.2 if is_closed else SOON)[0]:
            answered += answer(listener.accept()[0])
            if not is_closed and answered >= 200:
                port.take_no_new(listener)
                is_closed = True
            assert answered < 2000  # there is no end of them
        answered += sum(map(answer, port.accepted(listener)))
        told = [tuple(map(int, client.communicate(timeout=60)[0].split())) for client in clients]
    assert is_closed
    assert sum(ok for ok, _ in told) == answered
    assert [lost for _, lost in told] == [0, 0, 0, 0]


def test_a_system_that_cannot_goes_on_listening(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(port, "_SO_BINDTOIFINDEX", 999)
    with caplog.at_level(logging.DEBUG):
        port.take_no_new(listener)
    assert "may be reset: [Errno 92]" in caplog.text
    connecting(listener, SOON).close()


def test_descriptors_that_run_out_end_the_accepting(listener: socket.socket) -> None:
    with connecting(listener, SOON), connecting(listener, SOON):
        calls = iter([True, False])

        class Short(socket.socket):
            def accept(self) -> tuple[socket.socket, object]:
                if next(calls):
                    return super().accept()
                raise OSError("Too many open files")

        with Short(fileno=listener.detach()) as short:
            taken = port.accepted(short)
            assert len(taken) == 1
            assert short.fileno() == -1
            taken[0].close()


def test_all_who_wait_are_taken_with_the_first(listener: socket.socket) -> None:
    clients = 40

    async def taken() -> int:
        loop = asyncio.get_running_loop()
        made: list[asyncio.BaseTransport] = []

        class Greeting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)

        class First(Greeting):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                taking.take()

        taking = port.PromptTaking([listener.dup()], Greeting)
        with ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(connecting(listener, SOON))
            async with await loop.create_server(First, sock=listener):
                for _ in range(5):
                    await asyncio.sleep(0)
                taking.close()
                for transport in made:
                    transport.close()
        return len(made)

    assert uvloop.run(taken()) == clients


@pytest.mark.parametrize("fault", [ConnectionResetError("gone"), ValueError("a defect")])
def test_a_client_that_has_gone_is_not_in_the_way_of_others(
    listener: socket.socket, fault: Exception
) -> None:
    made: list[asyncio.Protocol] = []

    def make() -> asyncio.Protocol:
        made.append(asyncio.Protocol())
        return made[-1]

    async def take() -> None:
        loop = asyncio.get_running_loop()
        connect, faults = loop.connect_accepted_socket, iter([fault, None])

        async def connect_the_second(factory: Callable[[], asyncio.Protocol], sock: socket.socket) -> None:
            if error := next(faults):
                sock.close()
                raise error
            transport, _ = await connect(factory, sock)
            transport.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "connect_accepted_socket", connect_the_second)
            with connecting(listener, SOON), connecting(listener, SOON):
                await port.connected(make, *port.accepted(listener))

    if isinstance(fault, OSError):
        asyncio.run(take())
    else:
        with pytest.raises(ValueError, match="a defect"):
            asyncio.run(take())
    assert len(made) == 1
