"""Several HTTP processes and one that computes, with a supervisor above them.

    supervisor ─┬─► engine      app.remote.EngineServer at a Unix socket
                ├─► front end   the whole HTTP service, listening on the supervisor's port
                └─► front end   …

The supervisor starts a process anew that ends by itself, and passes SIGTERM and SIGINT on: to the front ends
first, which drain, then to the engine, which outlasts them whoever tells it. Started by `VAE_FRONTENDS=2` or
more; the processes are `python -m app.cluster SUPERVISOR engine FOLDER NAME` and `… SUPERVISOR front-end
FOLDER NAME DESCRIPTOR`.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from prometheus_client.multiprocess import mark_process_dead

from app.batcher import Batcher
from app.engine import build_engine
from app.interpreter import tune_interpreter
from app.logs import log_as
from app.metrics import Metrics
from app.processes import FOLDER_VARIABLE, keep_figures_as, note_process
from app.remote import EngineServer
from app.server import Server, serve
from app.service import (
    CLOSE_SECONDS,
    EXPECTED,
    STUCK_SECONDS,
    digests_of,
    is_hopeless,
    load_bundles,
    new_batcher,
)
from app.settings import Settings

log = logging.getLogger("vaeserve")
ENGINE, FRONT_END, SUPERVISOR = "engine", "front-end", "supervisor"
BACKLOG = 2048
POLL_SECONDS = 0.05
CANNOT_START = 3  # exit status; 1 is also that of an engine whose device is lost, and of any exception
STOP_SECONDS = 10.0  # for processes to end, beyond their grace
QUICK_SECONDS = 5.0  # a process that ends sooner, and not for the first time, is started anew no sooner
MAX_QUICK_ENDS = 5  # in a row
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that is to run."""

    def __init__(
        self, role: str, folder: Path, listener: socket.socket | None = None, name: str = ENGINE
    ) -> None:
        self.role, self.starts, self.quick_ends = role, 0, 0
        self._folder, self._name = folder, name
        self._arguments = [str(os.getpid()), role, str(folder), name]
        self._descriptors: list[int] = []
        if listener is not None:
            self._arguments.append(str(listener.fileno()))
            self._descriptors.append(listener.fileno())
        self.start()

    def start(self) -> None:
        """Start the process, for the first time or anew."""
        command = [sys.executable, "-m", "app.cluster", *self._arguments]
        # A group of its own: Ctrl-C comes through the supervisor alone.
        self.process = subprocess.Popen(command, pass_fds=self._descriptors, process_group=0)
        self.started, self.next_start = time.monotonic(), 0.0
        self.starts += 1
        try:
            note_process(self._folder, self._name, self.process.pid, self.starts - 1)
        except OSError as error:
            log.warning("the metrics miss the %s, process %d: %s", self.role, self.process.pid, error)

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.process.poll() is not None

    def note_end(self) -> None:
        """Count an end, and set when the process may be started anew."""
        mark_process_dead(self._name, os.environ[FOLDER_VARIABLE])  # type: ignore[no-untyped-call]
        now = time.monotonic()
        is_quick = now - self.started < QUICK_SECONDS
        self.quick_ends = self.quick_ends + 1 if is_quick else 0
        self.next_start = self.started + QUICK_SECONDS if self.quick_ends > 1 else now


class Supervisor:
    """Keeps one engine and some front ends running until it is told to stop."""

    def __init__(self, settings: Settings, folder: Path, listener: socket.socket) -> None:
        self._settings, self._folder, self._listener = settings, folder, listener
        self._signals: list[int] = []  # that came
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))
        self._engine = Child(ENGINE, folder)
        self._front_ends = [
            Child(FRONT_END, folder, listener, f"{FRONT_END}-{number}")
            for number in range(1, settings.frontends + 1)
        ]

    def run(self) -> int:
        """Watch the processes; return the exit status: 0 after a signal, 1 where one cannot be kept."""
        status = 0
        while not self._signals and status == 0:
            time.sleep(POLL_SECONDS)
            status = self._look_after()
        self._stop()
        return status

    def _look_after(self) -> int:
        for child in (self._engine, *self._front_ends):
            if not child.has_ended:
                continue
            if child.next_start == 0.0:
                child.note_end()
                number, status = child.process.pid, child.process.returncode
                log.error("the %s, process %d, has ended with %d", child.role, number, status)
                if status == CANNOT_START and child.starts == 1:  # it has said why
                    return 1
                if child.quick_ends > MAX_QUICK_ENDS:
                    log.error("it has ended %d times in a row within %g s", child.quick_ends, QUICK_SECONDS)
                    return 1
            if time.monotonic() >= child.next_start:
                self._start_anew(child)
        return 0

    @staticmethod
    def _start_anew(child: Child) -> None:
        try:
            child.start()
        except OSError as error:  # no memory for a process, say
            child.next_start = time.monotonic() + QUICK_SECONDS
            log.error("the %s cannot be started now: %s", child.role, error)

    def _stop(self) -> None:
        with suppress(OSError):  # no room on the disk: a connection may be reset then
            stopping(self._folder).touch()
        self._listener.close()
        seconds = self._settings.drain_delay_seconds + self._settings.grace_seconds + STOP_SECONDS
        _end(self._front_ends, seconds, self._signals)
        _end([self._engine], STOP_SECONDS)


def _end(children: Sequence[Child], seconds: float, signals: Sequence[int] = ()) -> None:
    """Ask processes to end, by the signals that came or still come, and kill those that have not in time.

    Without signals, SIGTERM.
    """
    deadline = time.monotonic() + seconds
    passed_on = 0
    while time.monotonic() < deadline and not all(child.has_ended for child in children):
        for number in (signals or (signal.SIGTERM,))[passed_on:]:
            passed_on += 1
            for child in children:
                child.process.send_signal(number)
        time.sleep(POLL_SECONDS)
    for child in children:
        if not child.has_ended:
            log.error("the %s, process %d, does not end; killing it", child.role, child.process.pid)
            child.process.kill()
        child.process.wait()


def run(settings: Settings) -> int:
    """Supervise until told to stop; return the exit status."""
    with TemporaryDirectory(prefix="vaeserve-") as name, _listener(settings) as listener:
        folder = Path(name)
        os.environ[FOLDER_VARIABLE] = str(folder)
        note_process(folder, SUPERVISOR, os.getpid())
        return Supervisor(settings, folder, listener).run()


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(BACKLOG)
    log.info("listening on %s port %d", settings.host, listener.getsockname()[1])
    return listener


def engine_socket(folder: Path) -> Path:
    """Return where the engine listens once it is warm."""
    return folder / "engine.sock"


def stopping(folder: Path) -> Path:
    """Return the file that is there once the supervisor stops all, and not one front end by itself."""
    return folder / "stopping"


async def run_engine(settings: Settings, folder: Path) -> int:
    """Compute what front ends ask for, until told to stop and none is left, or the device is lost.

    Returns the exit status.
    """
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    try:
        bundles = load_bundles(settings.models)
        batcher = new_batcher(build_engine(list(bundles.values()), settings), settings, Metrics())
        await batcher.start()
    except Exception as error:
        log.error("not started: %s", error, exc_info=not isinstance(error, EXPECTED))
        return CANNOT_START
    tune_interpreter()
    path = engine_socket(folder)
    path.unlink(missing_ok=True)  # of an engine before this one
    server = EngineServer(batcher, digests_of(bundles))
    async with await server.listen(path):
        log.info("the engine is warm: %s", batcher.device)
        # Told with all the others, it still has to compute what front ends have taken.
        while not (is_lost := await _is_lost(batcher, settings)):
            if told.is_set() and server.front_ends == 0:
                break
            await asyncio.sleep(POLL_SECONDS)
        has_closed = await batcher.close(CLOSE_SECONDS)
    status = 1 if is_lost else 0
    # The interpreter's end would abort the process: under a thread inside torch, or as it lets go of pinned
    # buffers of a device that is lost.
    if status or not has_closed:
        logging.shutdown()
        os._exit(status)
    return status


async def _is_lost(batcher: Batcher, settings: Settings) -> bool:
    if is_hopeless(batcher.stuck_seconds, settings):
        await asyncio.sleep(STUCK_SECONDS)  # or the process itself was stopped, and the batch ends now
        return is_hopeless(batcher.stuck_seconds, settings)
    return batcher.fault is not None


def run_front_end(settings: Settings, folder: Path, descriptor: int) -> int:
    """Serve HTTP; return the exit status."""
    server = Server(settings, engine_socket(folder), closes_port=stopping(folder).exists)
    status = serve(server, [socket.socket(fileno=descriptor)])
    return CANNOT_START if status else 0


def main(arguments: Sequence[str]) -> int:
    """Run one of the processes."""
    supervisor, role, folder, name, *descriptor = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # not to outlive a supervisor that is killed
    if os.getppid() != int(supervisor):  # as it was before this line
        return 1
    settings = Settings()
    log_as(settings)
    keep_figures_as(name)
    if role == ENGINE:
        return uvloop.run(run_engine(settings, Path(folder)))
    return run_front_end(settings, Path(folder), int(descriptor[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
