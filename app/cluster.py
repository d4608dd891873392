"""Several HTTP processes and one that computes, with a supervisor above them.

    supervisor ─┬─► engine      app.remote.EngineServer at a Unix socket
                ├─► front end   the whole HTTP service, listening on the supervisor's port
                └─► front end   …

The supervisor starts a process anew that ends by itself, and passes SIGTERM and SIGINT on: to the front ends
first, which drain, then to the engine. Started by `VAE_FRONTENDS=2` or more; the processes are
`python -m app.cluster engine FOLDER` and `python -m app.cluster front-end FOLDER DESCRIPTOR`.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from prometheus_client.multiprocess import mark_process_dead

from app.engine import build_engine
from app.metrics import FOLDER_VARIABLE, Metrics
from app.remote import EngineServer
from app.server import Server, log_as, serve
from app.service import (
    CLOSE_SECONDS,
    EXPECTED,
    freeze_what_is_loaded,
    load_bundles,
    new_batcher,
)
from app.settings import Settings

log = logging.getLogger("vaeserve")
ENGINE, FRONT_END = "engine", "front-end"
BACKLOG = 2048
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0  # for processes to end, beyond their grace
QUICK_SECONDS = 5.0  # a process that ends sooner is started anew no sooner
MAX_QUICK_ENDS = 5  # in a row
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that is to run."""

    def __init__(self, role: str, folder: Path, listener: socket.socket | None = None) -> None:
        self.role, self.quick_ends, self.was_ready = role, 0, False
        self._arguments, self._descriptors = [role, str(folder)], ()
        if listener is not None:
            self._arguments.append(str(listener.fileno()))
            self._descriptors = (listener.fileno(),)  # type: ignore[assignment]
        self.start()

    def start(self) -> None:
        """Start the process, for the first time or anew."""
        self.started = time.monotonic()
        command = [sys.executable, "-m", "app.cluster", *self._arguments]
        # A group of its own: Ctrl-C comes through the supervisor alone.
        self.process = subprocess.Popen(command, pass_fds=self._descriptors, process_group=0)

    def has_ended(self) -> bool:
        """Return whether it runs no more; count quick ends."""
        if self.process.poll() is None:
            return False
        mark_process_dead(self.process.pid, os.environ[FOLDER_VARIABLE])  # type: ignore[no-untyped-call]
        self.quick_ends = self.quick_ends + 1 if time.monotonic() - self.started < QUICK_SECONDS else 0
        return True


class Supervisor:
    """Keeps one engine and some front ends running until it is told to stop."""

    def __init__(self, settings: Settings, folder: Path, listener: socket.socket) -> None:
        self._settings, self._folder = settings, folder
        self._is_told, self._is_urged = False, False
        self._engine = Child(ENGINE, folder)
        self._front_ends = [Child(FRONT_END, folder, listener) for _ in range(settings.frontends)]

    def run(self) -> int:
        """Watch the processes; return the exit status: 0 after a signal, 1 where one cannot be kept."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        status = 0
        while not self._is_told and status == 0:
            time.sleep(POLL_SECONDS)
            status = self._look_after()
        self._stop()
        return status

    def _tell(self, number: int, _: object) -> None:
        self._is_urged = self._is_told
        self._is_told = True

    def _look_after(self) -> int:
        socket_path = engine_socket(self._folder)
        self._engine.was_ready |= socket_path.exists()
        for child in (self._engine, *self._front_ends):
            if not child.has_ended():
                continue
            process = child.process
            log.error("the %s, process %d, has ended with %d", child.role, process.pid, process.returncode)
            is_hopeless = child.role == ENGINE and not child.was_ready
            if is_hopeless or (process.returncode == 1 and child.role == FRONT_END):
                return 1
            if child.quick_ends > MAX_QUICK_ENDS:
                log.error("it has ended %d times in a row within %g s", child.quick_ends, QUICK_SECONDS)
                return 1
            if child.role == ENGINE:
                socket_path.unlink(missing_ok=True)
            child.start()
        return 0

    def _stop(self) -> None:
        seconds = self._settings.drain_delay_seconds + self._settings.grace_seconds + STOP_SECONDS
        _end(self._front_ends, seconds, lambda: self._is_urged)
        _end([self._engine], STOP_SECONDS)


def _end(children: Sequence[Child], seconds: float, is_urged: Callable[[], bool] = lambda: False) -> None:
    """Ask processes to end, again once urged to, and kill those that have not after so many seconds."""
    deadline = time.monotonic() + seconds
    asked = 0
    while time.monotonic() < deadline and any(child.process.poll() is None for child in children):
        if asked < 1 + is_urged():
            asked += 1
            for child in children:
                child.process.terminate()
        time.sleep(POLL_SECONDS)
    for child in children:
        if child.process.poll() is None:
            log.error("the %s, process %d, does not end; killing it", child.role, child.process.pid)
            child.process.kill()
        child.process.wait()


def run(settings: Settings) -> int:
    """Supervise until told to stop; return the exit status."""
    with TemporaryDirectory(prefix="vaeserve-") as name, _listener(settings) as listener:
        folder = Path(name)
        os.environ[FOLDER_VARIABLE] = str(folder)
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


async def run_engine(settings: Settings, folder: Path) -> int:
    """Compute what front ends ask for, until told to stop or the device is lost; return the exit status."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    try:
        bundles = load_bundles(settings.models)
        batcher = new_batcher(build_engine(list(bundles.values()), settings), settings, Metrics())
        await batcher.start()
    except Exception as error:
        log.error("not started: %s", error, exc_info=not isinstance(error, EXPECTED))
        return 1
    freeze_what_is_loaded()
    async with await EngineServer(batcher).listen(engine_socket(folder)):
        log.info("the engine is warm: %s", batcher.device)
        while batcher.fault is None and not told.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), POLL_SECONDS)
        await batcher.close(CLOSE_SECONDS)
    return 0 if batcher.fault is None else 1


def run_front_end(settings: Settings, folder: Path, descriptor: int) -> int:
    """Serve HTTP; return the exit status."""
    return serve(Server(settings, engine_socket(folder)), [socket.socket(fileno=descriptor)])


def main(arguments: Sequence[str]) -> int:
    """Run one of the processes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # not to outlive a supervisor that is killed
    settings = Settings()
    log_as(settings)
    role, folder, *descriptor = arguments
    if role == ENGINE:
        return uvloop.run(run_engine(settings, Path(folder)))
    return run_front_end(settings, Path(folder), int(descriptor[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
