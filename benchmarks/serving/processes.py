"""A contender as a process group of its own: started, awaited, measured, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 120.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LOG_CHARACTERS = 2000


class BenchmarkError(Exception):
    """Why the benchmark cannot go on, or must not be believed."""


@dataclass(frozen=True)
class Process:
    """A process that leads its own group; `popen` has pipes where it was started with them."""

    popen: subprocess.Popen[str]
    log: Path

    def cpu_seconds(self) -> float:
        """Return the user and system time of the group's living processes, all threads included."""
        return group_cpu_seconds(self.popen.pid)

    def raise_if_ended(self) -> None:
        """Raise BenchmarkError with the end of the log where the process is no more."""
        if (status := self.popen.poll()) is not None:
            tail = self.log.read_text(errors="replace")[-LOG_CHARACTERS:]
            raise BenchmarkError(f"{self.log.stem} ended with status {status}; the end of its log:\n{tail}")


@contextmanager
def started(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    cpus: str | None = None,
    has_pipes: bool = False,
) -> Iterator[Process]:
    """Run a command until the block is left; then end its group, first asked and then killed."""
    with log.open("wb") as file:
        popen = subprocess.Popen(
            pinned(command, cpus),
            env=environment,
            stdin=subprocess.PIPE if has_pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if has_pipes else file,
            stderr=file,
            text=True,
            start_new_session=True,
        )
        try:
            yield Process(popen, log)
        finally:
            _end_group(popen)


def pinned(command: Sequence[str], cpus: str | None) -> list[str]:
    """Return the command kept to `cpus` (a list for taskset, such as 0 or 2-3); as it is for None."""
    return [*command] if cpus is None else ["taskset", "--cpu-list", cpus, *command]


def wait_until_ready(process: Process, url: str, timeout_seconds: float = READY_SECONDS) -> None:
    """Ask `url` until it answers 200; raise BenchmarkError where the process ends or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        process.raise_if_ended()
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"{process.log.stem} was not ready after {timeout_seconds:g} s at {url}")


def free_port() -> int:
    """Return a local port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def group_cpu_seconds(group: int) -> float:
    """Return the user and system time of a process group's living processes."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            ticks += cpu_ticks(path.read_text(errors="replace"), group)
    return ticks / TICKS_PER_SECOND


def cpu_ticks(stat: str, group: int) -> int:
    """Return utime + stime of a line of /proc/<pid>/stat; 0 where it is of another process group."""
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces
    return int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0


def _end_group(popen: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGTERM)
    try:
        popen.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # a stubborn leader, and whom it left behind
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                pipe.close()
