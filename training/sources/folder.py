"""A folder of PNG, JPEG and WebP files."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from models.images import ImageError, decode_image, fit_image
from training.config import DataConfig
from training.errors import DataError
from training.sources.common import Labels, Pixels, Splits, is_held_out, require_both

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_SOURCE_PIXELS = 1 << 26  # of one photograph, before it is fitted to the model's size


class _ImageFile(NamedTuple):
    path: Path
    relative: PurePosixPath  # to the folder of its split


def load_folder(config: DataConfig) -> Splits:
    """Load every image below a folder, fitted to the config's shape; class subfolders give the labels."""
    train, test = _split_folder(config)
    require_both(config, len(train), len(test))
    pixels = _decode_all(config, [*train, *test])
    labels = _class_labels([*train, *test])
    return Splits(
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
        keys = [os.fsencode(file.relative) for file in files]  # a name need not be UTF-8
        held_out = [is_held_out(key, config.test_fraction) for key in keys]
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
