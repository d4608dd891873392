"""What each operation of each bundle was asked for and how long it took, whichever protocol it came by.

The counters are those of GET /metrics, so that what is told is right across processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric
from starlette.requests import Request

from app.operations import Operation

SUCCESS, FAILURE = "success", "failure"
TIMING = "vaeserve.timing"  # in a request's scope: seconds by name
# What is asked for, and the operations of the batches that have it.
ASKED: Mapping[str, tuple[Operation, ...]] = {
    "encode": (Operation.ENCODE,),
    "decode": (Operation.DECODE,),
    "reconstruct": (Operation.RECONSTRUCT,),
    "score": (Operation.SCORE,),
    "sample": (Operation.DECODE,),
    "compress": (Operation.COMPRESS, Operation.COMPRESS_FAST),
    "decompress": (Operation.DECOMPRESS,),
}
_NANOSECONDS = 1_000_000_000
_tracer = trace.get_tracer("vaeserve")


class Timed(Protocol):
    """What knows where a request's time went."""

    @property
    def queue_seconds(self) -> float:
        """Before anything was computed."""

    @property
    def compute_seconds(self) -> float:
        """While it was."""


@dataclass
class Counted:
    """A request that is being answered."""

    queue_seconds: float = 0.0
    compute_seconds: float = 0.0

    def took(self, answer: Timed) -> None:
        """Add where the time of an answer, or of a part of one, went."""
        self.queue_seconds += answer.queue_seconds
        self.compute_seconds += answer.compute_seconds


@dataclass(frozen=True)
class _Record:
    """The counters of an operation of a bundle."""

    requests: Mapping[str, Counter]
    seconds: Mapping[str, Counter]
    queue_seconds: Counter
    compute_seconds: Counter
    images: Counter
    last: Gauge


class Statistics:
    """Counters for each operation of each bundle, in an application's registry."""

    def __init__(self, registry: CollectorRegistry, is_tracing: bool) -> None:
        self._is_tracing = is_tracing
        by_model, by_outcome = ("model", "operation"), ("model", "operation", "outcome")

        def counter(name: str, documentation: str, labels: tuple[str, ...] = by_model) -> Counter:
            return Counter(f"vae_model_{name}", documentation, labels, registry=registry)

        self._requests = counter("requests", "Requests of an operation of a bundle.", by_outcome)
        self._seconds = counter("request_seconds", "From a parsed body to its outputs.", by_outcome)
        self._queue_seconds = counter("queue_seconds", "For which answered requests waited.")
        self._compute_seconds = counter("compute_seconds", "In which answered requests were computed.")
        self._images = counter("images", "Images or latents of answered requests.")
        self._last = Gauge(
            "vae_model_last_request_timestamp_seconds",
            "When a request was last answered, since 1970.",
            by_model,
            registry=registry,
            multiprocess_mode="max",
        )
        self._records: dict[tuple[str, str], _Record] = {}

    def expect(self, model: str) -> None:
        """Have the counters of a bundle from now on."""
        for operation in ASKED:
            labels = (model, operation)
            self._records[labels] = _Record(
                {outcome: self._requests.labels(*labels, outcome) for outcome in (SUCCESS, FAILURE)},
                {outcome: self._seconds.labels(*labels, outcome) for outcome in (SUCCESS, FAILURE)},
                self._queue_seconds.labels(*labels),
                self._compute_seconds.labels(*labels),
                self._images.labels(*labels),
                self._last.labels(*labels),
            )

    @contextmanager
    def counted(self, request: Request, model: str, operation: str, images: int) -> Iterator[Counted]:
        """Count a request that the block computes, as a failure where it raises; trace it if asked to."""
        counted, record, started = Counted(), self._records[model, operation], time.perf_counter()
        outcome = FAILURE
        try:
            if self._is_tracing:
                with _traced(counted, model, operation, images):
                    yield counted
            else:
                yield counted
            outcome = SUCCESS
        finally:
            record.requests[outcome].inc()
            record.seconds[outcome].inc(time.perf_counter() - started)
        record.queue_seconds.inc(counted.queue_seconds)
        record.compute_seconds.inc(counted.compute_seconds)
        record.images.inc(images)
        record.last.set_to_current_time()
        request.scope[TIMING] = {"queue": counted.queue_seconds, "compute": counted.compute_seconds}


@contextmanager
def _traced(counted: Counted, model: str, operation: str, images: int) -> Iterator[None]:
    attributes: dict[str, str | int] = {"vaeserve.model": model, "vaeserve.images": images}
    with _tracer.start_as_current_span(f"vaeserve.{operation}", attributes=attributes) as span:
        yield
        span.set_attribute("vaeserve.queue_seconds", counted.queue_seconds)
        span.set_attribute("vaeserve.compute_seconds", counted.compute_seconds)


def told(families: Iterable[Metric], model: str, operation: str) -> dict[str, Any]:
    """Return an operation's statistics as Triton's clients read them, times in nanoseconds."""
    figures: dict[tuple[str, ...], float] = {}
    for family in families:
        if family.name.startswith(("vae_model_", "vae_batches")):
            for sample in family.samples:
                labels = sample.labels
                if labels.get("model") == model:
                    key = (sample.name, labels.get("operation", ""), labels.get("outcome", ""))
                    figures[key] = sample.value

    def figure(name: str, outcome: str = "") -> float:
        return figures.get((f"vae_model_{name}", operation, outcome), 0)

    def spent(name: str, outcome: str, count: float) -> dict[str, int]:
        seconds = figure(f"{name}_seconds_total", outcome)
        return {"count": int(count), "ns": round(seconds * _NANOSECONDS)}

    succeeded, failed = (figure("requests_total", outcome) for outcome in (SUCCESS, FAILURE))
    nothing = {"count": 0, "ns": 0}
    batches = (figures.get(("vae_batches_total", batched, ""), 0) for batched in ASKED[operation])
    return {
        "last_inference": round(figure("last_request_timestamp_seconds") * 1000),
        "inference_count": int(figure("images_total")),
        "execution_count": int(sum(batches)),
        "inference_stats": {
            "success": spent("request", SUCCESS, succeeded),
            "fail": spent("request", FAILURE, failed),
            "queue": spent("queue", "", succeeded),
            "compute_input": nothing,
            "compute_infer": spent("compute", "", succeeded),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
        "memory_usage": [],
    }
