"""The load generator: wrk, told what to send by wrk.lua."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.processes import BenchmarkError, pinned
from benchmarks.serving.workloads import Workload

SCRIPT = Path(__file__).with_name("wrk.lua")
ANSWER_SECONDS = 30  # an answer later than this is an error
FIRST_REFUSAL = 400  # of the statuses
MISSING = "wrk is not installed; on Debian and Ubuntu: apt-get install wrk"


@dataclass(frozen=True)
class Load:
    """What wrk saw: answers, and how long they took."""

    requests: int
    seconds: float
    p50_seconds: float
    p99_seconds: float
    images: int | None = None  # of the answers, where requests differ in theirs


def version() -> str:
    """Return wrk's version; raise BenchmarkError saying how to install it where there is none."""
    if shutil.which("wrk") is None:
        raise BenchmarkError(MISSING)
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)  # its status is 1
    return shown.stdout.split()[1]


def drive(url: str, workload: Workload, bodies: Sequence[Path], seconds: int, cpus: str | None) -> Load:
    """Send a workload's bodies to `url` for some seconds; raise BenchmarkError for any failed request."""
    command = ["wrk", "--threads", "1", "--connections", str(workload.connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{ANSWER_SECONDS}s", "--script", str(SCRIPT), url]
    command += ["--", workload.method, workload.content_type, workload.accept, workload.coding]
    command.append("counted" if workload.are_counted else "")
    command += map(str, bodies)
    timeout = seconds + 2 * ANSWER_SECONDS
    try:
        shown = subprocess.run(
            pinned(command, cpus), capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"wrk has not ended after {timeout} s: {shlex.join(command)}") from None
    if shown.returncode != 0:
        raise BenchmarkError(f"wrk ended with status {shown.returncode}: {shown.stderr or shown.stdout}")
    what = f"{workload.name} to {url} for {seconds} s"
    return parse(shown.stdout, what, are_refused=workload.status >= FIRST_REFUSAL)


def parse(output: str, what: str, *, are_refused: bool = False) -> Load:
    """Read the line that wrk.lua ends with; raise BenchmarkError where any request failed, or was not to."""
    found = json.loads(output.splitlines()[-1])
    if are_refused:  # wrk calls each of them an error
        found["status_errors"] = found["requests"] - found["status_errors"]
    failed = {name: count for name, count in found.items() if name.endswith("_errors") and count}
    if failed or not found["requests"]:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in failed.items())
        raise BenchmarkError(f"{what}: {found['requests']} requests answered, {listed or 'no errors'}")
    return Load(**{name: value for name, value in found.items() if not name.endswith("_errors")})
