"""The codecs on the CPU: what a second batcher drives, with a chunk of images a row."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from app.batcher import Arrays, Pending
from app.operations import ModelTask, Operation
from app.rows import chunk_rows
from codec.encoding import Effort, encoded
from codec.model import CodecModel
from codec.payload import CHUNK_LEVELS, decoded
from codec.workers import workers

T = TypeVar("T")
OPERATIONS: dict[Effort, Operation] = {"best": Operation.COMPRESS, "fast": Operation.COMPRESS_FAST}


@dataclass(frozen=True)
class Running:
    """Pieces of a batch, each in a thread."""

    pieces: tuple[Future[list[object]], ...]

    def result(self) -> Arrays:
        """Wait for the pieces and return an object for each row."""
        return (chunk_rows([found for piece in self.pieces for found in piece.result()]),)


class CodingEngine:
    """Codes batches of chunks, in a thread each piece of a batch."""

    depth = 1

    def __init__(self, codecs: Mapping[str, CodecModel], threads: int) -> None:
        self._codecs, self._threads, self._workers = codecs, threads, workers(threads)
        levels = threads * CHUNK_LEVELS  # a chunk or so for each thread
        self._rooms = {id: max(1, levels // math.prod(codec.config.shape)) for id, codec in codecs.items()}
        self.max_batch = max(self._rooms.values(), default=1)

    def warm_up(self) -> None:
        """Do nothing: whoever loaded the codecs has coded their golden images."""

    def room(self, task: ModelTask) -> int:
        """Return the images of a batch at most."""
        return self._rooms[task.model]

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        """Start coding the chunks of `parts`."""
        chunks = np.concatenate(parts)
        pieces = np.array_split(chunks, min(self._threads, len(chunks)))
        return Running(tuple(self._workers.submit(self._coded, task, list(piece)) for piece in pieces))

    def each(self, deadline: float, function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Yield a function of each item, computed in the threads that code batches, a few at a time.

        Raises TimeoutError once `deadline` (time.monotonic) has passed: nobody waits for the rest.
        """
        launched: deque[Future[T]] = deque()
        for item in items:
            if time.monotonic() > deadline:
                raise TimeoutError("the deadline has passed")
            launched.append(self._workers.submit(function, item))
            if len(launched) >= self._threads:
                yield launched.popleft().result()
        for future in launched:
            yield future.result()

    def is_lost(self) -> bool:
        """Return False: a CPU fails a batch, never for good."""
        return False

    def memory(self) -> None:
        """Return None: a CPU's memory is the process's."""
        return None

    def _coded(self, task: ModelTask, chunks: list[Any]) -> list[object]:
        if task.operation is Operation.DECOMPRESS:
            return list(decoded(chunks))
        return list(encoded(chunks, self._codecs[task.model], task.manner))
