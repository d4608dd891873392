"""The load generator past saturation: h2load, whose connections send by the clock what is due on each.

What is due on a connection that is not yet answered waits there: of a server that refuses nothing no more is
asked than its connections bring.
"""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.processes import BenchmarkError, pinned
from benchmarks.serving.workloads import Workload

MAX_CONNECTIONS = 1000
RAMP_SECONDS = 1.0  # over which the connections begin, one after another: then their clocks are spread
START_SECONDS = 0.025  # how often some begin
DRAIN_SECONDS = 60  # for answers that are late
MISSING = "h2load is not installed; on Debian and Ubuntu: apt-get install nghttp2-client"


@dataclass(frozen=True)
class Sent:
    """Of each request when it was sent and how long its answer took, in seconds, and its status or -1."""

    at: np.ndarray
    seconds: np.ndarray
    status: np.ndarray
    unanswered: int  # in the end, sent or not


def require() -> None:
    """Raise BenchmarkError saying how to install it where there is none."""
    if shutil.which("h2load") is None:
        raise BenchmarkError(MISSING)


def offer(
    url: str, workload: Workload, body: Path, per_second: float, seconds: int, folder: Path, cpus: str | None
) -> Sent:
    """Send so many requests a second for some seconds after RAMP_SECONDS; return what came of them.

    What is not answered DRAIN_SECONDS later is left alone.
    """
    log = folder / "h2load.tsv"
    log.unlink(missing_ok=True)  # it would be added to
    connections = min(MAX_CONNECTIONS, math.ceil(per_second * RAMP_SECONDS))  # each sends as it connects
    each = math.ceil(per_second * (RAMP_SECONDS + seconds) / connections) + 1
    at_once = math.ceil(connections * START_SECONDS / RAMP_SECONDS)
    command = ["h2load", "--h1", "--threads", "1", "--clients", str(connections)]
    command += ["--rate", str(at_once), "--rate-period", f"{1e3 * START_SECONDS:g}ms"]
    command += ["--rps", f"{per_second / connections:.6f}", "--requests", str(each * connections)]
    for header in workload.headers.items():
        command += ["--header", ": ".join(header)]
    command += ["--data", str(body), "--log-file", str(log), url]
    with suppress(subprocess.TimeoutExpired):
        shown = subprocess.run(
            pinned(command, cpus),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + DRAIN_SECONDS,
        )
        if shown.returncode != 0:
            raise BenchmarkError(
                f"h2load ended with status {shown.returncode}: {shown.stderr or shown.stdout}"
            )
    if not log.exists() or not log.stat().st_size:
        raise BenchmarkError(f"not one request was answered: {shlex.join(command)}")
    return parse(log.read_text(), each * connections)


def parse(log: str, requests: int) -> Sent:
    """Read h2load's log: microseconds of the clock, status and microseconds of each request, in a line."""
    rows = np.array([line.split("\t")[:3] for line in log.splitlines()], np.int64)
    at = (rows[:, 0] - rows[:, 0].min()) / 1e6
    return Sent(at, rows[:, 2] / 1e6, rows[:, 1], requests - len(rows))
