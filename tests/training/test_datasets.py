"""What holds of every data set: shape, digest, two splits of one kind; and the config that names it."""

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.sources import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, idx_bytes, load, ramp
from training.config import DataConfig
from training.errors import DataError


def test_shape_is_channels_height_width(idx_folder: Path):
    assert load("idx", idx_folder).shape == (1, 2, 4)


def test_digest_covers_names_types_shapes_and_bytes_of_both_splits_and_their_labels(idx_folder: Path):
    content = (
        b"train uint8 (3, 1, 2, 4)\n" + ramp(3, 2, 4).tobytes() + b"test uint8 (2, 1, 2, 4)\n"
        b"" + ramp(2, 2, 4, first=100).tobytes() + b"train_labels int64 (3,)\n"
        b"" + struct.pack("<3q", 7, 0, 9) + b"test_labels int64 (2,)\n" + struct.pack("<2q", 1, 2)
    )
    assert load("idx", idx_folder).digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_digest_of_absent_labels_says_absent(idx_folder: Path):
    (idx_folder / TRAIN_LABELS).unlink()
    (idx_folder / TEST_LABELS).unlink()
    content = (
        b"train uint8 (3, 1, 2, 4)\n" + ramp(3, 2, 4).tobytes() + b"test uint8 (2, 1, 2, 4)\n"
        b"" + ramp(2, 2, 4, first=100).tobytes() + b"train_labels absent\ntest_labels absent\n"
    )
    assert load("idx", idx_folder).digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_shape_that_equals_the_datas_is_accepted(idx_folder: Path):
    assert load("idx", idx_folder, shape=(1, 2, 4)).shape == (1, 2, 4)


def test_a_shape_that_differs_from_the_datas_is_refused(idx_folder: Path):
    with pytest.raises(
        DataError, match=re.escape("images are (1, 2, 4), but shape = (1, 4, 2) was asked for")
    ):
        load("idx", idx_folder, shape=(1, 4, 2))


def test_splits_of_different_shapes_are_refused(idx_folder: Path):
    (idx_folder / TEST_IMAGES).write_bytes(idx_bytes(ramp(2, 4, 4)))
    with pytest.raises(DataError, match=re.escape("training images are (1, 2, 4), test images (1, 4, 4)")):
        load("idx", idx_folder)


def test_an_empty_split_is_refused(idx_folder: Path):
    (idx_folder / TEST_IMAGES).write_bytes(idx_bytes(ramp(0, 2, 4)))
    (idx_folder / TEST_LABELS).unlink()
    with pytest.raises(DataError, match="3 training and 0 test images"):
        load("idx", idx_folder)


def test_images_without_pixels_are_refused(idx_folder: Path):
    (idx_folder / TRAIN_IMAGES).write_bytes(idx_bytes(ramp(3, 0, 4)))
    (idx_folder / TEST_IMAGES).write_bytes(idx_bytes(ramp(2, 0, 4)))
    with pytest.raises(DataError, match=re.escape("images of shape (1, 0, 4) have no pixels")):
        load("idx", idx_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tar"}, "Input should be 'idx', 'folder', 'npz' or 'cifar10'"),
        ({"colour": True}, "Extra inputs are not permitted"),
        ({"test_fraction": 0.0}, "greater than 0"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"shape": (2, 8, 8)}, "2 channels, expected 1 or 3"),
        ({"shape": (1, 0, 8)}, "greater than 0"),
        ({"shape": (1, 8, "8")}, "valid integer"),
        ({"shape": (3, 8.0, 8)}, "valid integer"),
        ({"shape": (1.0, 8, 8)}, "valid integer"),
        ({"shape": "188"}, "valid tuple"),
        ({"test_fraction": "0.2"}, "valid number"),
        ({"test_fraction": float("nan")}, "finite number"),
        ({"path": 3}, "not a valid path"),
        ({"fit": "stretch"}, "Input should be 'resize', 'crop' or 'pad'"),
        ({"format": "folder"}, r"format 'folder' needs shape = \[channels, height, width\]"),
    ],
)
def test_config_refuses(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**{"format": "idx", "path": "x", **options})
