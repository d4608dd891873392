"""A contender and all it starts: awaited, measured, kept still while others are, ended whatever happens."""

from __future__ import annotations

import itertools
import math
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
REST_SECONDS, REST_CORES = 0.2, 0.1  # a process rests that has taken less of a core for so long
MOST_UNREST_SECONDS = 10.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LOG_CHARACTERS = 2000
MARK = "VAESERVE_BENCHMARK"  # in the environment of a process and of all it starts
_numbers = itertools.count()


class BenchmarkError(Exception):
    """Why the benchmark cannot go on, or must not be believed."""


@dataclass(frozen=True)
class Process:
    """A process and what it starts; `popen` has pipes where it was started with them."""

    popen: subprocess.Popen[str]
    log: Path
    mark: str

    def cpu_seconds(self) -> float:
        """Return the user and system time of those that live, all threads included."""
        ticks = 0
        for pid in marked(self.mark):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                ticks += cpu_ticks(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
        return ticks / TICKS_PER_SECOND

    def pause(self) -> None:
        """Keep all of them from running."""
        signal_all(self.mark, signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let them run within the block alone, and until they rest: else what is left is done in the next."""
        signal_all(self.mark, signal.SIGCONT)
        try:
            yield
            self._await_rest()
        finally:
            self.pause()

    def _await_rest(self) -> None:
        spent, until = -math.inf, time.monotonic() + MOST_UNREST_SECONDS
        while (now_spent := self.cpu_seconds()) - spent > REST_CORES * REST_SECONDS:
            if time.monotonic() > until:
                raise BenchmarkError(
                    f"{self.log.stem} still computes {MOST_UNREST_SECONDS:g} s after its load"
                )
            spent = now_spent
            time.sleep(REST_SECONDS)

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
    """Run a command until the block is left; then end all it started, first asked and then killed."""
    mark = f"{os.getpid()}-{next(_numbers)}"
    with log.open("wb") as file:
        popen = subprocess.Popen(
            pinned(command, cpus),
            env={**environment, MARK: mark},
            stdin=subprocess.PIPE if has_pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if has_pipes else file,
            stderr=file,
            text=True,
            start_new_session=True,
        )
        try:
            yield Process(popen, log, mark)
        finally:
            _end(popen, mark)


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


def marked(mark: str) -> list[int]:
    """Return the processes whose environment has a mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def signal_all(mark: str, number: signal.Signals) -> None:
    """Send a signal to every process that has a mark."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def cpu_ticks(stat: str) -> int:
    """Return utime + stime of a line of /proc/<pid>/stat."""
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces
    return int(fields[11]) + int(fields[12])


def _end(popen: subprocess.Popen[str], mark: str) -> None:
    signal_all(mark, signal.SIGCONT)
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGTERM)
    try:
        popen.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        signal_all(mark, signal.SIGKILL)  # a stubborn leader, and whom it left behind
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                pipe.close()
