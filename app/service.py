"""One running service: its bundles, its batcher, and whether it takes requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from starlette.requests import ClientDisconnect, Request

from app.batcher import Answer, Batcher
from app.coder import Coder
from app.cuda import CudaEngine
from app.engine import CpuEngine, build_engine
from app.errors import Kind, Problem
from app.intake import Intake
from app.interpreter import tune_interpreter
from app.metrics import Metrics
from app.negotiation import Limits, values_of_rows
from app.operations import GRAPHABLE, ModelTask, Operation
from app.remote import RemoteBatcher
from app.settings import Settings
from app.statistics import Statistics, told
from app.workers import Workers, in_time
from codec.chunk import verified
from codec.model import FILE, CodecError, CodecModel
from codec.workers import workers
from models.bundle import Bundle, BundleConfig, BundleError, bundle_path, load_bundle

T = TypeVar("T")
log = logging.getLogger("vaeserve")
EXPECTED = (BundleError, CodecError, ValueError)  # faults whose message says it all
WATCH_AFTER_SECONDS = 0.02  # most answers are there before
ENGINE_OPERATIONS = (*GRAPHABLE, Operation.SCORE)
STUCK_SECONDS = 5.0  # beyond the deadline, which every request that waits for a batch has passed by then
HOPELESS_TIMES = 10  # as long a batch does not end
CLOSE_SECONDS = 5.0  # for the last batch, which nobody waits for any more


@dataclass(frozen=True)
class Work:
    """Rows for a task, and the time.monotonic by which their answer is due."""

    rows: np.ndarray
    deadline: float


class Service:
    """What the routes share: made before the server starts, loaded while it already answers liveness."""

    def __init__(self, settings: Settings, engine_socket: Path | None = None) -> None:
        self.settings = settings
        self._engine_socket = engine_socket  # of the process that computes, if another does
        self.metrics = Metrics()
        self.statistics = Statistics(self.metrics.registry, settings.tracing)
        self._scrapes = ThreadPoolExecutor(1, "scrape")  # which wait for no other work, and keep none waiting
        self.limits = Limits(settings.max_body_bytes, settings.max_images, settings.max_pixels)
        self.intake = Intake(settings.max_queued_bytes, self.metrics)
        self.parsing = asyncio.Semaphore(1)  # of large bodies
        self._threads = settings.threads or max(1, torch.get_num_threads() // settings.frontends)
        self.streaming = asyncio.Semaphore(self._threads)  # threads that write what follows in a stream
        self._workers = Workers(
            self._threads,
            self.metrics,
            max_bytes=settings.max_queued_bytes,
            max_seconds=settings.bounded_queued_seconds,
        )
        self.device = ""
        self.load_fault: Exception | None = None
        self._bundles: dict[str, Bundle] = {}
        self._batcher: Batcher | RemoteBatcher | None = None
        self._coder: Coder | None = None
        self._state = "loading"

    @property
    def not_ready(self) -> str | None:
        """Why requests should go elsewhere; None while ready."""
        if self.device_is_lost:
            return f"the device is lost: {self._fault}"
        if self.stuck_seconds > patience_seconds(self.settings):
            return f"nothing has come from the device for {self.stuck_seconds:.0f} seconds"
        if self._state == "ready" and isinstance(self._batcher, RemoteBatcher) and self._batcher.is_away:
            return "the engine's process has ended, and another starts"
        return None if self._state == "ready" else self._state

    @property
    def device_is_lost(self) -> bool:
        """Whether it, or the thread that codes, has failed for good."""
        return self._fault is not None

    @property
    def _fault(self) -> BaseException | None:
        faults = (part.fault for part in (self._batcher, self._coder) if part is not None)
        return next((fault for fault in faults if fault is not None), None)

    @property
    def stuck_seconds(self) -> float:
        """How long nothing has come from what should compute."""
        parts = (self._batcher, self._coder)
        return max((part.stuck_seconds for part in parts if part is not None), default=0.0)

    @property
    def is_hopeless(self) -> bool:
        """Whether only a restart can help."""
        return self.device_is_lost or is_hopeless(self.stuck_seconds, self.settings)

    @property
    def bundles(self) -> Mapping[str, Bundle]:
        """The loaded bundles by id, the default first; raises Problem while there are none."""
        if not self._bundles:
            raise self._not_loaded()
        return MappingProxyType(self._bundles)

    def _not_loaded(self) -> Problem:
        return Problem(Kind.NOT_READY, f"the service is {self._state}")

    @property
    def default_config(self) -> BundleConfig | None:
        """The config of the default bundle; None while it is not loaded."""
        return next((bundle.config for bundle in self._bundles.values()), None)

    async def load(self) -> None:
        """Load every bundle, warm the engine up and become ready; keep what fails as `load_fault`."""
        started = time.monotonic()
        try:
            bundles = await asyncio.to_thread(load_bundles, self.settings.models)
            for id in bundles:
                self.metrics.expect_images(id, ENGINE_OPERATIONS)
                self.metrics.expect_payloads(id)
                self.statistics.expect(id)
            if self._engine_socket is None:
                engine = await asyncio.to_thread(build_engine, list(bundles.values()), self.settings)
                self._batcher = new_batcher(engine, self.settings, self.metrics)
                # Before the codecs: its thread would be given the heap of the one that loaded them, and its
                # buffers would lie between all that stays.
                await self._batcher.start()
                codecs = await asyncio.to_thread(load_codecs, bundles)
            else:
                codecs = await asyncio.to_thread(load_codecs, bundles)
                self._batcher = RemoteBatcher(
                    self._engine_socket,
                    digests_of(bundles),
                    max_bytes=self.settings.max_queued_bytes,
                    dropped=self.metrics.dropped,
                    on_change=self._show_readiness,
                )
                await self._batcher.start()
            device = self._batcher.device
            coder = Coder(codecs, self.settings, self.metrics, self._threads)
            await coder.start()
            self._coder = coder
        except Exception as error:
            self.load_fault = error
            self._enter("failed")
            log.error("not started: %s", error, exc_info=not isinstance(error, EXPECTED))
            return
        self._bundles, self.device = bundles, device
        widest = max(bundle.config.latent_dim for bundle in bundles.values())
        self.limits = replace(self.limits, json_values=values_of_rows(self.limits.images, widest))
        for id, bundle in bundles.items():
            digest, kind = f"sha256:{bundle.digest}", device.partition(",")[0]
            self.metrics.show_model(id, digest, kind, self.settings.precision)
        self.metrics.load_seconds.set(time.monotonic() - started)
        tune_interpreter()
        if self._state == "loading":  # and not told to stop meanwhile
            self._enter("ready")
        log.info("ready in %.2f s: %s on %s", time.monotonic() - started, ", ".join(bundles), self.device)

    def drain(self) -> None:
        """Turn readiness off; requests that are here or still come are answered."""
        self._enter("draining")

    async def close(self) -> None:
        """Compute what waits, then stop; a device that hangs is left behind."""
        self._enter("stopping")
        running = [part for part in (self._batcher, self._coder, self._workers) if part is not None]
        if not all(await asyncio.gather(*(part.close(CLOSE_SECONDS) for part in running))):
            log.error("the last batch has not ended after %g s; leaving it", CLOSE_SECONDS)

    @property
    def is_computing(self) -> bool:
        """Whether a batch still runs, or another thread's work."""
        parts = (self._batcher, self._coder, self._workers)
        return any(part is not None and part.is_running for part in parts)

    def _enter(self, state: str) -> None:
        self._state = state
        self._show_readiness()

    def _show_readiness(self) -> None:
        self.metrics.ready.set(self.not_ready is None)

    async def exposition(self) -> bytes:
        """Return the figures for Prometheus."""
        self._show_readiness()  # which a device that is lost turns off by itself
        return await asyncio.get_running_loop().run_in_executor(self._scrapes, self.metrics.exposition)

    async def told(self, asked: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the statistics of operations of bundles, each (id, operation)."""
        look = partial(told, self.metrics.families, asked)
        return await asyncio.get_running_loop().run_in_executor(self._scrapes, look)

    def bundle(self, model: str | None) -> Bundle:
        """Return the bundle of an id, the default one for None; raise Problem for an unknown id."""
        bundles = self.bundles
        if model is None:
            return next(iter(bundles.values()))
        if model not in bundles:
            loaded = ", ".join(bundles)
            raise Problem(
                Kind.UNKNOWN_MODEL,
                f"model {model!r} is not loaded; loaded are {loaded}",
                value=model,
                limit=loaded,
            )
        return bundles[model]

    async def compute(self, request: Request, task: ModelTask, work: Work) -> Answer:
        """Compute a task for a request, and nothing for one whose client has gone (ClientDisconnect)."""
        return await self.unless_departed(request, self.batcher.submit(task, work.rows, work.deadline))

    @staticmethod
    async def unless_departed(request: Request, answering: Coroutine[Any, Any, T]) -> T:
        """Return an answer; cancel what makes it where the client goes first (ClientDisconnect).

        The client is watched once its answer takes long.
        """
        watch = _Watch(request)
        try:
            return await answering
        except asyncio.CancelledError:
            if watch.has_departed and asyncio.current_task().uncancel() == 0:  # type: ignore[union-attr]
                raise ClientDisconnect from None
            raise
        finally:
            watch.end()

    async def in_thread(
        self, request: Request, function: Callable[[], T], kind: str, size_bytes: int, deadline: float
    ) -> T:
        """Run what a request needs beside its batches, as `Workers.run` does; for no client that has gone.

        The threads are not those that parse bodies, which therefore wait for none of it.
        """
        running = self._workers.run(function, kind, size_bytes, deadline)
        return (await self.unless_departed(request, running)).found

    async def in_time(self, waited_for: Awaitable[T], deadline: float) -> T:
        """Wait for a thread's work, no longer than to the deadline (Problem)."""
        return await in_time(waited_for, deadline, self.metrics)

    @property
    def batcher(self) -> Batcher | RemoteBatcher:
        """The batcher, there once the bundles are."""
        assert self._batcher is not None
        return self._batcher

    @property
    def coder(self) -> Coder:
        """What makes and reads payloads; raises Problem while there are no bundles."""
        if self._coder is None or not self._bundles:
            raise self._not_loaded()
        return self._coder

    def deadline(self) -> float:
        """Return the time.monotonic by which work that begins now must be done."""
        return time.monotonic() + self.settings.deadline_seconds


def patience_seconds(settings: Settings) -> float:
    """Return for how long nothing may come from a device that computes, before others are asked."""
    return settings.deadline_seconds + STUCK_SECONDS


def is_hopeless(stuck_seconds: float, settings: Settings) -> bool:
    """Return whether nothing has come from a device for so long that nothing will."""
    return stuck_seconds > HOPELESS_TIMES * patience_seconds(settings)


def new_batcher(engine: CpuEngine | CudaEngine, settings: Settings, metrics: Metrics) -> Batcher:
    """Return a batcher that drives an engine, yet to be started."""
    return Batcher(
        engine,
        metrics.of_queue("vae"),
        max_queued_images=settings.max_queued_images,
        max_queued_bytes=settings.max_queued_bytes,
        max_queued_seconds=settings.bounded_queued_seconds,
    )


def load_bundles(names: Sequence[str]) -> dict[str, Bundle]:
    """Load bundles by name; raise BundleError for one at fault, ValueError for two of the same id."""
    bundles: dict[str, Bundle] = {}
    for name in names:
        bundle = load_bundle(bundle_path(name))
        if bundle.id in bundles:
            raise ValueError(
                f"two bundles are called {bundle.id!r}: {bundles[bundle.id].path} and {bundle.path}"
            )
        bundles[bundle.id] = bundle
    return bundles


def digests_of(bundles: Mapping[str, Bundle]) -> dict[str, str]:
    """Return the digest of each bundle, by id."""
    return {id: bundle.digest for id, bundle in bundles.items()}


def load_codecs(bundles: Mapping[str, Bundle]) -> dict[str, CodecModel]:
    """Load the codecs of the bundles that have one, by id; raise CodecError for one at fault."""
    paths = {id: bundle.path / FILE for id, bundle in bundles.items()}
    with workers(1) as executor:  # the golden images are tried as they are in service
        return {id: executor.submit(verified, path).result() for id, path in paths.items() if path.is_file()}


class _Watch:
    """Cancels the task that it is made in when the request's client goes."""

    def __init__(self, request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._request, self._task = request, task
        self._watching: asyncio.Task[None] | None = None
        self._begin = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._watch)
        self.has_departed = False

    def end(self) -> None:
        """Watch no longer."""
        self._begin.cancel()
        if self._watching is not None:
            self._watching.cancel()
            # Its cancelling has this object in its traceback: a circle, which would stay as garbage.
            self._watching = None

    def _watch(self) -> None:
        self._watching = asyncio.ensure_future(self._until_departure())

    async def _until_departure(self) -> None:
        kind = ""
        while kind != "http.disconnect":  # before it comes the empty body of a GET
            kind = (await self._request.receive())["type"]
        self.has_departed = True
        self._task.cancel()
