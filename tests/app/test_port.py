"""A port that is closed without a loss, as its clients see it."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

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


def connecting(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname()[:2], timeout=SOON)


def answer(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(SOON)
        connection.sendall(connection.recv(1) and b"!")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_what_has_come_is_accepted_and_what_comes_later_is_refused(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.setblocking(False)
        address = listener.getsockname()
        clients = [connecting(listener) for _ in range(3)]
        began = time.monotonic()
        taken = port.accepted_last(listener)
        assert len(taken) == 3
        assert listener.fileno() == -1
        for client, connection in zip(clients, taken, strict=True):
            client.sendall(b"?")
            answer(connection)
            with client:
                assert client.recv(1) == b"!"
        assert time.monotonic() - began < port.FILL_SECONDS  # it was filled
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address[:2], timeout=SOON)


def test_nothing_is_taken_while_a_connection_of_ours_waits(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = listener.getsockname()
    is_taken, found = port._is_taken, []

    def look(own: socket.socket, listener: socket.socket) -> bool:
        found.append(is_taken(own, listener))
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.3)
        return found[-1]

    monkeypatch.setattr(port, "_is_taken", look)
    assert port.accepted_last(listener) == []
    assert found == [True]


def test_who_comes_between_the_last_look_and_our_connection_is_accepted(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_taken, clients, found = port._is_taken, [], []

    def look(own: socket.socket, listener: socket.socket) -> bool:
        if not clients:
            clients.append(connecting(listener))
        found.append(is_taken(own, listener))
        return found[-1]

    monkeypatch.setattr(port, "_is_taken", look)
    (taken,) = port.accepted_last(listener)
    assert found == [False, True]
    with clients[0] as client:
        client.sendall(b"?")
        answer(taken)
        assert client.recv(1) == b"!"


def test_a_client_that_asks_again_is_taken_by_who_listens_then(listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.socket() as own, socket.socket() as client:
        listener.listen(0)
        assert port._is_taken(own, listener)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(address)
        listener.close()
        with socket.create_server(address) as next_one:
            _, writable, _ = select.select([], [client], [], SOON)
            assert writable
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            next_one.settimeout(SOON)
            next_one.accept()[0].close()


def test_no_connection_is_reset_while_the_port_closes(listener: socket.socket) -> None:
    command = [sys.executable, "-c", ASKING, str(listener.getsockname()[1])]
    answered = 0
    with ExitStack() as stack:
        clients = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        for client in clients:
            stack.callback(client.kill)
        while answered < 200:
            assert select.select([listener], [], [], SOON)[0]
            answer(listener.accept()[0])
            answered += 1
        for connection in port.accepted_last(listener):
            answer(connection)
            answered += 1
        told = [tuple(map(int, client.communicate(timeout=60)[0].split())) for client in clients]
    assert sum(ok for ok, _ in told) == answered
    assert [lost for _, lost in told] == [0, 0, 0, 0]


@pytest.mark.parametrize("host", ["192.0.2.1", "127.0.0.1"])
def test_a_port_that_cannot_be_filled_is_closed_in_time(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(port, "_ANY_HOST", {"127.0.0.1": host})
    monkeypatch.setattr(port, "select", SimpleNamespace(poll=Unready, POLLOUT=select.POLLOUT))
    with connecting(listener) as client:
        first, *own = port.accepted_last(listener)
        assert listener.fileno() == -1
        client.sendall(b"?")
        answer(first)
        assert client.recv(1) == b"!"
    for connection in own:
        connection.close()


class Unready:
    """A poll to which nothing is ready."""

    def register(self, *_: object) -> None:
        """Take what is to be waited for."""

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """Wait in vain."""
        time.sleep(milliseconds / 1000)
        return []


def test_descriptors_that_run_out_end_the_accepting(listener: socket.socket) -> None:
    with connecting(listener), connecting(listener):
        calls = iter([True, False])

        class Short(socket.socket):
            def accept(self) -> tuple[socket.socket, object]:
                if next(calls):
                    return super().accept()
                raise OSError("Too many open files")

        with Short(fileno=listener.detach()) as short:
            (taken,) = port.accepted(short)
            taken.close()
