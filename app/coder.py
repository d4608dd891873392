"""Payloads: made with the codecs of the loaded bundles, or without one where no model fits.

images ─► a part for each chunk ─► batcher ─► streams ─► payload
payload ─► chunks ─► batcher ─► images
images of another shape than the model's ─► a thread ─► payload without a model, and back
images that are to fit a number of bytes ─► a thread ─► payload
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from app.batcher import Batcher
from app.coding import OPERATIONS, CodingEngine
from app.metrics import CLASSICAL, Metrics
from app.operations import ModelTask, Operation
from app.rows import chunk_rows
from app.settings import Settings
from app.workers import Done, Workers, in_time
from codec.encoding import Manner, assembled, compress, divided, is_learned, model_for
from codec.model import CodecModel
from codec.payload import (
    CHUNK_LEVELS,
    Header,
    Images,
    chunk_of,
    decompress,
    decompress_one,
    joined,
)
from models.images import encode_png, encode_webp

T = TypeVar("T")
CODING = (*OPERATIONS.values(), Operation.DECOMPRESS)
QUICK_BYTES = CHUNK_LEVELS  # of images: fewer are put together in less time than a thread's start


@dataclass(frozen=True)
class Result(Generic[T]):
    """A payload or images, the id of its model if it has one, and where the time went."""

    found: T
    model: str | None
    queue_seconds: float
    compute_seconds: float


def in_place(images: Images) -> np.ndarray:
    """Return images (N,C,H,W) as (N,H,W,C)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


class Coder:
    """Makes payloads of images, and images of payloads."""

    def __init__(
        self, codecs: Mapping[str, CodecModel], settings: Settings, metrics: Metrics, threads: int
    ) -> None:
        self._codecs, self._metrics = codecs, metrics
        self._ids = {codec.prefix: name for name, codec in codecs.items()}
        self._engine = CodingEngine(codecs, threads)
        self._batcher = Batcher(
            self._engine,
            metrics.of_queue("codec"),
            max_queued_images=settings.max_queued_images,
            max_queued_bytes=settings.max_queued_bytes,
            max_queued_seconds=settings.bounded_queued_seconds,
        )
        self._workers = Workers(
            threads,
            metrics,
            max_bytes=settings.max_queued_bytes,
            max_seconds=settings.bounded_queued_seconds,
        )
        self._queue_seconds = metrics.queue_seconds.labels(CLASSICAL)
        self._compute_seconds = metrics.compute_seconds.labels(CLASSICAL)
        for id in (*codecs, CLASSICAL):
            metrics.expect_images(id, CODING)

    async def start(self) -> None:
        """Start the batcher."""
        await self._batcher.start()

    async def close(self, timeout_seconds: float) -> bool:
        """Code what is queued, then stop; return whether that ended in time."""
        closing = (self._batcher.close(timeout_seconds), self._workers.close(timeout_seconds))
        return all(await asyncio.gather(*closing))

    @property
    def is_running(self) -> bool:
        """Whether anything is still coded."""
        return self._batcher.is_running or self._workers.is_running

    @property
    def fault(self) -> BaseException | None:
        """What the thread that codes has ended by, if it has."""
        return self._batcher.fault

    @property
    def stuck_seconds(self) -> float:
        """How long the batch that is coded has been."""
        return self._batcher.stuck_seconds

    def find(self, prefix: bytes) -> CodecModel | None:
        """Return the loaded codec that a payload names."""
        return self._codecs[self._ids[prefix]] if prefix in self._ids else None

    def digest_of(self, id: str) -> str | None:
        """Return the SHA-256 of a bundle's codec, in hexadecimal; payloads begin with its first bytes."""
        codec = self._codecs.get(id)
        return None if codec is None else codec.digest.hex()

    def id_of(self, model: CodecModel) -> str:
        """Return the id of a bundle with a codec."""
        return self._ids[model.prefix]

    def has(self, id: str, model: CodecModel) -> bool:
        """Return whether a codec is that of a bundle: several bundles may have the same."""
        return id in self._codecs and self._codecs[id].prefix == model.prefix

    @property
    def loaded(self) -> str:
        """Every codec's id and the digest that payloads name it by."""
        return ", ".join(f"{id} ({codec.prefix.hex()})" for id, codec in self._codecs.items()) or "none"

    def check_room(self, id: str | None = None) -> None:
        """Raise Problem, overloaded, where a bundle's codec, or any, has no room for a request.

        What turns out to need none (images of another shape, a payload without a model, `target_bytes` of
        /v2) is refused, too: its body alone tells.
        """
        if id is None or id in self._codecs:
            self._batcher.check_room()

    async def compress(self, images: Images, id: str, manner: Manner, deadline: float) -> Result[bytes]:
        """Return the payload of images (N,C,H,W), made with a bundle's codec where they have its shape.

        Raises PayloadError for what `codec.encoding.compress` cannot do, Problem as the batcher does.
        """
        model, operation = model_for(images.shape[1:], self._codecs.get(id)), OPERATIONS[manner.effort]
        if model is None or manner.target_bytes is not None:  # whose chunks depend on each other
            each = map if model is None else partial(self._engine.each, deadline)
            making = partial(compress, images, self._codecs.get(id), manner, each)
            done = await self._workers.run(making, mode_of(manner), images.nbytes, deadline)
            named = id if is_learned(done.found) else None
            self._measure(done, operation, len(images), named)
            self._metrics.count_payload(
                id, named is not None, mode_of(manner), images.nbytes, len(done.found)
            )
            return Result(done.found, named, done.queue_seconds, done.compute_seconds)
        parts = divided(images, model, manner)
        task = ModelTask(id, operation, manner=manner)
        answer = await self._batcher.submit(task, chunk_rows(parts), deadline)
        assembling = partial(assembled, list(answer.arrays[0]), model, manner)
        payload = await self._copied(assembling, images.nbytes, deadline)
        named = id if is_learned(payload) else None
        self._metrics.count_payload(id, named is not None, mode_of(manner), images.nbytes, len(payload))
        return Result(payload, named, answer.queue_seconds, answer.compute_seconds)

    async def decompress(self, header: Header, index: int | None, deadline: float) -> Result[np.ndarray]:
        """Return a payload's images (N,H,W,C), or the one at `index`.

        Raises PayloadError for an index outside and for damaged streams, Problem as the batcher does.
        """
        size_bytes = bytes_of(header, index)
        if header.model is None:
            whole = partial(decompress, header)
            function = whole if index is None else partial(decompress_one, header, index)
            done = await self._workers.run(function, Operation.DECOMPRESS, size_bytes, deadline)
            self._measure(done, Operation.DECOMPRESS, len(done.found), None)
            images = await self._copied(partial(in_place, done.found), size_bytes, deadline)
            return Result(images, None, done.queue_seconds, done.compute_seconds)
        chunks, place = header.chunks, slice(None)
        if index is not None:
            chunk, first = chunk_of(header, index)
            chunks, place = (chunk,), slice(first, first + 1)
        id = self.id_of(header.model)
        task = ModelTask(id, Operation.DECOMPRESS)
        answer = await self._batcher.submit(task, chunk_rows(chunks), deadline)
        parts = list(answer.arrays[0])
        images = await self._copied(lambda: in_place(joined(parts)[place]), size_bytes, deadline)
        return Result(images, id, answer.queue_seconds, answer.compute_seconds)

    async def compare(self, images: np.ndarray, deadline: float) -> dict[str, int]:
        """Return the bytes of images (N, H, W, C) as files of their own, by format.

        Raises Problem as `Workers.run` does: a file takes many times as long as a payload may.
        """
        done = await self._workers.run(partial(file_bytes, images), "compare", images.nbytes, deadline)
        return done.found

    async def _copied(self, function: Callable[[], T], size_bytes: int, deadline: float) -> T:
        """Put together what was coded; no more of it comes than is coded, which takes many times as long."""
        if size_bytes <= QUICK_BYTES:
            return function()
        return await in_time(asyncio.to_thread(function), deadline, self._metrics)

    def _measure(self, done: Done[T], operation: Operation, images: int, model: str | None) -> None:
        """Count images that were coded in a thread of their own."""
        computed = (model or CLASSICAL, operation)
        self._metrics.images[computed].inc(images)
        self._metrics.batches[computed].inc()
        self._queue_seconds.observe(done.queue_seconds)
        self._compute_seconds.observe(done.compute_seconds)


def mode_of(manner: Manner) -> str:
    """Return what a payload was asked to be made by: the parameter that makes it lossy, else the effort."""
    if manner.target_bytes is not None:
        return "target_bytes"
    if manner.quality is not None:
        return "quality"
    return "max_error" if manner.max_error else manner.effort


def bytes_of(header: Header, index: int | None) -> int:
    """Return the bytes of a payload's images, decoded, or of the chunk of one of them."""
    chunks = header.chunks if index is None else [chunk_of(header, index)[0]]
    return sum(chunk.nbytes for chunk in chunks)


def file_bytes(images: np.ndarray) -> dict[str, int]:
    """Return the bytes of images (N, H, W, C) as files of their own, by format."""
    return {
        "png": sum(len(encode_png(image, is_smallest=True)) for image in images),
        "webp": sum(len(encode_webp(image)) for image in images),
    }
