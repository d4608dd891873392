"""What Prometheus reads at GET /metrics; docs/metrics.md has every name.

Labels have values that the service knows, never ones that a caller makes up. Counters are there at zero from
the start, so that a rate sees the first event.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from app.processes import FOLDER_VARIABLE, Processes

# A `_created` series beside each counter doubles a scrape and tells nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call]

CAUSES = ("overloaded", "deadline", "disconnected", "fault")
LEARNED = "learned"
CLOSING_CAUSES = ("head", "large-head", "body", "reading")
CLASSICAL = "classical"  # also in place of a model: coded by none
MODES = ("best", "fast", "max_error", "quality", "target_bytes")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device's memory: all, taken by whomever, held by torch, and of tensors."""

    device: str
    total: int
    used: int
    reserved: int
    allocated: int


class Kept(dict[tuple[str, ...], Counter]):
    """The children of a counter by their labels' values, each looked up once."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __missing__(self, values: tuple[str, ...]) -> Counter:
        """Look a child up."""
        child = self[values] = self._counter.labels(*values)
        return child


@dataclass(frozen=True)
class QueueMetrics:
    """The collectors of one queue and of what takes from it."""

    images: Kept
    batches: Kept
    dropped: Counter
    queue_seconds: Histogram
    compute_seconds: Histogram
    batch_images: Histogram
    queued_images: Gauge
    max_queued_images: Gauge
    show_memory: Callable[[DeviceMemory | None], None]


class RouteMetrics:
    """The collectors of one route."""

    def __init__(
        self,
        route: str,
        requests: Counter,
        seconds: Histogram,
        request_bytes: Counter,
        response_bytes: Counter,
    ) -> None:
        self._route, self._requests = route, requests
        self._answered: dict[int, Counter] = {}
        self._seconds = seconds.labels(route)
        self._request_bytes, self._response_bytes = request_bytes.labels(route), response_bytes.labels(route)

    def expect(self, status: int) -> Counter:
        """Return the counter of a status, which is there from now on."""
        answered = self._answered[status] = self._requests.labels(self._route, str(status))
        return answered

    def count(self, status: int, seconds: float, request_bytes: int, response_bytes: int) -> None:
        """Count a request that was answered."""
        (self._answered.get(status) or self.expect(status)).inc()
        self._seconds.observe(seconds)
        self._request_bytes.inc(request_bytes)
        self._response_bytes.inc(response_bytes)


class Metrics:
    """The collectors of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        # Of several processes, those that live: one that has ended holds nothing.
        total = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        same = partial(Gauge, registry=self.registry, multiprocess_mode="livemax")

        self._requests = counter("vae_requests", "Requests answered.", ["route", "status"])
        self._request_seconds = histogram(
            "vae_request_duration_seconds",
            "From the request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
        )
        self._request_bytes = counter("vae_request_bytes", "Bytes of requests' bodies, as read.", ["route"])
        self._response_bytes = counter("vae_response_bytes", "Bytes of answers' bodies.", ["route"])
        self.in_flight = total("vae_requests_in_flight", "Requests whose answer has not ended.")
        self.images = Kept(counter("vae_images", "Images or latents computed.", ["model", "operation"]))
        self.batches = Kept(counter("vae_batches", "Batches computed.", ["model", "operation"]))
        self.queue_seconds = histogram(
            "vae_queue_duration_seconds",
            "From a request's arrival at the queue to its first batch.",
            ["queue"],
            buckets=_SECONDS,
        )
        self.compute_seconds = histogram(
            "vae_compute_duration_seconds", "Of a batch.", ["queue"], buckets=_SECONDS
        )
        self._batch_images = histogram("vae_batch_images", "Images in a batch.", ["queue"], buckets=_IMAGES)
        self._queued_images = total("vae_queued_images", "Images that wait.", ["queue"])
        self._max_queued_images = total("vae_max_queued_images", "Images that may wait.", ["queue"])
        self.dropped = counter(
            "vae_dropped_requests",
            "Requests not computed to the end: overloaded, deadline, disconnected, fault.",
            ["cause"],
        )
        self.closed_connections = counter(
            "vae_closed_connections", "Connections closed on slow or unreasonable clients.", ["cause"]
        )
        coded = ["model", "codec", "mode"]
        self._original_bytes = Kept(counter("vae_original_bytes", "Bytes of pixels compressed.", coded))
        self._compressed_bytes = Kept(counter("vae_compressed_bytes", "Bytes of their payloads.", coded))
        self.ready = same("vae_ready", "1 while requests are taken.")
        self.load_seconds = same("vae_load_duration_seconds", "From the start of loading to readiness.")
        self._model_info = same(
            "vae_model_info", "1 for each loaded bundle.", ["model", "digest", "device", "precision"]
        )
        self._build_info = same("vae_build_info", "1.", ["version", "torch", "python"])
        self._memory = {
            name: total(
                f"vae_device_memory_{name}_bytes", f"Bytes of the device's memory: {what}.", ["device"]
            )
            for name, what in (
                ("total", "all"),
                ("used", "taken, by whomever"),
                ("reserved", "held by torch"),
                ("allocated", "of tensors"),
            )
        }
        Processes(self.registry)
        self._routes: dict[str, RouteMetrics] = {}
        self._build_info.labels(version("vaeserve"), torch.__version__, platform.python_version()).set(1)
        for cause in CAUSES:
            self.dropped.labels(cause)
        for cause in CLOSING_CAUSES:
            self.closed_connections.labels(cause)

    def of_queue(self, name: str) -> QueueMetrics:
        """Return the collectors of a batcher's queue: vae, of the networks on their device, or codec."""
        return QueueMetrics(
            self.images,
            self.batches,
            self.dropped,
            self.queue_seconds.labels(name),
            self.compute_seconds.labels(name),
            self._batch_images.labels(name),
            self._queued_images.labels(name),
            self._max_queued_images.labels(name),
            self.show_memory,
        )

    def of_route(self, route: str) -> RouteMetrics:
        """Return the collectors of a route."""
        if (found := self._routes.get(route)) is None:
            found = self._routes[route] = RouteMetrics(
                route, self._requests, self._request_seconds, self._request_bytes, self._response_bytes
            )
        return found

    def expect_images(self, model: str, operations: Iterable[str]) -> None:
        """Have the counters of what will be computed with a model, or with none (CLASSICAL)."""
        for operation in operations:
            self.images[model, operation].inc(0)
            self.batches[model, operation].inc(0)

    def expect_payloads(self, model: str) -> None:
        """Have the counters of what will be compressed for a model."""
        for is_learned in (True, False):
            for mode in MODES:
                self.count_payload(model, is_learned, mode, 0, 0)

    def count_payload(
        self, model: str, is_learned: bool, mode: str, original_bytes: int, compressed_bytes: int
    ) -> None:
        """Count what was compressed for a model, by its codec or by none."""
        coded = (model, LEARNED if is_learned else CLASSICAL, mode)
        self._original_bytes[coded].inc(original_bytes)
        self._compressed_bytes[coded].inc(compressed_bytes)

    def show_model(self, model: str, digest: str, device: str, precision: str) -> None:
        """Show a bundle as loaded."""
        self._model_info.labels(model, digest, device, precision).set(1)

    def show_memory(self, memory: DeviceMemory | None) -> None:
        """Show the memory of the device; None where it has none of its own."""
        if memory is not None:
            for name, gauge in self._memory.items():
                gauge.labels(memory.device).set(getattr(memory, name))

    def exposition(self) -> bytes:
        """Return every figure in Prometheus's text format."""
        return generate_latest(self._of_all_processes())

    def families(self) -> Iterable[Metric]:
        """Return every figure."""
        return self._of_all_processes().collect()

    def _of_all_processes(self) -> CollectorRegistry:
        if FOLDER_VARIABLE not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        Processes(registry)
        return registry
