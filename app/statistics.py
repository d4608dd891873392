"""What each operation of each bundle was asked for and how long it took, whichever protocol it came by.

The counters are those of GET /metrics, so that what is told is right across processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, StatusCode
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
    parts: int = 0

    def took(self, answer: Timed) -> None:
        """Add where the time of an answer, or of a part of one, went."""
        self.queue_seconds += answer.queue_seconds
        self.compute_seconds += answer.compute_seconds
        self.parts += 1


@dataclass(frozen=True)
class _Record:
    """The counters of an operation of a bundle."""

    requests: Mapping[str, Counter]
    seconds: Mapping[str, Counter]
    queue_seconds: Counter
    compute_seconds: Counter
    images: Counter
    parts: Counter
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
        self._parts = counter("parts", "Parts that answered requests were computed in.")
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
                self._parts.labels(*labels),
                self._last.labels(*labels),
            )

    @contextmanager
    def counted(self, request: Request, model: str, operation: str, images: int) -> Iterator[Counted]:
        """Count a request that the block computes, as a failure where it raises; trace it if asked to."""
        counted, record, started = Counted(), self._records[model, operation], time.perf_counter()
        span = _begun(model, operation, images) if self._is_tracing else INVALID_SPAN
        outcome = FAILURE
        try:
            yield counted
            outcome = SUCCESS
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            record.requests[outcome].inc()
            record.seconds[outcome].inc(time.perf_counter() - started)
            span.set_attribute("vaeserve.queue_seconds", counted.queue_seconds)
            span.set_attribute("vaeserve.compute_seconds", counted.compute_seconds)
            span.end()
        record.queue_seconds.inc(counted.queue_seconds)
        record.compute_seconds.inc(counted.compute_seconds)
        record.images.inc(images)
        record.parts.inc(counted.parts)
        record.last.set_to_current_time()
        request.scope[TIMING] = {"queue": counted.queue_seconds, "compute": counted.compute_seconds}


def _begun(model: str, operation: str, images: int) -> trace.Span:
    # Not made the current one: a stream's parts are computed in another task than the one that it ends in.
    attributes: dict[str, str | int] = {"vaeserve.model": model, "vaeserve.images": images}
    return _tracer.start_span(f"vaeserve.{operation}", attributes=attributes)


def told(collect: Callable[[], Iterable[Metric]], asked: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the statistics of operations of bundles, each (id, operation), times in nanoseconds."""
    figures: dict[str, dict[tuple[str, ...], float]] = {}  # of each bundle
    for family in collect():
        if family.name.startswith(("vae_model_", "vae_batches")):
            for sample in family.samples:
                labels = sample.labels
                key = (sample.name, labels.get("operation", ""), labels.get("outcome", ""))
                figures.setdefault(labels["model"], {})[key] = sample.value
    return [_told(figures[model], operation) for model, operation in asked]


def _told(figures: Mapping[tuple[str, ...], float], operation: str) -> dict[str, Any]:
    def figure(name: str, outcome: str = "") -> float:
        return figures.get((f"vae_model_{name}", operation, outcome), 0)

    def spent(name: str, outcome: str, count: float) -> dict[str, int]:
        seconds = figure(f"{name}_seconds_total", outcome)
        return {"count": int(count), "ns": round(seconds * _NANOSECONDS)}

    succeeded, failed = (figure("requests_total", outcome) for outcome in (SUCCESS, FAILURE))
    nothing = {"count": 0, "ns": 0}
    return {
        "last_inference": round(figure("last_request_timestamp_seconds") * 1000),
        "inference_count": int(figure("images_total")),
        "execution_count": round(_executions(figures, operation)),
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


def _executions(figures: Mapping[tuple[str, ...], float], operation: str) -> float:
    """Return in how many batches an operation ran: of samples, which are decoded, in how many parts."""

    def parts(of: str) -> float:
        return figures.get(("vae_model_parts_total", of, ""), 0)

    if operation == "sample":
        return parts("sample")
    batches = sum(figures.get(("vae_batches_total", batched, ""), 0) for batched in ASKED[operation])
    if operation == "decode":  # at least one, where they shared their batches with samples
        return max(batches - parts("sample"), min(1, parts("decode")))
    return batches
