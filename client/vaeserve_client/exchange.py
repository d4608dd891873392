"""What both clients do alike around httpx: options, failures, answers. Nothing is sent or awaited here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from vaeserve_client.answers import Answer
from vaeserve_client.attempts import Attempts
from vaeserve_client.calls import Call
from vaeserve_client.errors import ConnectionFailed, VaeserveError, problem_of

URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 5.0
RANDOM_SEED_BITS = 32  # as the service draws them
# The service closes what is idle for 5 s. Closing first leaves it no moment to close what is written to.
KEEP_ALIVE_SECONDS = 4.0
_LIMITS = httpx.Limits(
    max_connections=100, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_SECONDS
)


def options(base_url: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what httpx's clients are made with; raise ValueError for what is no address."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url is {base_url!r}; expected http://host:port or https://host:port")
    own = {"User-Agent": f"vaeserve-client/{version('vaeserve-client')}"}
    return {"base_url": base_url, "headers": own | dict(headers or {}), "limits": _LIMITS}


def proxy_of(base_url: str) -> str | None:
    """Return the proxy that the environment has for an address, without its password; None for none."""
    url, proxies = httpx.URL(base_url), getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.host):
        return None
    return str(httpx.URL(proxy if "://" in proxy else f"http://{proxy}").copy_with(username="", password=""))


def request_options(call: Call[Any], attempts: Attempts, connect_seconds: float) -> dict[str, Any]:
    """Return what httpx builds an attempt's request from."""
    return {
        "method": call.method,
        "url": call.path,
        "params": call.query,
        "headers": call.headers,
        "content": None if call.body is None else call.body.content,
        "extensions": {"timeout": attempts.timeouts(connect_seconds)},
    }


def failure_of(error: httpx.HTTPError, attempts: Attempts, proxy: str | None) -> VaeserveError:
    """Return the exception that one of httpx stands for."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        where = f"{error.request.url.host}:{error.request.url.port or error.request.url.scheme}"
        where += f" through the proxy {proxy} of the environment" if proxy else ""
        return ConnectionFailed(f"no connection to {where}: {error or 'it takes too long'}", is_retried=True)
    if isinstance(error, httpx.TimeoutException):
        return attempts.exceeded()
    return ConnectionFailed(f"the connection broke off: {error or type(error).__name__}")


def answer_of(response: httpx.Response, body: bytes) -> Answer:
    """Return a whole answer; raise ProblemError where its status is not 2xx."""
    if not response.is_success:
        raise problem_of(response.status_code, response.headers, body)
    return Answer(response.headers, body)
