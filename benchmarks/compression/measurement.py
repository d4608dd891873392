"""The size of one file of all images and of a file for each, and how fast they are made and read."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.compression.contenders import Contender, Images

LONG_SECONDS = 10.0  # what takes longer is measured once


class OtherImagesError(Exception):
    """Images that came back as others: their size is no figure."""


@dataclass(frozen=True)
class Measured:
    """Figures of a contender; all bytes are counted."""

    name: str
    whole_bits_per_dim: float
    compress_mb_s: float  # of the whole, in megabytes of pixels; medians
    decompress_mb_s: float
    single_bytes: float  # mean
    single_ms: float  # median, of making one


def measured(contender: Contender, images: Images, rounds: int) -> Measured:
    """Measure a contender; raise OtherImagesError where images come back as others."""
    contender.unpack(contender.pack(images[:1]), images[:1].shape)  # what is compiled, is
    packing, unpacking = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        data = contender.pack(images)
        packed = time.perf_counter()
        found = contender.unpack(data, images.shape)
        packing.append(packed - begun)
        unpacking.append(time.perf_counter() - packed)
        _check(contender, images, found)
        if packing[-1] > LONG_SECONDS:
            break
    sizes, seconds = [], []
    for image in images[:, None]:
        begun = time.perf_counter()
        alone = contender.pack(image)
        seconds.append(time.perf_counter() - begun)
        _check(contender, image, contender.unpack(alone, image.shape))
        sizes.append(len(alone))
    return Measured(
        contender.name,
        8 * len(data) / images.size,
        images.size / statistics.median(packing) / 1e6,
        images.size / statistics.median(unpacking) / 1e6,
        statistics.mean(sizes),
        1e3 * statistics.median(seconds),
    )


def _check(contender: Contender, images: Images, found: Images) -> None:
    if not np.array_equal(images, found):
        raise OtherImagesError(f"{contender.name}: other images came back")
