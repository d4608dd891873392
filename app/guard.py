"""Who may ask: by the address that was asked for, and by key where keys are set.

Health is open to all, as orchestrators have no key and ask by other addresses; metrics are where that is set.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from app import errors
from app.errors import Kind, Problem

ANY = "*"
OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
METRICS = "/metrics"


def open_paths(opens_metrics: bool) -> frozenset[str]:
    """Return the paths that are open to all."""
    return frozenset((*OPEN, METRICS) if opens_metrics else OPEN)


class Guard:
    """Answers 421 to requests for other hosts, and 401 to those without a key."""

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], keys: Iterable[str], opens_metrics: bool
    ) -> None:
        self._app = app
        self._hosts = None if ANY in hosts else frozenset(host.lower().encode() for host in hosts)
        self._shown_hosts = ", ".join(hosts)
        self._digests = [_digest(key.encode()) for key in keys]
        self._open = open_paths(opens_metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before anything of it is read."""
        if scope["type"] == "http" and scope["path"] not in self._open:
            try:
                self._check(scope["headers"])
            except Problem as problem:
                await errors.answer(problem, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        host = authorization = api_key = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
        if self._hosts is not None and _without_port(host) not in self._hosts:
            given = host.decode("latin-1")
            detail = f"the Host is {errors.echo(given)!r}; VAE_ALLOWED_HOSTS are {self._shown_hosts}"
            raise Problem(Kind.MISDIRECTED, detail, value=given, limit=self._shown_hosts)
        if self._digests and not self._is_key(api_key or _key_of(authorization)):
            detail = "a key is needed: Authorization: Bearer …, or X-API-Key"
            raise Problem(Kind.UNAUTHORIZED, detail)

    def _is_key(self, given: bytes) -> bool:
        digest = _digest(given)
        # Each compared in constant time, and all of them: the time tells nothing of how near a guess came.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return (name if colon and port.isdigit() else host).lower()


def _key_of(authorization: bytes) -> bytes:
    """Return the key of a Bearer, or the password of a Basic: what a browser asks its user for."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
