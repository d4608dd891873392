"""kill −9 of the process that computes, and of one that speaks HTTP, under load and a supervisor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Tally, loaded, questions_of
from benchmarks.faults.service import Left, Service, left_after, ready_service, wait_for_quiet
from benchmarks.serving.processes import BenchmarkError

TIMES, CLIENTS, FRONT_ENDS = 20, 8, 2
DEADLINE_SECONDS = 10.0  # an engine is there again by then
ALLOWANCE_SECONDS = 1.0  # over the deadline, for the answer that says so
READY_SECONDS, GIVE_UP_SECONDS = 10.0, 60.0
UP_SECONDS = 5.5  # before it is killed: the supervisor waits with one that keeps ending sooner
LOOKS = 4 * FRONT_ENDS  # at readiness, so that each front end is likely to be asked
# Front ends know of the engine's end by their sockets, once their loops, under load, look.
NOTICE_SECONDS = 0.1
SERVES = {"engine": "the engine is warm", "front-end": "ready in "}  # what a process logs once it does
SETTINGS: Mapping[str, str] = {
    "VAE_FRONTENDS": str(FRONT_ENDS),
    "VAE_THREADS": "1",
    "VAE_DEADLINE_SECONDS": f"{DEADLINE_SECONDS:g}",
}


@dataclass
class Ends:
    """What became of a service whose processes were killed."""

    ready_after: list[float] = field(default_factory=list)  # seconds
    asked: list[int] = field(default_factory=list)  # how often while there was no engine, of each kill
    said_ready_wrongly: int = 0  # of those
    more_files: int = 0  # of figures, than there were before


def run(setup: Setup) -> list[Row]:
    """Kill the engine again and again, then front ends."""
    rows = []
    for role, times in (("engine", TIMES), ("front-end", TIMES / 4)):
        rows.append(killed(setup, role, setup.times(times)))
    return rows


def killed(setup: Setup, role: str, times: int) -> Row:
    """Start the service, load it, and kill a process of a role so many times."""
    ends, timeout = Ends(), DEADLINE_SECONDS + 10 * ALLOWANCE_SECONDS
    with ready_service(setup, SETTINGS) as service:
        until_whole(service)
        wait_for_quiet(service)
        before, files = service.held(), service.figure_files()
        with loaded(service.port, questions_of(setup.bundle), CLIENTS, timeout) as tally:
            for number in range(times):
                time.sleep(UP_SECONDS)
                kill_one(service, role, ends)
                print(f"kill -9, {role}: {number + 1} of {times}, {dict(tally.fates)}", flush=True)
        left, is_ready = left_after(service, before), service.is_ready(LOOKS)
        ends.more_files = service.figure_files() - files
    return row_of(role, times, tally, ends, left, is_ready)


def kill_one(service: Service, role: str, ends: Ends) -> None:
    """Kill the first process of a role, and wait until another serves in its place and all are ready."""
    victims, said_before = service.children(role), said(service, role)

    def is_replaced() -> bool:
        return said(service, role) > said_before

    os.kill(victims[0], signal.SIGKILL)
    killed_at = time.monotonic()
    if role == "engine":
        watch(service, ends, killed_at + NOTICE_SECONDS, is_replaced)
    ends.ready_after.append(until_ready(service, victims[:1], is_replaced) - killed_at)


def said(service: Service, role: str) -> int:
    """Return how many processes of a role have logged that they serve: each does so once."""
    return service.process.log.read_text(errors="replace").count(SERVES[role])


def watch(service: Service, ends: Ends, since: float, is_replaced: Callable[[], bool]) -> None:
    """Ask without a pause whether the service is ready, from a time until there is an engine again.

    An engine logs that it is warm before a front end can reach it: what is said before that line is wrong.
    """
    time.sleep(max(0.0, since - time.monotonic()))
    asked, deadline = 0, time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        says_ready = service.is_ready()
        if is_replaced():
            break
        asked += 1
        ends.said_ready_wrongly += says_ready
    ends.asked.append(asked)


def until_whole(service: Service) -> None:
    """Wait until every front end of a service is ready for the first time."""
    until_ready(service, [], lambda: said(service, "front-end") == FRONT_ENDS)


def until_ready(service: Service, gone: list[int], is_replaced: Callable[[], bool]) -> float:
    """Return when (time.monotonic) all processes served and were ready, without those that are gone.

    Readiness alone would not do: front ends that are left answer for the one that is still starting.
    """
    deadline = time.monotonic() + GIVE_UP_SECONDS
    pause = threading.Event()
    while time.monotonic() < deadline:
        engines, front_ends = service.children("engine"), service.children("front-end")
        is_whole = len(engines) == 1 and len(front_ends) == FRONT_ENDS
        is_whole = is_whole and not set(gone) & {*engines, *front_ends}
        if is_whole and is_replaced() and service.is_ready(LOOKS):
            return time.monotonic()
        pause.wait(0.05)
    raise BenchmarkError(f"the service was not ready again within {GIVE_UP_SECONDS:g} s")


def row_of(role: str, times: int, tally: Tally, ends: Ends, left: Left, is_ready: bool) -> Row:
    """Return the row; connections of a killed front end are lost with it, those of an engine are not."""
    bad = tally.count("hung", "failed", "wrong") + (tally.count("lost") if role == "engine" else 0)
    slowest, limit = max(ends.ready_after), DEADLINE_SECONDS + ALLOWANCE_SECONDS
    promises = {
        f"no request waits longer than its deadline of {DEADLINE_SECONDS:g} s and"
        f" {ALLOWANCE_SECONDS:g} s": tally.worst_seconds <= limit and tally.count("hung") == 0,
        "every other request is answered, or refused with Retry-After": bad == 0,
        f"ready again within {READY_SECONDS:g} s": slowest < READY_SECONDS,
        **left.promises(),
        "processes that are started anew keep no more files of figures": ends.more_files <= 0,
        "ready at the end": is_ready,
        "there was load": tally.count("answered") > 10 * times,
    }
    figures = {
        **tally.document(),
        "ready_again_worst_seconds": round(slowest, 3),
        **left.figures(),
        "more_files_of_figures": ends.more_files,
    }
    if role == "engine":
        figures["asked_while_there_was_none"] = sum(ends.asked)
        figures["said_to_be_ready_wrongly"] = ends.said_ready_wrongly
        promises["not said to be ready while there is none"] = (
            ends.said_ready_wrongly == 0 and min(ends.asked, default=0) > 0
        )
    return Row(f"kill -9 of the {role} under load", times, SETTINGS, figures, promises)
