"""What Prometheus reads at GET /metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # set, the figures are those of all processes that share it

# A `_created` series beside each counter doubles a scrape and tells nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class QueueMetrics:
    """The collectors of one queue and of what takes from it."""

    images: Counter
    dropped: Counter
    queue_seconds: Histogram
    compute_seconds: Histogram
    batch_images: Histogram
    queued_images: Gauge


class Metrics:
    """The collectors of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vae_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "vae_request_duration_seconds",
            "From the request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "vae_images", "Images or latents computed.", ["model", "operation"], registry=self.registry
        )
        self.queue_seconds = Histogram(
            "vae_queue_duration_seconds",
            "From a request's arrival at the queue to its first batch.",
            ["queue"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.compute_seconds = Histogram(
            "vae_compute_duration_seconds",
            "Of a batch.",
            ["queue"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "vae_batch_images", "Images in a batch.", ["queue"], buckets=_IMAGES, registry=self.registry
        )
        self.queued_images = Gauge(
            "vae_queued_images",
            "Images that wait.",
            ["queue"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.dropped = Counter(
            "vae_dropped_requests",
            "Requests not computed to the end: overloaded, deadline, disconnected, fault.",
            ["cause"],
            registry=self.registry,
        )
        self.ready = Gauge(
            "vae_ready", "1 while requests are taken.", registry=self.registry, multiprocess_mode="livemax"
        )
        for cause in ("overloaded", "deadline", "disconnected", "fault"):
            self.dropped.labels(cause)  # present from the start, so that a rate can be taken

    def of_queue(self, name: str) -> QueueMetrics:
        """Return the collectors of a batcher's queue: vae, of the networks on their device, or codec."""
        return QueueMetrics(
            self.images,
            self.dropped,
            self.queue_seconds.labels(name),
            self.compute_seconds.labels(name),
            self.batch_images.labels(name),
            self.queued_images.labels(name),
        )

    def exposition(self) -> bytes:
        """Return every figure in Prometheus's text format."""
        if FOLDER_VARIABLE not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
