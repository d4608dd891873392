"""The real service as a process of its own, asked by plain HTTP, and looked at from outside."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.found import Setup
from benchmarks.serving.processes import Process, free_port, marked, started, wait_until_ready

PYTHON_APP = (sys.executable, "-m", "app")
ANSWER_SECONDS = 40.0  # longer than the service's own deadline of 30
SETTLE_SECONDS, QUIET_SECONDS = 1.0, 30.0
ALLOWED_BYTES = 32 << 20  # of memory that allocators keep
LEFT = ("vae_queued_images", "vae_requests_in_flight")  # the scrape itself is one in flight
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """What came back of a request."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Held:
    """What the processes of a service hold."""

    resident_bytes: int
    open_files: int


@dataclass(frozen=True)
class Service:
    """A service that was started, ready or not."""

    process: Process
    port: int

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> Answer:
        """Send one request on a connection of its own; raise OSError or HTTPException where none answers."""
        begun = time.perf_counter()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
            seconds = time.perf_counter() - begun
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content, seconds)

    def is_ready(self, times: int = 1) -> bool:
        """Whether it says so, each time: every connection may be another front end's."""
        with suppress(OSError, http.client.HTTPException):
            return all(self.ask("GET", "/health/ready", timeout=5).status == 200 for _ in range(times))
        return False

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS)

    def figure(self, name: str) -> float:
        """Return the sum of a metric's samples, named with the labels they begin with."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def held(self) -> Held:
        """Return what all its processes hold together."""
        resident = files = 0
        for pid in marked(self.process.mark):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                resident += status_bytes(pid, "VmRSS")
                files += len(os.listdir(f"/proc/{pid}/fd"))
        return Held(resident, files)

    def children(self, role: str) -> list[int]:
        """Return the processes of a role of app.cluster: engine or front-end."""
        return sorted(self._arguments(role))

    def figure_files(self) -> int:
        """Return how many files the processes of app.cluster keep their figures in."""
        [arguments] = self._arguments("engine").values()
        return len(list(Path(arguments[arguments.index("engine") + 1]).glob("*.db")))

    def _arguments(self, role: str) -> dict[int, list[str]]:
        found = {}
        for pid in marked(self.process.mark):
            with suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "app.cluster" in arguments and role in arguments:
                    found[pid] = arguments
        return found


@dataclass(frozen=True)
class Left:
    """What a service held before it was ill-treated, and what is left of that after."""

    before: Held
    after: Held
    quiet_after_seconds: float
    in_flight: float  # and queued

    def figures(self) -> dict[str, Any]:
        """Return it for a row."""
        return {
            "quiet_after_seconds": round(self.quiet_after_seconds, 3),
            "left": self.in_flight,
            "grown_bytes": self.after.resident_bytes - self.before.resident_bytes,
            "before": asdict(self.before),
            "after": asdict(self.after),
        }

    def promises(self) -> dict[str, bool]:
        """Return whether nothing is left."""
        grown = self.after.resident_bytes - self.before.resident_bytes
        return {
            "nothing is queued or in flight afterwards": self.in_flight == 0,
            f"memory grows by less than {ALLOWED_BYTES >> 20} MB": grown < ALLOWED_BYTES,
            "no descriptor is left": self.after.open_files <= self.before.open_files,
        }


def left_after(service: Service, before: Held) -> Left:
    """Wait until a service is quiet, and look at what it holds then."""
    seconds, in_flight = wait_for_quiet(service)
    return Left(before, service.held(), seconds, in_flight)


def wait_for_quiet(service: Service) -> tuple[float, float]:
    """Return after how long nothing was queued or in flight, and what still was when that took too long.

    Then the service has a moment to close what has ended, the connections of these questions among it.
    """
    begun = time.monotonic()
    while (left := sum(map(service.figure, LEFT)) - 1) > 0 and time.monotonic() - begun < QUIET_SECONDS:
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    time.sleep(SETTLE_SECONDS)
    return seconds, left


def status_bytes(pid: int, name: str) -> int:
    """Return a size of /proc/<pid>/status: VmRSS, or VmHWM, the most that there was; 0 where it has none."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def forget_most(pid: int) -> None:
    """Have VmHWM begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def begun_service(
    setup: Setup,
    settings: Mapping[str, str] | None = None,
    *,
    bundle: str | None = None,
    around: Sequence[str] = (),
) -> Iterator[Service]:
    """Start the service, under the command `around` where there is one; end it when the block is left."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    own = {"VAE_PORT": str(port), "VAE_MODELS": bundle or setup.bundle, "VAE_DEVICE": "cpu"}
    log = setup.folder / f"service-{next(_numbers)}.log"
    environment = {**inherited, **own, **(settings or {})}
    with started([*around, *PYTHON_APP], log=log, environment=environment) as process:
        yield Service(process, port)


@contextmanager
def ready_service(
    setup: Setup,
    settings: Mapping[str, str] | None = None,
    *,
    around: Sequence[str] = (),
) -> Iterator[Service]:
    """Start the service and wait until it is ready; end it when the block is left."""
    with begun_service(setup, settings, around=around) as service:
        wait_until_ready(service.process, f"http://127.0.0.1:{service.port}/health/ready")
        yield service
