"""One npz file, its arrays with the channels last."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.errors import DataError
from training.sources.common import Labels, Pixels, Splits, is_held_out

Arrays = dict[str, NDArray[np.generic]]


def load_npz(config: DataConfig) -> Splits:
    """Load `images` and `labels`, to be split here, or `train`, `test` and their labels, of one npz file."""
    arrays = _read_npz(config.path)
    if "images" in arrays:
        _refuse_other_arrays(config.path, arrays, ("images", "labels"))
        return _split_npz(config, arrays)
    _refuse_other_arrays(config.path, arrays, ("train", "test", "train_labels", "test_labels"))
    return Splits(
        train := _npz_images(config.path, arrays, "train"),
        test := _npz_images(config.path, arrays, "test"),
        _npz_labels(config.path, arrays, "train_labels", len(train)),
        _npz_labels(config.path, arrays, "test_labels", len(test)),
    )


def _split_npz(config: DataConfig, arrays: Arrays) -> Splits:
    images = _npz_images(config.path, arrays, "images")
    labels = _npz_labels(config.path, arrays, "labels", len(images))
    # The pixels are the key: the order does not matter, and no image has its exact copy in the other split.
    held_out = np.array([is_held_out(image.tobytes(), config.test_fraction) for image in images], bool)
    return Splits(
        images[~held_out],
        images[held_out],
        None if labels is None else labels[~held_out],
        None if labels is None else labels[held_out],
    )


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with np.load(path, allow_pickle=False) as archive:
                    return {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # a damaged file raises almost anything
        raise DataError(f"{path}: cannot be read: {error}") from error
    raise DataError(f"{path}: not an npz file")


def _refuse_other_arrays(path: Path, arrays: Arrays, expected: Sequence[str]) -> None:
    if others := sorted(set(arrays) - set(expected)):
        raise DataError(f"{path}: unexpected arrays {', '.join(others)}; expected {', '.join(expected)}")


def _npz_images(path: Path, arrays: Arrays, name: str) -> Pixels:
    if name not in arrays:
        raise DataError(f"{path}: no array '{name}'; expected 'images', or 'train' and 'test'")
    array = arrays[name]
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: '{name}' is {arrays[name].dtype} {arrays[name].shape},"
            " expected uint8 (N, H, W) or (N, H, W, C) with C 1 or 3"
        )
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2), np.uint8)


def _npz_labels(path: Path, arrays: Arrays, name: str, count: int) -> Labels | None:
    if name not in arrays:
        return None
    labels = arrays[name]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise DataError(
            f"{path}: '{name}' is {labels.dtype} {labels.shape}, expected integers of shape ({count},)"
        )
    return labels.astype(np.int64)
