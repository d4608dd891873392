"""SIGTERM under load: every request that was taken is answered, and the process ends within its grace."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from benchmarks.faults import kill
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Tally, loaded, questions_of
from benchmarks.faults.service import ready_service

TIMES, CLIENTS, GRACE_SECONDS = 100, 12, 10
LOAD_SECONDS = (0.2, 0.7)  # before the signal, at random
TIMEOUT_SECONDS = 60.0


def run(setup: Setup) -> list[Row]:
    """Stop one process, and a supervisor of two front ends, again and again."""
    alone = {"VAE_GRACE_SECONDS": str(GRACE_SECONDS), "VAE_THREADS": "1"}
    rows = [stopped(setup, "SIGTERM under load", setup.times(TIMES), alone)]
    several = {**alone, "VAE_FRONTENDS": str(kill.FRONT_ENDS)}
    rows.append(stopped(setup, "SIGTERM under load, two front ends", setup.times(TIMES / 5), several))
    return rows


def stopped(setup: Setup, fault: str, times: int, settings: Mapping[str, str]) -> Row:
    """Start the service, load it and tell it to stop, so many times."""
    questions, chance = questions_of(setup.bundle), random.Random(0)
    tally, worst_exit, statuses = Tally(), 0.0, []
    for number in range(times):
        with ready_service(setup, settings) as service:
            if "VAE_FRONTENDS" in settings:
                kill.until_whole(service)  # one that still loads refuses what it takes
            with loaded(service.port, questions, CLIENTS, TIMEOUT_SECONDS) as own:
                time.sleep(chance.uniform(*LOAD_SECONDS))
                told = time.monotonic()
                service.process.popen.send_signal(signal.SIGTERM)
                try:
                    statuses.append(service.process.popen.wait(GRACE_SECONDS + TIMEOUT_SECONDS))
                except subprocess.TimeoutExpired:
                    statuses.append(-1)
                worst_exit = max(worst_exit, time.monotonic() - told)
        tally.add(own)
        print(f"{fault}: {number + 1} of {times}, {dict(own.fates)}", flush=True)
    figures = {**tally.document(), "worst_exit_seconds": round(worst_exit, 3)}
    return Row(fault, times, settings, figures, promises(tally, times, worst_exit, statuses))


def promises(tally: Tally, times: int, worst_exit: float, statuses: Sequence[int]) -> dict[str, bool]:
    """Return what is held of the stops; a service that drains has no reason to refuse what it takes."""
    return {
        "no request that was taken is refused, lost, hangs, fails or is answered wrongly": (
            tally.count("refused", "lost", "hung", "failed", "wrong") == 0
        ),
        f"the process ends within its grace of {GRACE_SECONDS} s": worst_exit <= GRACE_SECONDS,
        "the exit status is 0": set(statuses) == {0},
        "there was load": tally.count("answered") > 10 * times,
    }
