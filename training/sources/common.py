"""What every source gives: both splits as arrays, and the rule for holding images out."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.errors import DataError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Splits(NamedTuple):
    """Images as uint8 (N, C, H, W), labels as int64 (N,) or None where the source has none."""

    train: Pixels
    test: Pixels
    train_labels: Labels | None
    test_labels: Labels | None


def require_both(config: DataConfig, train_count: int, test_count: int) -> None:
    """Raise DataError where a split is empty."""
    if not train_count or not test_count:
        raise DataError(
            f"{config.path}: {train_count} training and {test_count} test images, expected at least one each"
            f" (test_fraction = {config.test_fraction})"
        )


def is_held_out(key: bytes, fraction: float) -> bool:
    """Return whether an item belongs to the test split, by its key alone.

    The item's own hash decides, so that adding items never moves another one between the splits.
    """
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") < fraction * 2**64
