"""Folders of binary files that the public data sets come in: IDX (MNIST) and CIFAR-10, plain or as .gz."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from training.config import DataConfig
from training.errors import DataError
from training.sources.common import Labels, Pixels, Splits

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32


def plain_or_gzip(folder: Path, name: str) -> Path | None:
    """Find a file under its name or with .gz after it; the plain one wins, None where there is neither."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_plain_or_gzip(path: Path, most_bytes: int = -1) -> bytes:
    """Read a file's content, or the first `most_bytes` of it, decompressed where its name ends in .gz.

    Raises DataError where it cannot be read or decompressed.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(most_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_required(folder: Path, name: str) -> tuple[Path, bytes]:
    path = plain_or_gzip(folder, name)
    if path is None:
        raise DataError(
            f"{folder / name}: no such file, nor with .gz"
            " (`python -m training data` fetches the public data sets)"
        )
    return path, read_plain_or_gzip(path)


# ---- IDX, the format of MNIST


def load_idx(config: DataConfig) -> Splits:
    """Load the four IDX files of a folder; labels may be absent."""
    train_images, train_labels, test_images, test_labels = IDX_FILES
    return Splits(
        train := _idx_images(config.path, train_images),
        test := _idx_images(config.path, test_images),
        _idx_labels(config.path, train_labels, len(train)),
        _idx_labels(config.path, test_labels, len(test)),
    )


def _idx_images(folder: Path, name: str) -> Pixels:
    return _parse_idx(*_read_required(folder, name), dimensions=3)[:, np.newaxis]


def _idx_labels(folder: Path, name: str, expected: int) -> Labels | None:
    path = plain_or_gzip(folder, name)
    if path is None:
        return None
    labels = _parse_idx(path, read_plain_or_gzip(path), dimensions=1)
    if len(labels) != expected:
        raise DataError(f"{path}: {len(labels)} labels for {expected} images")
    return labels.astype(np.int64)


def _parse_idx(path: Path, content: bytes, dimensions: int) -> Pixels:
    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    header_bytes = 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(f"{path}: starts with {content[:4].hex() or 'nothing'}, expected {magic.hex()} (IDX)")
    if len(content) < header_bytes:
        raise DataError(f"{path}: {len(content)} bytes, expected at least {header_bytes} of IDX header")
    shape = struct.unpack(f">{dimensions}I", content[4:header_bytes])
    if len(content) - header_bytes != math.prod(shape):
        raise DataError(
            f"{path}: {len(content) - header_bytes} bytes after the header,"
            f" expected {math.prod(shape)} for the declared shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy()


# ---- CIFAR-10, binary version


def load_cifar10(config: DataConfig) -> Splits:
    """Load the six batches of a folder."""
    images, labels = zip(*(_read_cifar10(config.path, name) for name in CIFAR10_FILES), strict=True)
    return Splits(np.concatenate(images[:-1]), images[-1], np.concatenate(labels[:-1]), labels[-1])


def _read_cifar10(folder: Path, name: str) -> tuple[Pixels, Labels]:
    path, content = _read_required(folder, name)
    if not content or len(content) % CIFAR10_RECORD_BYTES:
        raise DataError(f"{path}: {len(content)} bytes, expected a multiple of {CIFAR10_RECORD_BYTES}")
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        record = int(np.argmax(labels > 9))
        raise DataError(f"{path}: record {record} has label {labels[record]}, expected 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels
