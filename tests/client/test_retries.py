"""What is tried again, how long is waited before it, and what ends it."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from app.engine import CpuEngine
from tests.app.test_server import posted
from tests.client.conftest import Connect, Waits
from tests.client.scripted import answer, scripted
from tests.servers import Gate, Running, running
from vaeserve_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    DeviceFault,
    NotReady,
    Overloaded,
    ProblemError,
    Retries,
    ServiceDeadline,
)
from vaeserve_client.attempts import Attempts
from vaeserve_client.exchange import KEEP_ALIVE_SECONDS

MODELS = b'{"default": "x", "models": []}'


def wait_for(server: Running, shown: str) -> None:
    while shown not in repr(server.service.batcher):
        server.thread.join(0.01)


def requests_of(server: Running, status: int, route: str = "/encode") -> float:
    labels = {"route": route, "status": str(status)}
    return server.service.metrics.registry.get_sample_value("vae_requests_total", labels) or 0.0


def closed_url() -> str:
    """Return an address that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_full_queue_is_asked_again_after_retry_after(
    connect: Connect, bundle_folder: Path, gate: Gate, waits: Waits, pixels: np.ndarray
) -> None:
    limits = {"max_queued_images": 1, "max_images": 1}
    with running(bundle_folder, **limits) as server, posted(server) as first:
        gate.entered.acquire()
        with posted(server) as second:
            wait_for(server, "queued 1 images")

            def while_it_waits() -> float:
                gate.opened.set()
                wait_for(server, "queued 0 images")
                return 0.0

            waits.during = while_it_waits  # type: ignore[method-assign]
            assert len(connect(server.url).encode(pixels[:1])) == 1
        assert [1 <= seconds < 1.2 for seconds in waits] == [True]
        assert requests_of(server, 429) == 1
    assert first[0].status_code == second[0].status_code == 200


def test_a_service_that_loads_is_asked_again(
    connect: Connect, bundle_folder: Path, may_load: threading.Event, waits: Waits, pixels: np.ndarray
) -> None:
    with running(bundle_folder) as server:

        def while_it_waits() -> float:
            may_load.set()
            while server.service.not_ready == "loading":
                server.thread.join(0.01)
            return 0.0

        waits.during = while_it_waits  # type: ignore[method-assign]
        assert len(connect(server.url).encode(pixels)) == 10
        assert len(waits) == requests_of(server, 503) == 1
        assert waits[0] >= 1


def test_a_service_that_starts_again_is_connected_to_again(
    connect: Connect, bundle_folder: Path, waits: Waits, pixels: np.ndarray
) -> None:
    with running(bundle_folder) as server:
        client = connect(server.url)
        before = client.encode(pixels).mu
        port = server.client.base_url.port
    with ThreadPoolExecutor(1) as pool:
        stop = threading.Event()

        def serve_again() -> None:
            with running(bundle_folder, port=port):
                is_up.set()
                assert stop.wait(30)

        is_up = threading.Event()

        def while_it_waits() -> float:
            again.append(pool.submit(serve_again))
            assert is_up.wait(30)
            return 0.0

        again: list[object] = []
        waits.during = while_it_waits  # type: ignore[method-assign]
        try:
            assert np.array_equal(client.encode(pixels).mu, before)
        finally:
            stop.set()
    assert len(waits) == 1
    assert waits[0] <= Retries().first_seconds


def test_a_failed_batch_is_asked_again(
    connect: Connect, bundle_folder: Path, gate: Gate, waits: Waits, pixels: np.ndarray
) -> None:
    gate.error = RuntimeError("out of order")
    gate.opened.set()

    def while_it_waits() -> float:
        gate.error = None
        return 0.0

    waits.during = while_it_waits  # type: ignore[method-assign]
    with running(bundle_folder) as server:
        assert len(connect(server.url).encode(pixels)) == 10
        assert requests_of(server, 503) == 1


def test_a_call_is_tried_until_its_deadline_unless_told_otherwise(connect: Connect, waits: Waits) -> None:
    with scripted(*[answer(503)] * 20, answer(200, MODELS)) as server:
        assert connect(server.url).models().default == "x"
    assert len(waits) == 20


def test_the_last_failure_is_raised_once_the_retries_are_used_up(connect: Connect, waits: Waits) -> None:
    with scripted(answer(503)) as server, pytest.raises(NotReady):
        connect(server.url, retries=Retries(count=2)).models()
    assert len(waits) == 2
    assert len(server.requests) == 3
    with pytest.raises(ConnectionFailed, match=r"no connection to 127\.0\.0\.1:\d+"):
        connect(closed_url(), retries=Retries(count=2)).models()
    assert len(waits) == 4


def test_what_is_wrong_stays_wrong_and_is_not_asked_again(connect: Connect, waits: Waits) -> None:
    for said in (answer(422), answer(404), answer(500), answer(502), answer(504)):
        with scripted(said) as server, pytest.raises(Exception, match=str(said.split()[1], "ascii")):
            connect(server.url).models()
        assert len(server.requests) == 1
    assert waits == []


@pytest.mark.parametrize(
    "said", [b"", answer(200, MODELS)[:-5], b"SSH-2.0\r\n"], ids=["nothing", "a part", "something else"]
)
def test_an_answer_that_breaks_off_is_not_asked_for_again(
    connect: Connect, waits: Waits, said: bytes
) -> None:
    with scripted(said) as server, pytest.raises(ConnectionFailed, match=r"the connection broke off: ."):
        connect(server.url).models()
    assert len(server.requests) == 1
    assert waits == []


def test_waits_double_up_to_a_most_and_come_after_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    retries = Retries(first_seconds=1, most_seconds=5)
    assert [retries.wait_seconds(n, None) for n in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]
    assert retries.wait_seconds(1, 7.0) == 8
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert retries.wait_seconds(3, None) == 0


def test_a_wait_that_would_pass_the_deadline_is_not_begun(connect: Connect, waits: Waits) -> None:
    with scripted(answer(429, b"", "Retry-After: 10")) as server, pytest.raises(Overloaded) as raised:
        connect(server.url, timeout=9).models()
    assert raised.value.retry_after_seconds == 10
    assert waits == []
    assert len(server.requests) == 1


def test_a_call_ends_with_its_time(
    connect: Connect, bundle_folder: Path, gate: Gate, pixels: np.ndarray
) -> None:
    with running(bundle_folder) as server:
        client = connect(server.url)
        client.models()  # the connection is there
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.1 seconds"):
            client.encode(pixels, timeout=0.1)
        gate.opened.set()
        assert len(client.encode(pixels)) == 10


def test_an_answer_in_small_parts_ends_with_the_calls_time(connect: Connect) -> None:
    hung_up = threading.Event()

    def trickle() -> object:
        yield b"HTTP/1.1 200 x\r\nContent-Length: 400\r\n\r\n"
        while not hung_up.wait(0.005):  # two seconds for all of it, none of them longer than the call's
            yield b" "

    with scripted(trickle()) as server:  # type: ignore[arg-type]
        try:
            with pytest.raises(DeadlineExceeded):
                connect(server.url, timeout=0.5).models()
        finally:
            hung_up.set()


def test_a_body_that_is_taken_slowly_ends_with_the_calls_time(connect: Connect) -> None:
    images = np.zeros((16, 2048, 2048), np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def take() -> int:
            taken = 0
            with listening.accept()[0] as connection:
                while part := connection.recv(1 << 17):
                    taken += len(part)
                    hung_up.wait(0.005)
            return taken

        hung_up = threading.Event()
        taken = pool.submit(take)
        client = connect(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(DeadlineExceeded):
            client.encode(images, timeout=0.5)
        hung_up.set()
        assert taken.result() < images.nbytes


def test_retries_share_the_calls_time(connect: Connect, waits: Waits) -> None:
    late = threading.Event()

    def while_it_waits() -> float:
        late.wait(0.3)  # longer than the call has
        return 0.0

    waits.during = while_it_waits  # type: ignore[method-assign]
    with scripted(answer(503)) as server, pytest.raises(DeadlineExceeded):
        connect(server.url, timeout=0.3, retries=Retries(first_seconds=0)).models()
    assert len(server.requests) == 1


class Slow:
    """A path that is known after 0.3 seconds."""

    def __fspath__(self) -> str:
        threading.Event().wait(0.3)
        return str(Path(__file__).parents[2] / "docs/boot.png")


@pytest.mark.parametrize("method", ["encode", "reconstruct", "score", "compress", "decompress"])
def test_reading_the_input_takes_of_the_calls_time(connect: Connect, method: str) -> None:
    with scripted(answer(200)) as server, pytest.raises(DeadlineExceeded, match=r"within 0\.2 seconds"):
        getattr(connect(server.url), method)(Slow(), timeout=0.2)
    assert server.requests == []


def test_reading_a_batch_takes_of_its_time(connect: Connect) -> None:
    with scripted(answer(200)) as server, pytest.raises(DeadlineExceeded, match=r"within 0\.2 seconds"):
        list(connect(server.url).encode_all([Slow()], timeout=0.2))  # type: ignore[list-item]
    assert server.requests == []


def test_a_file_that_times_out_by_itself_is_its_own_error(connect: Connect) -> None:
    class Stale:
        def __fspath__(self) -> str:
            raise TimeoutError("stale file handle")

    with pytest.raises(TimeoutError, match="stale file handle"):
        connect(closed_url()).encode(Stale())  # type: ignore[arg-type]


def test_no_phase_of_an_attempt_outlasts_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("vaeserve_client.attempts.time", SimpleNamespace(monotonic=lambda: now))
    timeouts = Attempts(Retries(), 9).timeouts(connect_seconds=5)
    assert timeouts == {"connect": 5, "read": 9, "write": 9, "pool": 9}
    now = 106.0
    assert [timeouts.get(phase) for phase in ("connect", "read", "write", "pool")] == [3, 3, 3, 3]
    now = 110.0
    assert 0 < timeouts.get("read", 0) < 0.01


def test_idle_connections_are_closed_before_the_service_does(live: Running) -> None:
    assert live.server.config.timeout_keep_alive > KEEP_ALIVE_SECONDS


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_timeout_is_a_time(connect: Connect, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout is .*; expected a positive number of seconds"):
        connect(closed_url()).models(timeout=seconds)


@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
@pytest.mark.parametrize("seconds", [0, math.inf, None, "5"])
def test_a_client_is_not_made_with_another(connect: Connect, name: str, seconds: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*{seconds}.*; expected a positive number of seconds"):
        connect(closed_url(), **{name: seconds})


@pytest.mark.parametrize(
    "url", ["localhost:8500", "127.0.0.1:8500", "", "http://", "/v1", "ftp://x", "http://x:y"]
)
def test_a_client_is_made_with_an_address(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match=rf"^base_url is '{url}'; expected http://host:port or https://host"):
        connect(url)


def test_a_proxy_that_is_not_there_is_named(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = closed_url()
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("//", "//name:secret@"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    named = rf"no connection to service:8000 through the proxy {proxy} of the environment: "
    with pytest.raises(ConnectionFailed, match=named) as raised:
        connect("http://service:8000", retries=Retries(count=0)).models()
    assert "secret" not in str(raised.value)
    with pytest.raises(ConnectionFailed, match=r"no connection to localhost:\d+: "):
        connect(closed_url().replace("127.0.0.1", "localhost"), retries=Retries(count=0)).models()


def test_a_transport_uses_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_url())
    with (
        Client(closed_url(), retries=Retries(count=0), transport=httpx.HTTPTransport()) as client,
        pytest.raises(ConnectionFailed, match=r"no connection to [\d.]+:\d+: "),
    ):
        client.models()


def test_a_proxy_that_makes_no_connection_is_named_and_asked_again(
    connect: Connect, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(answer(200)) as proxy:  # it knows no CONNECT
        monkeypatch.setenv("https_proxy", proxy.url.removeprefix("http://"))
        with pytest.raises(
            ConnectionFailed, match=rf"no connection to x:https through the proxy {proxy.url} of"
        ):
            connect("https://x", retries=Retries(count=1)).models()
    assert len(waits) == 1


def test_a_connection_that_takes_too_long_is_tried_again(connect: Connect, waits: Waits) -> None:
    with socket.socket() as full, socket.socket() as other:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        other.connect(full.getsockname())  # the only one that may wait to be accepted
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match="no connection to"):
            connect(url, connect_timeout=0.02, retries=Retries(count=1)).models()
    assert len(waits) == 1


def test_the_services_own_deadline_is_a_deadline(
    connect: Connect, bundle_folder: Path, gate: Gate, pixels: np.ndarray
) -> None:
    with running(bundle_folder, deadline_seconds=0.05) as server:
        with pytest.raises(DeadlineExceeded) as raised:
            connect(server.url).encode(pixels)
        gate.opened.set()
    assert isinstance(raised.value, ServiceDeadline)


def test_health_is_what_it_is_now(
    connect: Connect, bundle_folder: Path, may_load: threading.Event, waits: Waits
) -> None:
    with running(bundle_folder, drain_delay_seconds=30) as server:
        client = connect(server.url)
        assert (client.live(), client.ready()) == (True, False)
        may_load.set()
        client.wait_until_ready()
        assert (client.live(), client.ready()) == (True, True)
        server.server.handle_exit(signal.SIGTERM, None)
        while server.service.not_ready is None:
            server.thread.join(0.01)
        assert (client.live(), client.ready()) == (True, False)
        assert len(client.encode(np.zeros((1, 8, 8), np.uint8))) == 1
        server.server.handle_exit(signal.SIGTERM, None)
    waits.clear()
    assert (client.live(), client.ready()) == (False, False)
    assert waits == []


@pytest.mark.parametrize("said", [b"", answer(500), answer(502), answer(503), answer(504)])
def test_what_starts_behind_a_port_or_a_proxy_is_not_ready_and_is_waited_for(
    connect: Connect, waits: Waits, said: bytes
) -> None:
    with scripted(said) as server:
        client = connect(server.url)
        assert (client.live(), client.ready()) == (False, False)
    assert waits == []
    with scripted(said, said, said, answer(200)) as server:
        connect(server.url, retries=Retries(count=0)).wait_until_ready(5)
    assert len(waits) == 3


@pytest.mark.parametrize("status", [301, 401, 404])
def test_an_answer_that_is_no_sign_of_health_is_an_error(connect: Connect, waits: Waits, status: int) -> None:
    with scripted(answer(status)) as server:
        client = connect(server.url)
        for ask in (client.live, client.ready, client.wait_until_ready):
            with pytest.raises(ProblemError, match=str(status)):
                ask()
    assert waits == []


def test_the_last_failure_is_raised_where_readiness_is_late(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 10)
    with scripted(b"") as server, pytest.raises(ConnectionFailed, match="broke off"):
        connect(server.url).wait_until_ready(timeout=9)


def test_a_lost_device_is_not_live(
    connect: Connect, bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray
) -> None:
    with running(bundle_folder) as server:
        monkeypatch.setattr(CpuEngine, "is_lost", lambda engine: True)
        gate.error = RuntimeError("CUDA error")
        gate.opened.set()
        client = connect(server.url, retries=Retries(count=0))
        with pytest.raises(DeviceFault):
            client.encode(pixels)
        assert (client.live(), client.ready()) == (False, False)


def test_readiness_is_waited_for_beyond_the_retries_of_other_calls(connect: Connect, waits: Waits) -> None:
    unready = [answer(503)] * 8
    with scripted(*unready, answer(200)) as server:
        connect(server.url, retries=Retries(count=2)).wait_until_ready()
    assert len(waits) == len(unready)
    assert max(waits) <= 1


def test_readiness_is_waited_for_no_longer_than_told(connect: Connect, waits: Waits) -> None:
    with scripted(answer(503, b"", "Retry-After: 10")) as server, pytest.raises(NotReady):
        connect(server.url).wait_until_ready(timeout=9)
    assert waits == []


def test_headers_go_with_every_request(connect: Connect) -> None:
    with scripted(answer(200, MODELS)) as server:
        connect(server.url, headers={"Authorization": "Bearer x"}).models()
    (request,) = server.requests
    assert request.headers["Authorization"] == "Bearer x"
    assert request.headers["User-Agent"].startswith("vaeserve-client/")


def test_a_transport_takes_the_place_of_httpxs_own(live: Running) -> None:
    class Counted(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return super().handle_request(request)

    class CountedAsync(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return await super().handle_async_request(request)

    async def ask() -> None:
        async with AsyncClient(live.url, transport=CountedAsync()) as client:
            await client.models()

    asked: list[str] = []
    with Client(live.url, transport=Counted()) as client:
        client.models()
    asyncio.run(ask())
    assert asked == ["/models", "/models"]
