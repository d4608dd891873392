"""Bytes, PSNR and SSIM of a contender, image by image and of one file of all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from benchmarks.compression.contenders import Contender, Images

LARGEST_LEVEL = 255


@dataclass(frozen=True)
class Point:
    """What a setting costs and what it loses; all bytes are counted."""

    setting: float
    single_bytes: float  # mean, of a file for each image
    single_psnr: float | None  # dB, of the mean squared error over all images; None without any error
    single_ssim: float  # mean
    whole_bits_per_dim: float  # of one file of all
    whole_psnr: float | None


def measured(setting: float, contender: Contender, images: Images) -> Point:
    """Measure a contender on every image alone, and on all of them."""
    sizes, back = [], []
    for image in images[:, None]:
        data = contender.pack(image)
        sizes.append(len(data))
        back.append(contender.unpack(data, image.shape))
    alone = np.concatenate(back)
    data = contender.pack(images)
    together = contender.unpack(data, images.shape)
    return Point(
        setting,
        statistics.mean(sizes),
        psnr(images, alone),
        statistics.mean(map(_ssim, images, alone)),
        8 * len(data) / images.size,
        psnr(images, together),
    )


def psnr(images: Images, others: Images) -> float | None:
    """Return 10·log10(255² / mean squared error), in dB; None without any error."""
    error = float(((images.astype(np.float64) - others) ** 2).mean())
    return 10 * math.log10(LARGEST_LEVEL**2 / error) if error else None


def _ssim(image: np.ndarray, other: np.ndarray) -> float:
    compared: Callable[..., float] = structural_similarity
    return float(compared(image, other, channel_axis=0, data_range=LARGEST_LEVEL))


def bytes_at(points: list[Point], psnr_db: float) -> float | None:
    """Return the mean bytes of a single image at a PSNR, on a line between two settings; None outside."""
    known = sorted((p.single_psnr, p.single_bytes) for p in points if p.single_psnr is not None)
    if not known:
        return None
    psnrs, sizes = zip(*known, strict=True)
    if not psnrs[0] <= psnr_db <= psnrs[-1]:
        return None
    return float(np.interp(psnr_db, psnrs, sizes))
