"""`python -m benchmarks.serving.tail`: where single requests spend their time at half of the peak.

The open loop's latencies are set beside what the service's own access log says of the same requests, beside
those of a route that computes nothing at the same rate, and beside how long the threads of both ends waited
for a core while they could have run. Writes tail.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.serving.contenders import SERVERS
from benchmarks.serving.machine import describe_run
from benchmarks.serving.material import material_of
from benchmarks.serving.poisson import offer, request_bytes
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.running import RunningServer, Setup, started_server, write_posts
from benchmarks.serving.workloads import PNG_BASE64, SAMPLE_SEED, SAMPLES
from models.bundle import bundle_path, load_bundle

RESULTS = Path("benchmarks/serving/results/tail.json")
LOGGED: Mapping[str, str] = {"VAE_ACCESS_LOG": "1", "VAE_LOG_FORMAT": "json"}
UNLOADED, HALF = 0.02, 0.5  # of the peak
NOTHING = "/health/live"  # computes nothing
SLOWEST = 0.01
SETTLE_SECONDS = 1.0  # for what a load leaves to be answered and logged
THREADS = ("event loop", "device", "generator")


@dataclass(frozen=True)
class Clock:
    """Nanoseconds that a thread ran, and that it waited for a core."""

    ran: int
    waited: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.tail", description=__doc__)
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--seconds", type=int, default=20, help="of each load")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.serving.tail", arguments)
    try:
        with TemporaryDirectory(prefix="vaeserve-benchmark-") as folder:
            found = measure(Setup(options.bundle, 1, None, None, Path(folder)), options.seconds)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps({**facts, **found}, indent=1) + "\n")
    print(table(found))
    return 0


def measure(setup: Setup, seconds: int) -> dict[str, Any]:
    """Return the peak, and what is found under each load."""
    material = material_of(load_bundle(bundle_path(setup.bundle)), SAMPLES, SAMPLE_SEED)
    posts = write_posts(PNG_BASE64, material, setup.folder)
    ours = next(server for server in SERVERS if server.name == "vaeserve")
    ours = replace(
        ours, environment={**ours.environment, **LOGGED}, paths={PNG_BASE64: ours.paths[PNG_BASE64]}
    )
    with started_server(ours, setup) as running:
        case = running.case(posts)
        case.check()
        case.measure(2)
        closed = [case.measure(max(1, seconds // 4)) for _ in range(3)]
        peak = statistics.median(sample.requests / sample.seconds for sample in closed)
        media = (PNG_BASE64.content_type, PNG_BASE64.accept)
        images = [
            request_bytes("POST", ours.paths[PNG_BASE64], *media, body.content) for body in posts.bodies
        ]
        nothing = [request_bytes("GET", NOTHING, *media, b"")]
        loads = {
            "single images, hardly any": (images, UNLOADED),
            "single images, half of the peak": (images, HALF),
            f"{NOTHING}, hardly any": (nothing, UNLOADED),
            f"{NOTHING}, as many as half of the peak": (nothing, HALF),
        }
        rows = {
            name: under_load(running, requests, load * peak, seconds)
            for name, (requests, load) in loads.items()
        }
        case.check()
    return {"peak_per_second": peak, "loads": rows}


def under_load(
    running: RunningServer, requests: Sequence[bytes], per_second: float, seconds: int
) -> dict[str, Any]:
    """Offer requests, and look at them from both ends."""
    time.sleep(SETTLE_SECONDS)
    log = running.process.log
    start, pids = log.stat().st_size, (running.process.popen.pid, os.getpid())
    before = [clocks(pid) for pid in pids]
    answers = offer(running.port, requests, per_second, seconds)
    of_service, of_generator = (
        spent(earlier, clocks(pid), pid) for earlier, pid in zip(before, pids, strict=True)
    )
    if set(answers.status) != {200}:
        raise BenchmarkError(f"requests were answered {sorted(set(answers.status))}")
    time.sleep(SETTLE_SECONDS)  # the last may be answered before it is logged
    with log.open() as file:
        file.seek(start)
        lines = [json.loads(line) for line in file]
    logged = [line for line in lines if "duration_ms" in line]
    if len(logged) != len(answers.status):
        raise BenchmarkError(f"{len(answers.status)} answers came, and {len(logged)} were logged")
    return {
        "offered_per_second": answers.offered_per_second,
        "seen_by_the_client": quantiles(np.array(answers.latency)),
        "within_the_service": quantiles(np.array([line["duration_ms"] for line in logged]) / 1e3),
        "slowest_within_the_service": of_the_slowest(logged),
        "late_p99_seconds": float(np.percentile(answers.late, 99)),
        "threads": {
            name: {
                "running": round(clock.ran / 1e9 / answers.seconds, 4),
                "waiting_for_a_core": round(clock.waited / 1e9 / answers.seconds, 4),
            }
            for name, clock in zip(THREADS, (*of_service, of_generator[0]), strict=True)
        },
    }


def clocks(pid: int) -> dict[int, Clock]:
    """Return the clock of every thread of a process, by its id."""
    return {
        int(path.name): clock_of((path / "schedstat").read_text())
        for path in Path(f"/proc/{pid}/task").iterdir()
    }


def spent(before: Mapping[int, Clock], after: Mapping[int, Clock], pid: int) -> tuple[Clock, Clock]:
    """Return what a process's main thread, and the busiest other, ran and waited meanwhile."""
    meanwhile = {
        thread: Clock(clock.ran - before[thread].ran, clock.waited - before[thread].waited)
        for thread, clock in after.items()
        if thread in before
    }
    main = meanwhile.pop(pid)
    return main, max(meanwhile.values(), key=lambda clock: clock.ran, default=Clock(0, 0))


def clock_of(schedstat: str) -> Clock:
    """Read the kernel's line of a thread."""
    ran, waited, _ = map(int, schedstat.split())
    return Clock(ran, waited)


def quantiles(seconds: np.ndarray) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    return {
        "p50_seconds": float(np.percentile(seconds, 50)),
        "p99_seconds": float(np.percentile(seconds, 99)),
    }


def of_the_slowest(logged: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean parts of the slowest hundredth: queue, device, and the rest, in seconds."""
    slowest = sorted(logged, key=lambda line: float(line["duration_ms"]))[
        -max(1, round(SLOWEST * len(logged))) :
    ]
    whole, queue, compute = (
        float(np.mean([line.get(name, 0.0) for line in slowest])) / 1e3
        for name in ("duration_ms", "queue_ms", "compute_ms")
    )
    return {
        "queue_seconds": queue,
        "device_seconds": compute,
        "event_loop_and_threads_seconds": whole - queue - compute,
    }


def table(found: Mapping[str, Any]) -> str:
    """Return a Markdown table of milliseconds, and of the threads' waits."""
    head = (
        "client",
        "service",
        "slowest: queue",
        "device",
        "the rest",
        *(f"{name} waits" for name in THREADS),
    )
    lines = ["| p50, p99 in ms | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for name, row in found["loads"].items():
        seen, within = row["seen_by_the_client"], row["within_the_service"]
        cells = [
            f"{1e3 * part['p50_seconds']:.1f}, {1e3 * part['p99_seconds']:.1f}" for part in (seen, within)
        ]
        cells += [f"{1e3 * seconds:.1f}" for seconds in row["slowest_within_the_service"].values()]
        cells += [
            f"{clock['waiting_for_a_core']:.0%} (runs {clock['running']:.0%})"
            for clock in row["threads"].values()
        ]
        lines.append(f"| {name}, {row['offered_per_second']:,.0f}/s | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
