"""Load image data sets from disk into uint8 arrays with a train and a test split."""

import gzip
import hashlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from tqdm import tqdm

from models.images import ImageError, decode_image, fit_image

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_SOURCE_PIXELS = 1 << 26  # of one photograph, before it is fitted to the model's size

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the value and what was expected."""


class DataConfig(BaseModel):
    """Where a data set lies and how it is read: the `[data]` table of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["idx", "folder", "npz", "cifar10"]
    path: Path
    shape: tuple[Literal[1, 3], PositiveInt, PositiveInt] | None = None
    """(C, H, W). A folder's images are fitted to it; other sources must have it already."""
    fit: Literal["resize", "crop", "pad"] = "crop"
    """How a folder's images reach `shape`; other sources are never fitted."""
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    """The share that is held out where the source has no test split of its own."""

    @model_validator(mode="after")
    def _folder_has_a_shape(self) -> Self:
        if self.format == "folder" and self.shape is None:
            raise ValueError("format 'folder' needs shape = [channels, height, width]")
        return self


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


class _Splits(NamedTuple):
    train: Pixels
    test: Pixels
    train_labels: Labels | None
    test_labels: Labels | None


def load_dataset(config: DataConfig) -> Dataset:
    """Load both splits of a data set.

    Raises DataError for anything missing, unreadable or inconsistent.
    """
    loaders = {"idx": _load_idx, "folder": _load_folder, "npz": _load_npz, "cifar10": _load_cifar10}
    splits = loaders[config.format](config)
    _require_both(config, len(splits.train), len(splits.test))
    train_shape, test_shape = splits.train.shape[1:], splits.test.shape[1:]
    if train_shape != test_shape:
        raise DataError(f"{config.path}: training images are {train_shape}, test images {test_shape}")
    if 0 in train_shape:
        raise DataError(f"{config.path}: images of shape {train_shape} have no pixels")
    if config.shape not in (None, train_shape):
        raise DataError(f"{config.path}: images are {train_shape}, but shape = {config.shape} was asked for")
    return Dataset(**splits._asdict(), digest=_digest(splits))


def _require_both(config: DataConfig, train_count: int, test_count: int) -> None:
    if not train_count or not test_count:
        raise DataError(
            f"{config.path}: {train_count} training and {test_count} test images, expected at least one each"
            f" (test_fraction = {config.test_fraction})"
        )


def _digest(splits: _Splits) -> str:
    digest = hashlib.sha256()
    for name, array in splits._asdict().items():
        shape = "absent" if array is None else f"{array.dtype} {array.shape}"
        digest.update(f"{name} {shape}\n".encode())
        if array is not None:
            # Little-endian whatever the machine, so that a digest means the same data everywhere.
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return f"sha256:{digest.hexdigest()}"


def _is_held_out(key: bytes, fraction: float) -> bool:
    # The item's own hash decides, so that adding items never moves another one between the splits.
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") < fraction * 2**64


# ---- files that may be compressed


def plain_or_gzip(folder: Path, name: str) -> Path | None:
    """Find a file under its name or with .gz after it; the plain one wins, None where there is neither."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_plain_or_gzip(path: Path) -> bytes:
    """Read a file's content, decompressed where its name ends in .gz.

    Raises DataError where it cannot be read or decompressed.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
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


def _load_idx(config: DataConfig) -> _Splits:
    train_images, train_labels, test_images, test_labels = IDX_FILES
    return _Splits(
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


def _load_cifar10(config: DataConfig) -> _Splits:
    images, labels = zip(*(_read_cifar10(config.path, name) for name in CIFAR10_FILES), strict=True)
    return _Splits(np.concatenate(images[:-1]), images[-1], np.concatenate(labels[:-1]), labels[-1])


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


# ---- npz


def _load_npz(config: DataConfig) -> _Splits:
    arrays = _read_npz(config.path)
    if "images" in arrays:
        _refuse_other_arrays(config.path, arrays, ("images", "labels"))
        return _split_npz(config, arrays)
    _refuse_other_arrays(config.path, arrays, ("train", "test", "train_labels", "test_labels"))
    return _Splits(
        train := _npz_images(config.path, arrays, "train"),
        test := _npz_images(config.path, arrays, "test"),
        _npz_labels(config.path, arrays, "train_labels", len(train)),
        _npz_labels(config.path, arrays, "test_labels", len(test)),
    )


def _split_npz(config: DataConfig, arrays: dict[str, NDArray[np.generic]]) -> _Splits:
    images = _npz_images(config.path, arrays, "images")
    labels = _npz_labels(config.path, arrays, "labels", len(images))
    # The pixels are the key: the order does not matter, and no image has its exact copy in the other split.
    held_out = np.array([_is_held_out(image.tobytes(), config.test_fraction) for image in images], bool)
    return _Splits(
        images[~held_out],
        images[held_out],
        None if labels is None else labels[~held_out],
        None if labels is None else labels[held_out],
    )


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _refuse_other_arrays(path: Path, arrays: dict[str, NDArray[np.generic]], expected: Sequence[str]) -> None:
    if others := sorted(set(arrays) - set(expected)):
        raise DataError(f"{path}: unexpected arrays {', '.join(others)}; expected {', '.join(expected)}")


def _npz_images(path: Path, arrays: dict[str, NDArray[np.generic]], name: str) -> Pixels:
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


def _npz_labels(path: Path, arrays: dict[str, NDArray[np.generic]], name: str, count: int) -> Labels | None:
    if name not in arrays:
        return None
    labels = arrays[name]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise DataError(
            f"{path}: '{name}' is {labels.dtype} {labels.shape}, expected integers of shape ({count},)"
        )
    return labels.astype(np.int64)


# ---- a folder of images


class _ImageFile(NamedTuple):
    path: Path
    relative: PurePosixPath  # to the folder of its split


def _load_folder(config: DataConfig) -> _Splits:
    train, test = _split_folder(config)
    _require_both(config, len(train), len(test))
    pixels = _decode_all(config, [*train, *test])
    labels = _class_labels([*train, *test])
    return _Splits(
        pixels[: len(train)],
        pixels[len(train) :],
        None if labels is None else labels[: len(train)],
        None if labels is None else labels[len(train) :],
    )


def _split_folder(config: DataConfig) -> tuple[list[_ImageFile], list[_ImageFile]]:
    root = config.path
    files = _list_images(root)
    if not files:
        raise DataError(f"{root}: no such folder, or no {', '.join(IMAGE_SUFFIXES)} file in it")
    splits = [name for name in ("train", "test") if (root / name).is_dir()]
    if not splits:
        keys = [str(file.relative).encode() for file in files]
        held_out = [_is_held_out(key, config.test_fraction) for key in keys]
        train = [file for file, is_test in zip(files, held_out, strict=True) if not is_test]
        return train, [file for file, is_test in zip(files, held_out, strict=True) if is_test]
    if len(splits) == 1:
        raise DataError(f"{root}: has {splits[0]}/ alone, expected both train/ and test/, or neither")
    if outside := [file for file in files if file.relative.parts[0] not in splits]:
        raise DataError(
            f"{root}: {len(outside)} images lie outside train/ and test/, the first {outside[0].relative}"
        )
    return _list_images(root / "train"), _list_images(root / "test")


def _list_images(root: Path) -> list[_ImageFile]:
    files = (
        _ImageFile(path, PurePosixPath(path.relative_to(root).as_posix()))
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    # Hidden files are thumbnails, checkpoints of notebooks and the like.
    visible = (file for file in files if not any(part.startswith(".") for part in file.relative.parts))
    return sorted(visible, key=lambda file: str(file.relative))


def _class_labels(files: Sequence[_ImageFile]) -> Labels | None:
    if any(len(file.relative.parts) == 1 for file in files):
        return None
    classes = sorted({file.relative.parts[0] for file in files})
    return np.array([classes.index(file.relative.parts[0]) for file in files], np.int64)


def _decode_all(config: DataConfig, files: Sequence[_ImageFile]) -> Pixels:
    assert config.shape is not None  # the config's validator saw to it
    channels, height, width = config.shape
    pixels = np.empty((len(files), channels, height, width), np.uint8)
    faults = []

    def decode(file: _ImageFile) -> Pixels | str:
        try:
            image = decode_image(file.path.read_bytes(), MAX_SOURCE_PIXELS)
            return fit_image(image, (channels, height, width), config.fit)
        except (OSError, ImageError) as error:
            return f"{file.path}: {error}"

    # Threads, because decoding releases the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm(pool.map(decode, files), total=len(files), unit="image", disable=None)
        for index, result in enumerate(results):
            if isinstance(result, str):
                faults.append(result)
            else:
                pixels[index] = result.transpose(2, 0, 1)
    if faults:
        raise DataError(
            "\n  ".join([f"{config.path}: {len(faults)} images cannot be read, the first:", *faults[:5]])
        )
    return pixels
