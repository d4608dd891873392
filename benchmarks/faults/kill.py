"""kill −9 of the process that computes, and of one that speaks HTTP, under load and a supervisor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Tally, loaded, questions_of
from benchmarks.faults.service import Service, ready_service
from benchmarks.serving.processes import BenchmarkError

TIMES, CLIENTS, FRONT_ENDS = 20, 8, 2
DEADLINE_SECONDS = 5.0
ALLOWANCE_SECONDS = 1.0  # over the deadline, for the answer that says so
READY_SECONDS, GIVE_UP_SECONDS = 10.0, 60.0
UP_SECONDS = 5.5  # before it is killed: the supervisor waits with one that keeps ending sooner
LOOKS = 4 * FRONT_ENDS  # at readiness, so that each front end is likely to be asked
SETTINGS: Mapping[str, str] = {
    "VAE_FRONTENDS": str(FRONT_ENDS),
    "VAE_THREADS": "1",
    "VAE_DEADLINE_SECONDS": f"{DEADLINE_SECONDS:g}",
}


@dataclass
class Ends:
    """What became of a service whose processes were killed."""

    ready_after: list[float] = field(default_factory=list)  # seconds
    said_ready_wrongly: int = 0


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
        until_ready(service, [])
        before = service.held()
        with loaded(service.port, questions_of(setup.bundle), CLIENTS, timeout) as tally:
            for number in range(times):
                time.sleep(UP_SECONDS)
                kill_one(service, role, ends)
                print(f"kill -9, {role}: {number + 1} of {times}, {dict(tally.fates)}", flush=True)
        is_ready = service.is_ready(LOOKS)
        after = service.held()
    return row_of(role, times, tally, ends, {"before": before.__dict__, "after": after.__dict__}, is_ready)


def kill_one(service: Service, role: str, ends: Ends) -> None:
    """Kill the first process of a role, and wait until another has taken its place and all are ready."""
    victims = service.children(role)
    os.kill(victims[0], signal.SIGKILL)
    killed_at = time.monotonic()
    ends.ready_after.append(until_ready(service, victims[:1]) - killed_at)
    if role == "engine" and ends.ready_after[-1] < 0.1:  # sooner than Python starts
        ends.said_ready_wrongly += 1


def until_ready(service: Service, gone: list[int]) -> float:
    """Return when (time.monotonic) all front ends said that they were ready, without those that are gone."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    pause = threading.Event()
    while time.monotonic() < deadline:
        engines, front_ends = service.children("engine"), service.children("front-end")
        is_whole = len(engines) == 1 and len(front_ends) == FRONT_ENDS
        is_whole = is_whole and not set(gone) & {*engines, *front_ends}
        if is_whole and service.is_ready(LOOKS):
            return time.monotonic()
        pause.wait(0.05)
    raise BenchmarkError(f"the service was not ready again within {GIVE_UP_SECONDS:g} s")


def row_of(
    role: str, times: int, tally: Tally, ends: Ends, held: Mapping[str, object], is_ready: bool
) -> Row:
    """Return the row; connections of a killed front end are lost with it, those of an engine are not."""
    bad = tally.count("hung", "failed", "wrong") + (tally.count("lost") if role == "engine" else 0)
    slowest, limit = max(ends.ready_after), DEADLINE_SECONDS + ALLOWANCE_SECONDS
    return Row(
        f"kill -9 of the {role} under load",
        times,
        SETTINGS,
        {**tally.document(), "ready_again_worst_seconds": round(slowest, 3), **held},
        {
            f"no request waits longer than its deadline of {DEADLINE_SECONDS:g} s and"
            f" {ALLOWANCE_SECONDS:g} s": tally.worst_seconds <= limit and tally.count("hung") == 0,
            "every other request is answered, or refused with Retry-After": bad == 0,
            f"ready again within {READY_SECONDS:g} s": slowest < READY_SECONDS,
            "not said to be ready while there is none": ends.said_ready_wrongly == 0,
            "ready at the end": is_ready,
            "there was load": tally.count("answered") > 10 * times,
        },
    )
