"""The process that computes stops (SIGSTOP) and goes on: what is answered meanwhile, and what health says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.remote import OVERTIME_SECONDS, PULSE_SECONDS
from app.service import HOPELESS_TIMES, patience_seconds
from app.settings import Settings
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Question, questions_of
from benchmarks.faults.service import Answer, Service, ready_service
from benchmarks.serving.processes import BenchmarkError

FRONT_ENDS, QUESTIONS = 2, 4
DEADLINE_SECONDS = 1.0
ALLOWANCE_SECONDS = 1.0  # over what is due, on a machine that does something else as well
BACK_SECONDS = 5.0
LOOKS = 4 * FRONT_ENDS  # at health, so that each front end is likely to be asked
SETTINGS: Mapping[str, str] = {
    "VAE_FRONTENDS": str(FRONT_ENDS),
    "VAE_THREADS": "1",
    "VAE_DEADLINE_SECONDS": f"{DEADLINE_SECONDS:g}",
}
PATIENCE_SECONDS = patience_seconds(Settings(deadline_seconds=DEADLINE_SECONDS)) + PULSE_SECONDS
HOPELESS_SECONDS = HOPELESS_TIMES * PATIENCE_SECONDS


@dataclass(frozen=True)
class Found:
    """What was seen of a service whose engine stopped, and went on."""

    statuses: tuple[int, ...]  # of what was asked meanwhile
    worst_seconds: float  # of those
    not_ready_after: float  # seconds, as all that follow
    not_live_after: float
    back_after: float
    is_right: bool  # what was asked in the end


def run(setup: Setup) -> list[Row]:
    """Stop the engine, ask, wait until readiness and then liveness are off, and let it go on."""
    question = questions_of(setup.bundle)[0]
    with ready_service(setup, SETTINGS) as service:
        until(lambda: says(service, "ready", 200), 60.0)  # every front end
        [engine] = service.children("engine")
        os.kill(engine, signal.SIGSTOP)
        stopped_at = time.monotonic()
        answers = [asked(service, question) for _ in range(QUESTIONS)]
        not_ready_after = until(lambda: says(service, "ready", 503), 2 * HOPELESS_SECONDS) - stopped_at
        not_live_after = until(lambda: says(service, "live", 503), 2 * HOPELESS_SECONDS) - stopped_at
        os.kill(engine, signal.SIGCONT)
        went_on_at = time.monotonic()
        until(lambda: says(service, "ready", 200) and says(service, "live", 200), 60.0)
        back_after = time.monotonic() - went_on_at
        last = asked(service, question)
    found = Found(
        tuple(answer.status for answer in answers),
        max(answer.seconds for answer in answers),
        not_ready_after,
        not_live_after,
        back_after,
        last.status == 200 and question.is_right(last.body),
    )
    return [row_of(found)]


def asked(service: Service, question: Question) -> Answer:
    """Send a question, and return what comes back."""
    return service.ask(question.method, question.path, question.body, question.headers)


def says(service: Service, health: str, status: int) -> bool:
    """Return whether every front end answers a question of its health with a status."""
    return all(service.ask("GET", f"/health/{health}").status == status for _ in range(LOOKS))


def until(is_so: Callable[[], bool], seconds: float) -> float:
    """Return when (time.monotonic) something was so; raise BenchmarkError where it is not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return time.monotonic()
        time.sleep(0.05)
    raise BenchmarkError(f"it was not so within {seconds:g} s")


def row_of(found: Found) -> Row:
    """Return the row."""
    due = DEADLINE_SECONDS + OVERTIME_SECONDS + ALLOWANCE_SECONDS
    promises = {
        f"every request is answered 504 within {due:g} s": (
            set(found.statuses) == {504} and found.worst_seconds <= due
        ),
        f"not ready within {PATIENCE_SECONDS + ALLOWANCE_SECONDS:g} s": (
            found.not_ready_after <= PATIENCE_SECONDS + ALLOWANCE_SECONDS
        ),
        f"not live within {HOPELESS_SECONDS + ALLOWANCE_SECONDS:g} s, and not at once": (
            found.not_ready_after < found.not_live_after <= HOPELESS_SECONDS + ALLOWANCE_SECONDS
        ),
        f"ready, live and right within {BACK_SECONDS:g} s of its going on": (
            found.back_after <= BACK_SECONDS and found.is_right
        ),
    }
    figures = {
        "answered_504": found.statuses.count(504),
        "worst_seconds": round(found.worst_seconds, 3),
        "not_ready_after_seconds": round(found.not_ready_after, 3),
        "not_live_after_seconds": round(found.not_live_after, 3),
        "back_after_seconds": round(found.back_after, 3),
    }
    return Row("the engine's process stops, and goes on", 1, SETTINGS, figures, promises)
