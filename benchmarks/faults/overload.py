"""Ten times the load that the service bears: what it still answers, how it refuses the rest, and after."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from app.settings import Settings
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.service import Service, left_after, ready_service, wait_for_quiet
from benchmarks.faults.slow_clients import percentile
from benchmarks.serving import wrk
from benchmarks.serving.material import Material, material_of
from benchmarks.serving.poisson import Answers, offer, offer_one, request_bytes
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.running import Posts, write_posts
from benchmarks.serving.workloads import NPY_64, SAMPLE_SEED, SAMPLES, Body, npy_bytes
from models.bundle import bundle_path, load_bundle

TIMES_PEAK, SECONDS, PEAK_SECONDS, WARM_UP_SECONDS = 10.0, 60, 10, 10
GOODPUT = 0.9
REFUSED_SECONDS = 0.05  # the 99th percentile
WORST_REFUSED_SECONDS = 0.25  # the load is on the same cores, and may keep the service from them for a while
RECOVERY_SECONDS = 0.5  # beyond those for which a request may wait
DEFAULT_RECOVERY_SECONDS = 2.0  # by default
ANSWER_SECONDS = 1.0  # for which an answer may take longer than it waits
RECOVERED_TIMES = 3.0  # of the latency of a lone request before: that much is recovered
GIVE_UP_SECONDS = 30.0
SETTINGS: Mapping[str, str] = {"VAE_THREADS": "1"}
DEFAULT_QUEUED_SECONDS: float = Settings.model_fields["max_queued_seconds"].default
QUEUED_SECONDS = (DEFAULT_QUEUED_SECONDS, 5.0)
SCORE_SAMPLES = 64
SAMPLES_OFFERED = range(SCORE_SAMPLES - 8, SCORE_SAMPLES + 9)  # each a task of its own
PATH = "/score?samples="


def _one_each(material: Material) -> list[Body]:
    return [Body(npy_bytes(material.images[:1]), {})]


SCORE = replace(NPY_64, name="score", accept="application/json", connections=16, write=_one_each)


def run(setup: Setup) -> list[Row]:
    """Find the peak by a closed loop, offer ten times as much, and look how soon a lone request is as before.

    Requests to score an image are refused at a small part of what they cost: with cheaper ones, and the load
    on the same cores, the load itself would take what it measures.
    """
    limits = {seconds: recovery_limit(seconds) for seconds in QUEUED_SECONDS}
    material = material_of(load_bundle(bundle_path(setup.bundle)), SAMPLES, SAMPLE_SEED)
    posts = write_posts(SCORE, material, setup.folder)
    content = posts.bodies[0].content
    requests = [
        request_bytes("POST", f"{PATH}{samples}", SCORE.content_type, SCORE.accept, content)
        for samples in SAMPLES_OFFERED
    ]
    with ready_service(setup, SETTINGS) as service:
        peak = peak_of(service, posts, setup.seconds(PEAK_SECONDS))
    return [overloaded(setup, requests, peak, *each) for each in limits.items()]


def recovery_limit(queued_seconds: float) -> float:
    """Return within how long a lone request is to be as before; raise BenchmarkError where it cannot be."""
    limit = queued_seconds + RECOVERY_SECONDS
    if queued_seconds != DEFAULT_QUEUED_SECONDS:
        return limit
    if limit > DEFAULT_RECOVERY_SECONDS:
        said = f"{queued_seconds:g} s of work may wait by default"
        raise BenchmarkError(f"{said}; an overload is to be over within {DEFAULT_RECOVERY_SECONDS:g} s")
    return DEFAULT_RECOVERY_SECONDS


def overloaded(
    setup: Setup, requests: Sequence[bytes], peak: float, queued_seconds: float, recovery_seconds: float
) -> Row:
    """Overload a service in which so many seconds of work may wait."""
    request = requests[len(requests) // 2]
    settings = {**SETTINGS, "VAE_MAX_QUEUED_SECONDS": f"{queued_seconds:g}"}
    seconds = setup.seconds(SECONDS)
    with ready_service(setup, settings) as service:
        offer(service.port, requests, TIMES_PEAK * peak, WARM_UP_SECONDS)  # buffers grow
        wait_for_quiet(service)
        unloaded = lone_seconds(service, request)
        before = service.held()
        answers = offer(service.port, requests, TIMES_PEAK * peak, seconds)
        # The last answers that were due came after the load had ended, and the generator waited for them.
        recovery = answers.seconds - seconds
        recovery += recovered_after(service, request, RECOVERED_TIMES * unloaded)
        left, is_ready = left_after(service, before), service.is_ready()
    figures = {
        "peak_per_second": round(peak, 1),
        **figures_of(answers, seconds),
        "lone_seconds_before": round(unloaded, 4),
        "recovery_seconds": round(recovery, 3),
        **left.figures(),
    }
    kept = promises(figures, peak, queued_seconds, recovery_seconds, is_ready)
    fault = f"{TIMES_PEAK:g} times the peak load, {queued_seconds:g} s of which may wait"
    return Row(fault, 1, settings, figures, {**kept, **left.promises()})


def peak_of(service: Service, posts: Posts, seconds: int) -> float:
    """Return the most requests a second that a closed loop gets answered; the median of three."""
    url = f"http://127.0.0.1:{service.port}{PATH}{SCORE_SAMPLES}"
    _, *loads = (wrk.drive(url, posts.workload, posts.files, seconds, None) for _ in range(1 + 3))
    return median(load.requests / load.seconds for load in loads)


def lone(service: Service, request: bytes) -> list[float]:
    """Send one request that is alone; return what it took, or nothing where it was not answered."""
    found: list[float] = offer_one(service.port, request).latencies(200).tolist()
    return found


def lone_seconds(service: Service, request: bytes) -> float:
    """Return what a request takes that is alone; the median of some, one after the other."""
    return median(seconds for _ in range(20) for seconds in lone(service, request))


def figures_of(answers: Answers, seconds: int) -> dict[str, Any]:
    """Return what became of an overload; goodput counts what was answered while it lasted."""
    good, refused = answers.latencies(200), answers.latencies(429)
    return {
        "offered": len(answers.status),
        "offered_seconds": seconds,
        "generator_late_p99_seconds": percentile(answers.late),
        "goodput_per_second": round(len(good) / answers.seconds, 1),
        "answered_p99_seconds": percentile(good),
        "refused": len(refused),
        "refused_p99_seconds": percentile(refused),
        "refused_worst_seconds": round(float(refused.max(initial=0.0)), 4),
        "refused_with_retry_after": sum(answers.has_retry_after),
        "neither": len(answers.status) - len(good) - len(refused),
    }


def recovered_after(service: Service, request: bytes, seconds: float) -> float:
    """Return how long it takes until a lone request is answered within so many seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < GIVE_UP_SECONDS:
        if (found := lone(service, request)) and max(found) <= seconds:
            break
    return time.monotonic() - begun


def promises(
    figures: Mapping[str, Any], peak: float, queued_seconds: float, recovery_seconds: float, is_ready: bool
) -> dict[str, bool]:
    """Return what is held of the figures.

    What waits may be overtaken by later requests of other kinds, whose turn comes first.
    """
    answered = 2 * queued_seconds + ANSWER_SECONDS
    return {
        f"goodput is at least {GOODPUT:.0%} of the peak": figures["goodput_per_second"] >= GOODPUT * peak,
        f"99 % of refusals come within {REFUSED_SECONDS * 1e3:g} ms": (
            figures["refused_p99_seconds"] <= REFUSED_SECONDS
        ),
        f"all of them within {WORST_REFUSED_SECONDS * 1e3:g} ms": (
            figures["refused_worst_seconds"] <= WORST_REFUSED_SECONDS
        ),
        "every refusal has Retry-After": figures["refused_with_retry_after"] >= figures["refused"],
        "there are refusals, and no other failures": figures["refused"] > 0 and figures["neither"] == 0,
        f"99 % of answers come within {answered:g} s": figures["answered_p99_seconds"] < answered,
        f"a lone request is as before within {recovery_seconds:g} s": (
            figures["recovery_seconds"] < recovery_seconds
        ),
        "ready at the end": is_ready,
    }
