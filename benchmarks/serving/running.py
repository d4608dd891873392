"""Contenders while they run: each gives a case for each workload, to check and to measure."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.serving import wrk
from benchmarks.serving.contenders import COMPARISONS, LOOP, SERVERS, Comparison, Server
from benchmarks.serving.material import Material, material_of
from benchmarks.serving.measurement import Case, Measured, Sample
from benchmarks.serving.processes import BenchmarkError, Process, free_port, started, wait_until_ready
from benchmarks.serving.workloads import (
    SAMPLE_SEED,
    SAMPLES,
    TOLERANCE,
    Arrays,
    Body,
    Workload,
    check_answer,
    read_json,
)
from models.bundle import bundle_path, load_bundle

CHECKED_PASSES = 4  # answers checked on each connection, or as many as bring every body once


@dataclass(frozen=True)
class Setup:
    """What every contender gets alike."""

    bundle: str
    threads: int
    server_cpus: str | None
    load_cpus: str | None
    folder: Path  # for logs and bodies

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Return our environment without settings of the service, with torch's threads and `extra`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
        threads = str(self.threads)
        return {**inherited, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **extra}


@dataclass(frozen=True)
class Posts:
    """A workload's bodies, in memory and as files."""

    workload: Workload
    bodies: Sequence[Body]
    files: Sequence[Path]


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    server: Server
    setup: Setup
    process: Process
    port: int

    def url(self, workload: Workload) -> str:
        """Return where it takes a workload's requests."""
        return f"http://127.0.0.1:{self.port}{self.server.paths[workload]}"

    def case(self, posts: Posts) -> Case:
        """Return this server under a workload."""
        workload, url = posts.workload, self.url(posts.workload)

        def measure(seconds: int) -> Sample:
            before, started = self.process.cpu_seconds(), time.monotonic()
            load = wrk.drive(url, workload, posts.files, seconds, self.setup.load_cpus)
            cores = (self.process.cpu_seconds() - before) / (time.monotonic() - started)
            cpu_seconds = cores * load.seconds  # of the part that is counted
            figures = asdict(load)
            if load.images is None:
                figures["images"] = round(load.requests * workload.images)
            return Sample(cpu_seconds=cpu_seconds, **figures)

        def check() -> None:
            self._check(posts)

        return Case((self.server.name, workload.name), measure, check)

    def _check(self, posts: Posts) -> None:
        # On as many connections as the load will have, so that batches form.
        workload, bodies = posts.workload, posts.bodies
        whose, path = f"{self.server.name}: {workload.name}", self.server.paths[workload]
        passes = max(CHECKED_PASSES, -(-len(bodies) // workload.connections))

        def one_connection(number: int) -> None:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=wrk.ANSWER_SECONDS)
            with closing(client):
                for turn in range(passes):
                    body = bodies[(number + turn * workload.connections) % len(bodies)]
                    client.request(workload.method, path, body.content, workload.headers)
                    response = client.getresponse()
                    answer = response.read()
                    if response.status != workload.status:
                        raise BenchmarkError(f"{whose}: status {response.status}: {answer[:500]!r}")
                    workload.check(answer, body, whose, self.server.reads.get(workload))

        with ThreadPoolExecutor(workload.connections) as pool:
            list(pool.map(one_connection, range(workload.connections)))


@dataclass(frozen=True)
class RunningLoop:
    """The bare torch loop in its own process."""

    process: Process
    tolerance: float = TOLERANCE

    def case(self, batch: int, posterior: Arrays) -> Case:
        """Return the loop at a batch size."""

        def measure(seconds: int) -> Sample:
            before = self.process.cpu_seconds()
            found = json.loads(self._ask({"batch": batch, "seconds": seconds}))
            cpu_seconds = self.process.cpu_seconds() - before
            return Sample(images=found["requests"] * batch, cpu_seconds=cpu_seconds, **found)

        def check() -> None:
            answer = read_json(self._ask({"batch": batch}).encode())
            wanted = _rows(posterior, np.arange(batch) % len(posterior["mu"]))
            check_answer(answer, wanted, f"{LOOP}: batch {batch}", self.tolerance)

        return Case((LOOP, f"batch {batch}"), measure, check)

    def _ask(self, task: Mapping[str, int]) -> str:
        stdin, stdout = self.process.popen.stdin, self.process.popen.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):  # it has ended: there is no answer either
            print(json.dumps(task), file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            self.process.popen.wait()
            self.process.raise_if_ended()
        return answer


@contextmanager
def started_contenders(setup: Setup) -> Iterator[list[Measured]]:
    """Start every contender and give what there is to measure; all are ended when the block is left.

    One runs at a time, those aside that a pause upsets: what the others do by themselves, heartbeats and
    dashboards, would slow it down.
    """
    bundle = load_bundle(bundle_path(setup.bundle))
    material = material_of(bundle, SAMPLES, SAMPLE_SEED)
    taking_part = [server for server in SERVERS if server.can_run()]
    workloads = dict.fromkeys(workload for server in taking_part for workload in server.paths)
    posts = [write_posts(workload, material, setup.folder) for workload in workloads]
    with ExitStack() as stack:
        servers: list[RunningServer] = []
        for server in taking_part:
            servers.append(stack.enter_context(started_server(server, setup)))
            if server.can_pause:
                servers[-1].process.pause()
        loop = stack.enter_context(started_loop(setup))
        yield [_measured(comparison, posts, servers, loop, material.posterior) for comparison in COMPARISONS]


def _measured(
    comparison: Comparison,
    posts: Sequence[Posts],
    servers: Sequence[RunningServer],
    loop: RunningLoop,
    posterior: Arrays,
) -> Measured:
    cases = [
        alone(running.case(post), running.process) if running.server.can_pause else running.case(post)
        for post in posts
        if post.workload in comparison.workloads
        for running in servers
        if post.workload in running.server.paths
    ]
    cases += [loop.case(batch, posterior) for batch in comparison.loop_batches]
    by_name = {case.name: case for case in cases}
    return Measured(
        comparison.title, cases, [by_name[name] for name in comparison.references if name in by_name]
    )


def alone(case: Case, process: Process) -> Case:
    """Return a case whose process runs while it is measured or checked, and no longer."""

    def measure(seconds: int) -> Sample:
        with process.awake():
            return case.measure(seconds)

    def check() -> None:
        with process.awake():
            case.check()

    return replace(case, measure=measure, check=check)


def write_posts(workload: Workload, material: Material, folder: Path) -> Posts:
    """Write a workload's bodies as files in a folder of its own."""
    bodies = workload.write(material)
    place = folder / workload.name
    place.mkdir()
    files = [place / str(number) for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body.content)
    return Posts(workload, bodies, files)


def _rows(posterior: Arrays, rows: np.ndarray) -> Arrays:
    return {name: array[rows] for name, array in posterior.items()}


@contextmanager
def started_server(server: Server, setup: Setup) -> Iterator[RunningServer]:
    """Start a server and wait until it is ready; end it when the block is left."""
    port = free_port()
    values = {"bundle": setup.bundle, "port": port, "threads": setup.threads}
    command = [server.python, *(part.format(**values) for part in server.command)]
    environment = setup.environment({name: v.format(**values) for name, v in server.environment.items()})
    log = setup.folder / f"{server.name}.log"
    with started(command, log=log, environment=environment, cpus=setup.server_cpus) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}{server.ready}")
        yield RunningServer(server, setup, process, port)


@contextmanager
def started_loop(setup: Setup, device: str = "cpu", tolerance: float = TOLERANCE) -> Iterator[RunningLoop]:
    """Start the bare loop's process; end it when the block is left."""
    command = [sys.executable, "-m", "benchmarks.serving.torch_loop", setup.bundle, device]
    log, environment, cpus = setup.folder / f"{LOOP}.log", setup.environment({}), setup.server_cpus
    with started(command, log=log, environment=environment, cpus=cpus, has_pipes=True) as process:
        yield RunningLoop(process, tolerance)
