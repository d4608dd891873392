"""Long inputs in parts, read no further than asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm import tqdm

Part = np.ndarray | Sequence[Any]


def check_sizes(batch: int, concurrency: int) -> None:
    """Raise ValueError unless both are positive."""
    if batch < 1 or concurrency < 1:
        raise ValueError(f"batch is {batch} and concurrency {concurrency}; both are at least 1")


def parts_of(items: Iterable[Any], size: int) -> Iterator[Part]:
    """Yield slices of an array, or lists of what an iterable yields, read no further than asked.

    Where the iterable raises, what it yielded before comes first.
    """
    if isinstance(items, np.ndarray | range):
        yield from (items[start : start + size] for start in range(0, len(items), size))
        return
    read: list[Any] = []
    try:
        for item in items:
            read.append(item)
            if len(read) == size:
                yield read
                read = []
    except Exception:
        if read:
            yield read
        raise
    if read:
        yield read


async def parts_of_any(items: Iterable[Any] | AsyncIterable[Any], size: int) -> AsyncGenerator[Part, None]:
    """Yield as parts_of does, from an asynchronous iterable too."""
    if not isinstance(items, AsyncIterable):
        for part in parts_of(items, size):
            yield part
        return
    read: list[Any] = []
    try:
        async for item in items:
            read.append(item)
            if len(read) == size:
                yield read
                read = []
    except Exception:
        if read:
            yield read
        raise
    if read:
        yield read


@contextmanager
def counted(items: object, progress: bool) -> Iterator[Callable[[int], object]]:
    """Yield what is told how many images are done: a progress bar of as many as `items` says that it has.

    Without progress there is no bar at all: a disabled one would start its monitor's thread.
    """
    if not progress:
        yield lambda count: None
        return
    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit=" images") as bar:
        yield bar.update
