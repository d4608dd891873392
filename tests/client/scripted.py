"""A server that says what it was told to say, byte for byte: what the service says by accident alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

Said = bytes | Iterable[bytes]  # an iterable is sent part by part, until the client hangs up


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Return the bytes of an answer."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Scripted(ThreadingHTTPServer):
    """Each request is answered with the next answer, the last of them again and again."""

    def __init__(self, *answers: Said) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers = list(answers)
        self.requests: list[BaseHTTPRequestHandler] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        server = cast(Scripted, self.server)
        server.requests.append(self)
        said = server.answers[min(len(server.requests), len(server.answers)) - 1]
        try:
            for part in [said] if isinstance(said, bytes) else said:
                self.wfile.write(part)
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def scripted(*answers: Said) -> Iterator[Scripted]:
    """Run such a server until the block is left."""
    with Scripted(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
