"""The load generator: wrk, told what to send by wrk.lua."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.processes import BenchmarkError, pinned
from benchmarks.serving.workloads import Workload

SCRIPT = Path(__file__).with_name("wrk.lua")
MAX_THINKING = 512  # connections of an open loop
THOUGHT_SECONDS = 0.5  # of each, or as much less as more connections would have
SETTLING_SECONDS = 1  # as in wrk.lua
ANSWER_SECONDS = 30  # an answer later than this is an error
FIRST_REFUSAL = 400  # of the statuses
MISSING = "wrk is not installed; on Debian and Ubuntu: apt-get install wrk"


@dataclass(frozen=True)
class Load:
    """What wrk saw: answers, and how long they took.

    Requests and seconds are those from the N-th answer, of N connections, to the last: the whole run's would
    lack what is under way in its end. The latencies are of all answers.
    """

    requests: int
    seconds: float  # in which so many were answered
    p50_seconds: float
    p99_seconds: float
    images: int | None = None  # of the answers, where requests differ in theirs


@dataclass(frozen=True)
class Offered:
    """What wrk saw of requests that came at random times. The latencies are of answers and refusals alike."""

    seconds: float
    answered: int
    refused: int  # with a status of 400 or more
    failed: int  # without an answer
    p50_seconds: float
    p99_seconds: float
    p99_9_seconds: float


def version() -> str:
    """Return wrk's version; raise BenchmarkError saying how to install it where there is none."""
    if shutil.which("wrk") is None:
        raise BenchmarkError(MISSING)
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)  # its status is 1
    return shown.stdout.split()[1]


def drive(url: str, workload: Workload, bodies: Sequence[Path], seconds: int, cpus: str | None) -> Load:
    """Send a workload's bodies to `url` for some seconds; raise BenchmarkError for any failed request."""
    shown = _run(url, workload, bodies, workload.connections, None, seconds, cpus)
    what = f"{workload.name} to {url} for {seconds} s"
    return parse(shown, what, workload.connections, are_refused=workload.status >= FIRST_REFUSAL)


def offer(
    url: str, workload: Workload, bodies: Sequence[Path], per_second: float, seconds: int, cpus: str | None
) -> Offered:
    """Send so many requests a second at random times, from connections that mostly think; count what fails.

    As long as an answer takes a small part of a connection's thought, the times are Poisson's.
    """
    connections = min(MAX_THINKING, math.ceil(per_second * THOUGHT_SECONDS))
    thought = connections / per_second
    shown = _run(url, workload, bodies, connections, thought, seconds + SETTLING_SECONDS, cpus)
    return parse_offered(shown)


def _run(
    url: str,
    workload: Workload,
    bodies: Sequence[Path],
    connections: int,
    thought_seconds: float | None,
    seconds: int,
    cpus: str | None,
) -> str:
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{ANSWER_SECONDS}s", "--script", str(SCRIPT), url]
    command += ["--", workload.method, workload.content_type, workload.accept, workload.coding]
    command += ["counted" if workload.are_counted else "", str(connections)]
    command += ["" if thought_seconds is None else f"{1e3 * thought_seconds:.3f}", *map(str, bodies)]
    timeout = seconds + 2 * ANSWER_SECONDS
    try:
        shown = subprocess.run(
            pinned(command, cpus), capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"wrk has not ended after {timeout} s: {shlex.join(command)}") from None
    if shown.returncode != 0:
        raise BenchmarkError(f"wrk ended with status {shown.returncode}: {shown.stderr or shown.stdout}")
    return shown.stdout


def parse(output: str, what: str, connections: int, *, are_refused: bool = False) -> Load:
    """Read the line that wrk.lua ends with.

    Raises BenchmarkError where any request failed, or was not to, and where so few were answered, not two a
    connection, that they tell of no rate.
    """
    found = json.loads(output.splitlines()[-1])
    if are_refused:  # wrk calls each of them an error
        found["status_errors"] = found["requests"] - found["status_errors"]
    failed = {name: count for name, count in found.items() if name.endswith("_errors") and count}
    if failed or not found["requests"]:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in failed.items())
        raise BenchmarkError(f"{what}: {found['requests']} requests answered, {listed or 'no errors'}")
    if found["loop_requests"] < connections:
        detail = f"fewer than two on each of {connections} connections; measure for longer"
        raise BenchmarkError(f"{what}: {found['requests']} requests answered, {detail}")
    return Load(
        found["loop_requests"],
        found["loop_seconds"],
        found["p50_seconds"],
        found["p99_seconds"],
        found.get("loop_images"),
    )


def parse_offered(output: str) -> Offered:
    """Read the line that wrk.lua ends with, of a load that begins after the settling."""
    found = json.loads(output.splitlines()[-1])
    refused = found["status_errors"]
    failed = sum(count for name, count in found.items() if name.endswith("_errors")) - refused
    quantiles = (found[f"{name}_seconds"] for name in ("p50", "p99", "p99_9"))
    seconds = found["seconds"] - SETTLING_SECONDS
    return Offered(seconds, found["requests"] - refused, refused, failed, *quantiles)
