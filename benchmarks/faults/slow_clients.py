"""Connections that send or read slowly, by slowhttptest: what they cost the clients beside them."""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import questions_of
from benchmarks.faults.service import Service, left_after, ready_service, wait_for_quiet
from benchmarks.serving.poisson import Answers, offer, request_bytes
from benchmarks.serving.processes import BenchmarkError, Process, started

CONNECTIONS, SECONDS, PER_SECOND = 200, 30, 40.0
SETTINGS: Mapping[str, str] = {
    "VAE_THREADS": "1",
    "VAE_HEAD_SECONDS": "5",
    "VAE_DEADLINE_SECONDS": "10",
    "VAE_READING_SECONDS": "15",
}  # that run out within the load
OPENING_SECONDS = 4.0  # for them to be there
WARM_UP_SECONDS = 8  # in which buffers grow
LEAST_SECONDS = 24  # for the slowest setting to run out, and the connections to be there anew
TIMES_UNLOADED = 3.0
MISSING = "slowhttptest is not installed; on Debian and Ubuntu: apt-get install slowhttptest"
KINDS: Mapping[str, tuple[str, ...]] = {
    "heads": ("-H", "-i", "3", "-x", "24"),
    "bodies": ("-B", "-i", "3", "-x", "24", "-s", "8192", "-t", "POST", "-f", "image/png"),
    "reading": ("-X", "-k", "4", "-n", "3", "-w", "512", "-y", "1024", "-z", "32"),
}
CAUSES = {"heads": "head", "bodies": "answered 504", "reading": "reading"}
SCRIPT = "/static-offline-docs/swagger-ui-bundle.js"  # 1.5 MB, four times: more than a socket holds
PATHS = {"heads": "/encode", "bodies": "/encode", "reading": SCRIPT}


def run(setup: Setup) -> list[Row]:
    """Measure requests alone, then beside each kind of slow connection."""
    if shutil.which("slowhttptest") is None:
        raise BenchmarkError(MISSING)
    return [beside(setup, kind) for kind in KINDS]


def command_of(kind: str, port: int, seconds: int) -> list[str]:
    """Return the command that holds slow connections open for some seconds."""
    url, count = f"http://127.0.0.1:{port}{PATHS[kind]}", str(CONNECTIONS)
    slow = ["slowhttptest", *KINDS[kind], "-c", count, "-r", count, "-l", str(seconds), "-u", url]
    return ["sh", "-c", f"while :; do {shlex.join(slow)} || exit; done"]  # as the service ends them


def slow(setup: Setup, kind: str, service: Service, seconds: int) -> AbstractContextManager[Process]:
    """Hold slow connections open until the block is left, which takes less than so many seconds."""
    return started(
        command_of(kind, service.port, seconds),
        log=setup.folder / f"slowhttptest-{kind}.log",
        environment={"TERM": "dumb", "PATH": "/usr/bin:/bin"},
    )


def beside(setup: Setup, kind: str) -> Row:
    """Offer requests at a steady rate, first alone and then while connections are slow."""
    seconds = max(LEAST_SECONDS, setup.seconds(SECONDS))
    [question, *_] = questions_of(setup.bundle)
    content_type, accept = question.headers["Content-Type"], question.headers["Accept"]
    request = request_bytes(question.method, question.path, content_type, accept, question.body)
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)  # so that others are made
    requests = [request, last]
    with ready_service(setup, SETTINGS) as service:
        with slow(setup, kind, service, WARM_UP_SECONDS + 60):
            offer(service.port, requests, PER_SECOND, WARM_UP_SECONDS)
        wait_for_quiet(service)
        alone = offer(service.port, requests, PER_SECOND, seconds)
        wait_for_quiet(service)
        before, closed_before = service.held(), closed_by_cause(service)
        with slow(setup, kind, service, seconds + 60) as process:
            threading.Event().wait(OPENING_SECONDS)
            held = service.held().open_files - before.open_files
            halfway: list[int] = []
            looking = threading.Timer(seconds / 2, lambda: halfway.append(service.held().open_files))
            looking.start()
            beside = offer(service.port, requests, PER_SECOND, seconds)
            looking.join()
            process.raise_if_ended()
        left, is_ready = left_after(service, before), service.is_ready()
        closed = {cause: count - closed_before[cause] for cause, count in closed_by_cause(service).items()}
    held_halfway = halfway[0] - before.open_files
    figures = {
        "connections_held": held,
        "connections_held_halfway": held_halfway,
        "given_up_by_the_service": closed,
        **compared(alone, beside),
        **left.figures(),
    }
    promises = {
        "every healthy request is answered": set(beside.status) == {200},
        **kept_of_slow_ones(kind, held, held_halfway, closed),
        **left.promises(),
        "ready at the end": is_ready,
        f"their p99 is at most {TIMES_UNLOADED:g} times that without slow connections": (
            figures["p99_ratio"] <= TIMES_UNLOADED
        ),
    }
    return Row(f"{CONNECTIONS} connections that are slow in {kind}", 1, SETTINGS, figures, promises)


def kept_of_slow_ones(
    kind: str, held: int, held_halfway: int, closed: Mapping[str, float]
) -> dict[str, bool]:
    """Return whether there were slow connections, and whether the service gave them up for what they are."""
    return {
        "the slow connections were there": held > CONNECTIONS // 2,
        "the slow connections were there halfway": held_halfway > CONNECTIONS // 2,
        "the service gave slow connections up": closed[CAUSES[kind]] >= CONNECTIONS // 2,
    }


def closed_by_cause(service: Service) -> dict[str, float]:
    """Return how many connections the service gave up, by cause.

    Slow bodies are answered 504, and then closed by their client, which is not counted, or by the service.
    """
    name = "vae_closed_connections_total"
    closed = {cause: service.figure(f'{name}{{cause="{cause}"}}') for cause in ("head", "body", "reading")}
    return {**closed, "answered 504": service.figure('vae_requests_total{route="/encode",status="504"}')}


def compared(alone: Answers, beside: Answers) -> dict[str, Any]:
    """Return the latencies of two runs and their ratio."""
    p99 = [percentile(answers.latencies(200)) for answers in (alone, beside)]
    return {
        "requests": len(beside.status),
        "answered": len(beside.latencies(200)),
        "p99_seconds_alone": p99[0],
        "p99_seconds_beside": p99[1],
        "p99_ratio": round(p99[1] / p99[0], 2),
    }


def percentile(latencies: np.ndarray | Sequence[float]) -> float:
    """Return the 99th percentile; infinity of nothing."""
    return round(float(np.percentile(latencies, 99)), 5) if len(latencies) else float("inf")
