"""The wall clock jumps, by libfaketime, while the service works: deadlines and answers do not heed it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import loaded, questions_of
from benchmarks.faults.service import left_after, ready_service, wait_for_quiet
from benchmarks.serving.processes import BenchmarkError

JUMPS = ("+2d", "-2d", "+1h", "-1h", "+0")
ROUNDS, CLIENTS, STILL_SECONDS = 4, 6, 2.0
DEADLINE_SECONDS, ALLOWANCE_SECONDS = 10.0, 1.0
MISSING = "faketime is not installed; on Debian and Ubuntu: apt-get install faketime"


def run(setup: Setup) -> list[Row]:
    """Set the clock forward and back under load; whether it moved is read from the answers' Date."""
    if shutil.which("faketime") is None:
        raise BenchmarkError(MISSING)
    clock = setup.folder / "clock"
    settings: Mapping[str, str] = {"VAE_THREADS": "1", "VAE_DEADLINE_SECONDS": f"{DEADLINE_SECONDS:g}"}
    faked = {
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # seconds between two looks at the file
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # which would have threads that wait with a timeout spin
        "FORCE_MONOTONIC_FIX": "0",
    }
    set_clock(clock, "+0")
    jumps = JUMPS * setup.times(ROUNDS)
    around = ("env", *(f"{name}={value}" for name, value in faked.items()), f"LD_PRELOAD={library()}")
    dates = set()
    with ready_service(setup, settings, around=around) as service:
        wait_for_quiet(service)
        before = service.held()
        with loaded(service.port, questions_of(setup.bundle), CLIENTS, 60.0) as tally:
            for jump in jumps:
                time.sleep(STILL_SECONDS)
                set_clock(clock, jump)
                time.sleep(STILL_SECONDS)
                answer = service.ask("GET", "/health/live")
                dates.add(answer.headers.get("date", "")[5:11])
        left, is_ready = left_after(service, before), service.is_ready()
    bad = tally.count("lost", "hung", "failed", "wrong", "refused", "turned_away")
    return [
        Row(
            "the wall clock jumps under load",
            len(jumps),
            settings,
            {**tally.document(), "days_that_answers_told": len(dates), **left.figures()},
            {
                "every request is answered": bad == 0 and tally.count("answered") > 0,
                "none takes longer than its deadline": (
                    tally.worst_seconds <= DEADLINE_SECONDS + ALLOWANCE_SECONDS
                ),
                "the clock did jump: answers told of several days": len(dates) >= 3,
                **left.promises(),
                "ready at the end": is_ready,
            },
        )
    ]


def set_clock(path: os.PathLike[str], offset: str) -> None:
    """Tell libfaketime how far the clock is off."""
    draft = f"{os.fspath(path)}.draft"
    with open(draft, "w") as file:
        file.write(f"{offset}\n")
    os.replace(draft, path)


def library() -> str:
    """Return what the dynamic linker finds the library by."""
    return "/usr/$LIB/faketime/libfaketimeMT.so.1"
