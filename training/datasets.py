"""Load image data sets from disk into uint8 arrays with a train and a test split."""

import hashlib
from dataclasses import dataclass

import numpy as np

from training.config import DataConfig
from training.errors import DataError
from training.sources.binary import load_cifar10, load_idx
from training.sources.common import Labels, Pixels, Splits, require_both
from training.sources.folder import load_folder
from training.sources.npz import load_npz


@dataclass(frozen=True)
class Dataset:
    """Images as uint8 (N, C, H, W), labels as int64 (N,) or None where the source has none."""

    train: Pixels
    test: Pixels
    train_labels: Labels | None
    test_labels: Labels | None
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give the (C, H, W) of every image."""
        _, channels, height, width = self.train.shape
        return channels, height, width


def load_dataset(config: DataConfig) -> Dataset:
    """Load both splits of a data set.

    Raises DataError for anything missing, unreadable or inconsistent.
    """
    loaders = {"idx": load_idx, "folder": load_folder, "npz": load_npz, "cifar10": load_cifar10}
    splits = loaders[config.format](config)
    require_both(config, len(splits.train), len(splits.test))
    train_shape, test_shape = splits.train.shape[1:], splits.test.shape[1:]
    if train_shape != test_shape:
        raise DataError(f"{config.path}: training images are {train_shape}, test images {test_shape}")
    if 0 in train_shape:
        raise DataError(f"{config.path}: images of shape {train_shape} have no pixels")
    if config.shape not in (None, train_shape):
        raise DataError(f"{config.path}: images are {train_shape}, but shape = {config.shape} was asked for")
    return Dataset(**splits._asdict(), digest=_digest(splits))


def _digest(splits: Splits) -> str:
    digest = hashlib.sha256()
    for name, array in splits._asdict().items():
        shape = "absent" if array is None else f"{array.dtype} {array.shape}"
        digest.update(f"{name} {shape}\n".encode())
        if array is not None:
            # Little-endian whatever the machine, so that a digest means the same data everywhere.
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return f"sha256:{digest.hexdigest()}"
