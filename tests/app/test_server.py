"""The process around the application: loading, departures, deadlines, overload, draining, exit status."""

import asyncio
import errno
import gc
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
import uvloop
from starlette.requests import Request

from app import service
from app.__main__ import main
from app.batcher import Batcher
from app.engine import CpuEngine
from app.operations import ModelTask, Operation
from app.routes import common
from app.server import Server
from app.settings import Settings
from models.images import encode_png
from tests.app.test_routes import NPY, npy, problem
from tests.servers import Gate, Running, loading_held, running
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
HEAD = f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NPY}\r\n"
IMAGE = npy(np.zeros((1, 8, 8), np.uint8))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


def post(server: Running) -> httpx.Response:
    return server.client.post("/encode", content=IMAGE, headers={"Content-Type": NPY})


@contextmanager
def posted(server: Running) -> Iterator["list[httpx.Response]"]:
    """Post an image in a thread; the answer is in the list after the block."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(server)))
    thread.start()
    yield answers
    thread.join(30)


@pytest.fixture
def may_load(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that every service waits for before it loads its bundles."""
    return loading_held(monkeypatch)


def test_requests_are_refused_with_retry_after_while_the_models_load(
    bundle_folder: Path, may_load: threading.Event
) -> None:
    with running(bundle_folder) as server:
        assert server.client.get("/health/live").status_code == 200
        for response in (server.client.get("/health/ready"), post(server), server.client.get("/models")):
            problem(response, 503, "not-ready", "loading")
            assert int(response.headers["retry-after"]) >= 1
        assert not has_example(server)
        may_load.set()
        eventually(lambda: server.service.not_ready != "loading")
        assert post(server).status_code == 200
        assert has_example(server)


def has_example(server: Running) -> bool:
    document = server.client.get("/openapi.json").json()
    return "example" in document["paths"]["/encode"]["post"]["requestBody"]["content"]["application/json"]


def test_a_service_told_to_stop_while_it_loads_does_not_become_ready(
    bundle_folder: Path, may_load: threading.Event
) -> None:
    with running(bundle_folder, drain_delay_seconds=30) as server:
        server.server.handle_exit(signal.SIGTERM, None)
        eventually(lambda: server.service.not_ready != "loading")
        may_load.set()
        eventually(lambda: server.client.get("/models").status_code != 503)
        problem(server.client.get("/health/ready"), 503, "not-ready", "draining")


def test_all_who_wait_at_the_port_of_a_busy_event_loop_are_taken_together(bundle_folder: Path) -> None:
    clients, turns = 40, 5
    is_busy, goes_on, looked = (threading.Event() for _ in range(3))
    seen: list[int] = []
    with running(bundle_folder) as server, ExitStack() as stack:
        loop = server.service.batcher._loop

        def look() -> None:
            seen.append(len(server.server.server_state.connections))
            if len(seen) <= turns:
                loop.call_soon(look)
            else:
                looked.set()

        def be_busy() -> None:
            is_busy.set()
            goes_on.wait(30)
            look()

        loop.call_soon_threadsafe(be_busy)
        assert is_busy.wait(30)
        address = server.server.servers[0].sockets[0].getsockname()
        for _ in range(clients):
            stack.enter_context(socket.create_connection(address))
        goes_on.set()
        assert looked.wait(30)
    assert seen[-1] - seen[0] == clients


def test_who_waits_at_a_port_of_several_processes_is_left_to_each_of_them(bundle_folder: Path) -> None:
    settings = Settings(models=(str(bundle_folder / "grey"),), device="cpu", log_level="error")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(settings)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/health/live"
        assert httpx.get(url, timeout=30).status_code == 200
        assert server._taking is None
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_a_request_that_was_watched_leaves_nothing_for_the_garbage_collector() -> None:
    async def watched() -> "weakref.ref[Request]":
        async def receive() -> dict[str, Any]:
            is_received.set()
            await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        is_received = asyncio.Event()
        request = Request({"type": "http"}, receive)
        watch = service._Watch(request)
        await is_received.wait()
        watch.end()
        for _ in range(3):
            await asyncio.sleep(0)
        return weakref.ref(request)

    gc.disable()
    try:
        assert uvloop.run(watched())() is None
    finally:
        gc.enable()


def test_a_passed_deadline_is_504(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder, deadline_seconds=0.05) as server:
        problem(post(server), 504, "deadline", "no answer within")
        gate.opened.set()


def test_a_full_queue_is_429_with_retry_after(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder, max_queued_images=1, max_images=1) as server, posted(server) as first:
        gate.entered.acquire()
        with posted(server) as second:
            eventually(lambda: "queued 1 images" in repr(server.service.batcher))
            response = post(server)
            problem(response, 429, "overloaded", "2 images would be queued; the limit is 1")
            assert response.headers["retry-after"] == "1"
            gate.opened.set()
    assert first[0].status_code == second[0].status_code == 200


def test_what_waits_leaves_half_of_the_deadline(bundle_folder: Path) -> None:
    with running(bundle_folder, max_queued_seconds=5, deadline_seconds=8) as server:
        service = server.service
        assert isinstance(service.batcher, Batcher)
        for batcher in (service.batcher, service.coder._batcher):
            assert batcher._max_queued_seconds == 4
        assert service.coder._workers._max_seconds == 4


def test_a_full_queue_refuses_a_request_whose_body_has_not_come(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder, max_queued_images=1, max_images=1) as server, posted(server):
        gate.entered.acquire()
        with posted(server):
            eventually(lambda: "queued 1 images" in repr(server.service.batcher))
            answer = b""
            with socket.create_connection(address(server)) as connection:
                connection.sendall(f"{HEAD}Content-Length: {len(IMAGE)}\r\n\r\n".encode())
                while b"}" not in answer:
                    answer += connection.recv(1000)
            gate.opened.set()
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1\r\n" in answer.lower()


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("/encode", ModelTask("grey", Operation.ENCODE)),
        ("/decode", ModelTask("grey", Operation.DECODE)),
        ("/reconstruct", ModelTask("grey", Operation.RECONSTRUCT)),
        ("/score?samples=3", ModelTask("grey", Operation.SCORE, 3)),
    ],
)
def test_a_task_that_is_behind_refuses_a_request_whose_body_has_not_come(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, task: ModelTask
) -> None:
    with running(bundle_folder) as server:
        monkeypatch.setattr(server.service.batcher, "_behind", {task})
        monkeypatch.setattr(
            server.service.batcher._backlog, "seconds_before", lambda of, *_: 9.0 if of == task else 0.0
        )
        answer = b""
        with socket.create_connection(address(server)) as connection:
            head = HEAD.replace("/encode", path)
            connection.sendall(f"{head}Content-Length: {len(IMAGE)}\r\n\r\n".encode())
            while b"}" not in answer:
                answer += connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"9 seconds of work are queued before it; the limit is 1.5" in answer


def test_a_client_that_goes_amid_its_body_leaves_nothing(bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        with socket.create_connection(address(server)) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE[:-1])
            eventually(lambda: server.service.intake.held_bytes)
        value = server.service.metrics.registry.get_sample_value
        eventually(lambda: value("vae_requests_total", {"route": "/encode", "status": "499"}))
        assert server.service.intake.held_bytes == 0
        assert value("vae_images_total", {"model": "grey", "operation": "encode"}) in (None, 0)


def address(server: Running) -> tuple[str, int]:
    return server.client.base_url.host, server.client.base_url.port or 80


def test_work_of_a_departed_client_is_dropped_and_counted(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder) as server, posted(server):
        gate.entered.acquire()
        address = (server.client.base_url.host, server.client.base_url.port)
        head = f"{HEAD}Content-Length: {len(IMAGE)}\r\n\r\n"
        with socket.create_connection(address) as connection:
            connection.sendall(head.encode() + IMAGE)
            eventually(lambda: "queued 1 images" in repr(server.service.batcher))
        eventually(lambda: "queued 0 images" in repr(server.service.batcher))
        value = server.service.metrics.registry.get_sample_value
        assert value("vae_dropped_requests_total", {"cause": "disconnected"}) == 1
        eventually(lambda: value("vae_requests_total", {"route": "/encode", "status": "499"}))
        gate.opened.set()


def test_a_failed_batch_is_503_and_the_service_stays_ready(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder) as server:
        gate.error = RuntimeError("out of order")
        gate.opened.set()
        problem(post(server), 503, "device-fault", "the batch failed: out of order")
        gate.error = MemoryError("of the host")
        response = post(server)
        problem(response, 429, "overloaded", "there is no memory for the batch now: of the host")
        assert int(response.headers["retry-after"]) >= 1
        gate.error = None
        assert post(server).status_code == 200


def test_a_thread_that_codes_no_more_turns_readiness_and_liveness_off(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> None:
        raise MemoryError("for a list")

    with running(bundle_folder) as server:
        monkeypatch.setattr(server.service.coder._batcher, "_measure", measure)
        response = server.client.post("/compress", content=IMAGE, headers={"Content-Type": NPY})
        problem(response, 503, "device-fault", "for a list")
        problem(server.client.get("/health/ready"), 503, "not-ready", "the device is lost: for a list")
        problem(server.client.get("/health/live"), 503, "device-fault", "the device is lost: for a list")


def test_a_lost_device_turns_readiness_and_liveness_off(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(bundle_folder) as server:
        monkeypatch.setattr(CpuEngine, "is_lost", lambda engine: True)
        gate.error = RuntimeError("CUDA error: an illegal memory access")
        gate.opened.set()
        problem(post(server), 503, "device-fault", "illegal memory access")
        problem(server.client.get("/health/ready"), 503, "not-ready", "the device is lost")
        problem(server.client.get("/health/live"), 503, "device-fault", "the device is lost")
        assert "vae_ready 0.0" in server.client.get("/metrics").text
        problem(post(server), 503, "device-fault", "the device is lost")
        assert server.server.leaves_at_once


def test_a_device_that_hangs_turns_readiness_off_and_in_the_end_liveness(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STUCK_SECONDS", 0.05)
    monkeypatch.setattr(service, "HOPELESS_TIMES", 1e6)
    with running(bundle_folder, deadline_seconds=0.05) as server:
        assert server.client.get("/health/ready").status_code == 200
        problem(post(server), 504, "deadline", "no answer within")
        eventually(lambda: server.service.not_ready is not None)
        problem(server.client.get("/health/ready"), 503, "not-ready", "nothing has come from the device for")
        assert "vae_ready 0.0" in server.client.get("/metrics").text
        assert server.client.get("/health/live").status_code == 200
        monkeypatch.setattr(service, "HOPELESS_TIMES", 1)
        problem(server.client.get("/health/live"), 503, "device-fault", "nothing has come from the device")
        gate.opened.set()
        eventually(lambda: server.service.not_ready is None)
        assert server.client.get("/health/live").status_code == 200


def test_draining_turns_readiness_off_and_still_answers(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder, drain_delay_seconds=30) as server, posted(server) as answers:
        gate.entered.acquire()
        server.server.handle_exit(signal.SIGTERM, None)
        eventually(lambda: server.service.not_ready is not None)
        problem(server.client.get("/health/ready"), 503, "not-ready", "draining")
        gate.opened.set()
        assert post(server).status_code == 200
        server.server.handle_exit(signal.SIGTERM, None)  # told again: at once
        server.thread.join(30)
    assert answers[0].status_code == 200
    assert server.server.exit_status() == 0


def test_a_request_that_outlives_the_grace_period_is_503_and_the_process_ends(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.service.CLOSE_SECONDS", 0.01)
    with running(bundle_folder, grace_seconds=1) as server, posted(server) as answers:
        gate.entered.acquire()
        server.server.handle_exit(signal.SIGTERM, None)
        server.thread.join(30)  # though the batch never ends
    problem(answers[0], 503, "not-ready", "the service stopped before the answer was there")
    assert "the last batch has not ended after 0.01 s" in caplog.text


def test_ctrl_c_ends_the_wait_for_work_in_flight_and_sigterm_does_not(
    bundle_folder: Path, gate: Gate
) -> None:
    with running(bundle_folder, grace_seconds=60) as server, posted(server) as answers:
        gate.entered.acquire()
        for number in (signal.SIGTERM, signal.SIGTERM):
            server.server.handle_exit(number, None)
            eventually(lambda: server.server.should_exit)
        assert not server.server.force_exit
        server.server.handle_exit(signal.SIGINT, None)
        server.thread.join(30)
        assert not server.thread.is_alive()
        assert server.service.is_computing
    problem(answers[0], 503, "not-ready", "the service stopped before the answer was there")


def test_a_body_that_does_not_arrive_is_504_and_makes_room(bundle_folder: Path) -> None:
    with running(bundle_folder, deadline_seconds=2, max_queued_bytes=200) as server:
        address = (server.client.base_url.host, server.client.base_url.port)
        head = (
            f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NPY}\r\nContent-Length: 500\r\n\r\n"
        )
        with socket.create_connection(address) as connection:
            connection.sendall(head.encode() + IMAGE[:150])
            eventually(lambda: server.service.intake.held_bytes)
            problem(post(server), 429, "overloaded", "bytes of bodies would be held; the limit is 200")
            answer = b""
            while b"}" not in answer:
                answer += connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"the body has not arrived within 2 seconds" in answer
        assert server.service.intake.held_bytes == 0
        assert post(server).status_code == 200


def test_a_departed_client_of_sample_is_dropped_and_counted(bundle_folder: Path, gate: Gate) -> None:
    with running(bundle_folder) as server, posted(server):
        gate.entered.acquire()
        address = (server.client.base_url.host, server.client.base_url.port)
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /sample?n=16 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: "queued 16 images" in repr(server.service.batcher))
        eventually(lambda: "queued 0 images" in repr(server.service.batcher))
        value = server.service.metrics.registry.get_sample_value
        assert value("vae_dropped_requests_total", {"cause": "disconnected"}) == 1
        gate.opened.set()


def test_a_client_that_goes_amid_its_answer_leaves_nothing(bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        with socket.create_connection(address(server)) as connection:
            connection.sendall(b"GET /sample?n=100000&format=npy HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        value = server.service.metrics.registry.get_sample_value
        # What asks stays in flight until it is noticed that nobody reads.
        eventually(lambda: not value("vae_requests_in_flight"))
        assert "queued 0 images" in repr(server.service.batcher)
        decoded = value("vae_images_total", {"model": "grey", "operation": "decode"})
        assert decoded is not None
        assert decoded < 100_000
        assert value("vae_requests_total", {"route": "/sample", "status": "200"}) == 1
        assert post(server).status_code == 200


LARGE = npy(np.zeros((17000, 8, 8), np.uint8))  # parsed one at a time


def test_a_body_that_waits_to_be_parsed_does_so_until_its_deadline(bundle_folder: Path) -> None:
    with running(bundle_folder, deadline_seconds=1, max_images=20000) as server:
        server.service.parsing = asyncio.Semaphore(0)
        response = server.client.post("/encode", content=LARGE, headers={"Content-Type": NPY})
        problem(response, 504, "deadline", "the request waited for a thread or in one")
        value = server.service.metrics.registry.get_sample_value
        assert value("vae_dropped_requests_total", {"cause": "deadline"}) == 1
        assert server.service.intake.held_bytes == 0


def test_a_body_that_takes_long_to_parse_does_so_until_its_deadline(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_parse, parse = threading.Event(), common.parse_images

    def slow(*arguments: Any, **options: Any) -> np.ndarray:
        assert may_parse.wait(30)
        return parse(*arguments, **options)

    body = npy(np.zeros((1000, 8, 8), np.uint8))
    assert len(body) > common.QUICK.body_bytes
    with running(bundle_folder, deadline_seconds=1) as server:
        monkeypatch.setattr(common, "parse_images", slow)
        response = server.client.post("/encode", content=body, headers={"Content-Type": NPY})
        problem(response, 504, "deadline", "the request waited for a thread or in one")
        may_parse.set()


def test_a_client_that_goes_while_its_body_waits_to_be_parsed_leaves_nothing(bundle_folder: Path) -> None:
    with running(bundle_folder, max_images=20000) as server:
        server.service.parsing = asyncio.Semaphore(0)
        with socket.create_connection(address(server)) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(LARGE)}\r\n\r\n".encode() + LARGE)
            eventually(lambda: server.service.intake.held_bytes >= len(LARGE))
        eventually(lambda: not server.service.intake.held_bytes)
        value = server.service.metrics.registry.get_sample_value
        assert value("vae_dropped_requests_total", {"cause": "disconnected"}) == 1


def test_a_stop_without_a_descriptor_left_still_answers(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dup(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with running(bundle_folder) as server, posted(server) as answers:
        gate.entered.acquire()
        monkeypatch.setattr("app.server.os.dup", dup)
        server.server.handle_exit(signal.SIGTERM, None)
        eventually(lambda: caplog.records)
        gate.opened.set()
        server.thread.join(30)
    assert answers[0].status_code == 200
    assert "connections that waited to be taken are reset" in caplog.text


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_made_as_the_server_stops_is_told_that_its_answer_is_the_last(
    bundle_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("app.server.CLOSING_SECONDS", 0.0)  # so that the loop takes it in that very moment
    monkeypatch.setattr(uvicorn.Config, "get_loop_factory", lambda _: new_loop)
    made: list[socket.socket] = []
    with running(bundle_folder) as server:

        async def connect_and_stop(_: int) -> bool:
            made.append(socket.create_connection(address(server), timeout=30))
            return True

        monkeypatch.setattr(server.server, "on_tick", connect_and_stop)
        eventually(lambda: "Waiting for connections to close" in caplog.text)  # each is told by then
        with made[0] as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert b"\r\nconnection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    "closes_port",
    [
        pytest.param((True, True), id="it is"),
        pytest.param((False, True), id="it is, said late"),
        pytest.param((False, False), id="others listen on"),
    ],
)
def test_the_kernel_takes_no_new_connections_where_the_port_is_closed(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, closes_port: tuple[bool, bool]
) -> None:
    answers = iter(closes_port)
    told: list[tuple[str, int]] = []
    monkeypatch.setattr("app.server.take_no_new", lambda listener: told.append(listener.getsockname()))
    with running(bundle_folder) as server:
        expected = [address(server)] if closes_port[-1] else []
        monkeypatch.setattr(server.server, "_closes_port", lambda: next(answers))
    assert told == expected


def test_a_stream_that_begins_in_a_full_queue_is_429_and_nothing_is_drawn_for_it(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(bundle_folder, max_queued_images=16, max_images=16) as server, posted(server):
        gate.entered.acquire()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.client.get, "/sample?n=16")
            eventually(lambda: "queued 16 images" in repr(server.service.batcher))
            monkeypatch.delattr("app.tasks.sample_latents")
            problem(server.client.get("/sample?n=200&format=npy"), 429, "overloaded")
            gate.opened.set()
            assert waiting.result().status_code == 200


def serve(*, models: str = "", **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "VAE_MODELS": models, "VAE_PORT": "0", "VAE_DEVICE": "cpu", **variables}
    command = [sys.executable, "-m", "app"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if word in line)


def test_sigterm_exits_zero_once_ready(bundle_folder: Path) -> None:
    process = serve(models=str(bundle_folder / "grey"))
    assert "grey on cpu" in until(process, "ready in")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


@pytest.mark.slow
def test_a_request_that_the_host_has_no_memory_for_is_429_and_the_service_goes_on(
    bundle_folder: Path,
) -> None:
    process = serve(models=str(bundle_folder / "grey"), VAE_THREADS="1", VAE_MAX_PIXELS=str(1 << 26))
    url = re.search(r"http://[\d.:]+", until(process, "Uvicorn running"))[0]  # type: ignore[index]
    until(process, "ready in")
    small, large = (encode_png(np.zeros((side, side, 1), np.uint8)) for side in (100, 8000))

    def ask(png: bytes) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return httpx.post(f"{url}/encode?fit=resize", content=png, headers=headers, timeout=60)

    assert [ask(large).status_code, ask(small).status_code] == [200, 200]  # whose threads are there now
    used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process.pid, resource.RLIMIT_AS, (used + (16 << 20), used + (16 << 20)))
    response = ask(large)
    problem(response, 429, "overloaded", "the host has no memory for this request now")
    assert int(response.headers["retry-after"]) >= 1
    assert ask(small).status_code == 200
    assert httpx.get(f"{url}/health/ready").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_neither_a_deadline_nor_a_wait_heeds_the_clock_on_the_wall(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time, hours = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true_time() + 3600 * hours[-1])
    with running(bundle_folder, deadline_seconds=30) as server, posted(server) as answers:
        gate.entered.acquire()
        for jump in (48.0, -48.0):
            hours.append(jump)
            assert server.client.get("/health/ready").status_code == 200
        assert not answers
        gate.opened.set()
    assert answers[0].status_code == 200


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_process_under_load_with_exit_zero(bundle_folder: Path) -> None:
    process = serve(models=str(bundle_folder / "grey"), VAE_THREADS="1")
    url = re.search(r"http://[\d.:]+", until(process, "Uvicorn running"))[0]  # type: ignore[index]
    until(process, "ready in")
    images = npy(np.zeros((4096, 8, 8), np.uint8))
    with ThreadPoolExecutor(1) as pool:
        address, headers = f"{url}/score?samples=1000", {"Content-Type": NPY}
        answer = pool.submit(httpx.post, address, content=images, headers=headers, timeout=60)
        while b'queued_images{queue="vae"} 0.0' in httpx.get(f"{url}/metrics").content:
            assert not answer.done()
        process.send_signal(signal.SIGTERM)
        until(process, "Waiting for connections to close")
        process.send_signal(signal.SIGINT)
        status, errors = finish(process)
        problem(answer.result(), 503, "not-ready", "the service stopped before the answer was there")
    assert status == 0, errors


def test_a_process_that_its_end_would_abort_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Computing(Server):
        leaves_at_once = True

        def run(self, sockets: object = None) -> None:
            pass

    def leave(status: int) -> None:
        raise SystemExit(f"left at once with {status}")

    monkeypatch.setattr("app.__main__.Server", Computing)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit, match="left at once with 0"):
        main()


def test_sigterm_while_warming_up_exits_zero(
    bundle_folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(CpuEngine, "warm_up", lambda engine: gate.opened.wait(30))
    monkeypatch.setattr(Running, "wait_until_ready", lambda self: None)
    with running(bundle_folder) as server:
        eventually(lambda: server.service.is_computing)
        server.server.handle_exit(signal.SIGTERM, None)
        server.thread.join(30)
        assert not server.thread.is_alive()
        assert server.server.exit_status() == 0


def test_a_broken_bundle_exits_one_and_is_never_ready(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    status, errors = finish(serve(models=str(tmp_path / "broken")))
    assert status == 1
    assert "config.json: missing" in errors
    assert "ready in" not in errors


def test_two_bundles_of_one_name_exit_one(bundle_folder: Path) -> None:
    path = str(bundle_folder / "grey")
    status, errors = finish(serve(models=f"{path},{path}"))
    assert status == 1
    assert "two bundles are called 'grey'" in errors


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VAE_MAX_BATCH": "none"}, "VAE_MAX_BATCH: Input should be a valid integer"),
        ({"VAE_MAXBATCH": "1"}, "no such setting: VAE_MAXBATCH"),
    ],
)
def test_wrong_settings_exit_two(variables: dict[str, str], words: str) -> None:
    status, errors = finish(serve(models="x", **variables))
    assert status == 2
    assert words in errors
