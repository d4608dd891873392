"""Small data sets of known pixels, written as each kind of source has them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from training.config import DataConfig
from training.datasets import Dataset, load_dataset

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def load(source: str, path: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(format=source, path=path, **options))


def ramp(*shape: int, first: int = 0) -> np.ndarray:
    return (np.arange(first, first + np.prod(shape)) % 256).astype(np.uint8).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def grey_levels(images: np.ndarray) -> list[int]:
    assert (images == images[:, :1, :1, :1]).all()
    return [int(level) for level in images[:, 0, 0, 0]]
