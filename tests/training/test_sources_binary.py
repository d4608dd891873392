"""IDX and CIFAR-10 files: what they hold, and that every fault names file, value and expectation."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from tests.training.sources import TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, idx_bytes, load, ramp
from training.errors import DataError

# ---- IDX


def test_idx_gives_images_with_one_channel_and_labels(idx_folder: Path):
    data = load("idx", idx_folder)
    np.testing.assert_array_equal(data.train, ramp(3, 1, 2, 4), strict=True)
    np.testing.assert_array_equal(data.test, ramp(2, 1, 2, 4, first=100), strict=True)
    np.testing.assert_array_equal(data.train_labels, np.array([7, 0, 9]), strict=True)
    np.testing.assert_array_equal(data.test_labels, np.array([1, 2]), strict=True)


def test_idx_files_may_be_compressed(idx_folder: Path):
    plain = load("idx", idx_folder)
    for file in list(idx_folder.iterdir()):
        (idx_folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load("idx", idx_folder).digest == plain.digest


def test_idx_prefers_the_plain_file_to_the_compressed_one(idx_folder: Path):
    (idx_folder / f"{TRAIN_IMAGES}.gz").write_bytes(b"not read")
    assert len(load("idx", idx_folder).train) == 3


def test_idx_labels_are_optional(idx_folder: Path):
    (idx_folder / TRAIN_LABELS).unlink()
    (idx_folder / TEST_LABELS).unlink()
    data = load("idx", idx_folder)
    assert data.train_labels is None
    assert data.test_labels is None


def test_idx_missing_images_name_the_file_and_the_command_that_fetches_it(tmp_path: Path):
    message = f"{tmp_path / TRAIN_IMAGES}: no such file, nor with .gz (`python -m training data`"
    with pytest.raises(DataError, match=re.escape(message)):
        load("idx", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing, expected 00000803"),
        (b"\x89PNG....", "starts with 89504e47, expected 00000803"),
        (bytes([0, 0, 8, 1]), "starts with 00000801, expected 00000803"),
        (bytes([0, 0, 0x0D, 3]), "starts with 00000d03, expected 00000803"),
        (bytes([0, 0, 8, 3, 0, 0]), "6 bytes, expected at least 16 of IDX header"),
        (
            idx_bytes(ramp(3, 2, 4))[:-1],
            "23 bytes after the header, expected 24 for the declared shape (3, 2, 4)",
        ),
        (
            idx_bytes(ramp(3, 2, 4)) + b"!",
            "25 bytes after the header, expected 24 for the declared shape (3, 2, 4)",
        ),
        (
            bytes([0, 0, 8, 3]) + b"\xff" * 12,
            f"0 bytes after the header, expected {(2**32 - 1) ** 3} for the declared shape",
        ),
    ],
)
def test_idx_faults_name_the_file_and_what_was_expected(idx_folder: Path, content: bytes, message: str):
    (idx_folder / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{idx_folder / TRAIN_IMAGES}: {message}")):
        load("idx", idx_folder)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"plain after all", id="not gzip"),
        pytest.param(gzip.compress(b"x" * 100)[:-9], id="truncated"),
        pytest.param(gzip.compress(b"x" * 100)[:10] + b"\xff" * 20, id="damaged"),
    ],
)
def test_idx_damaged_compression_names_the_file(idx_folder: Path, content: bytes):
    (idx_folder / TRAIN_IMAGES).unlink()
    (idx_folder / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{idx_folder / TRAIN_IMAGES}.gz: cannot be read: ")):
        load("idx", idx_folder)


def test_idx_refuses_labels_of_another_count(idx_folder: Path):
    (idx_folder / TRAIN_LABELS).write_bytes(idx_bytes(ramp(2)))
    with pytest.raises(DataError, match=re.escape(f"{idx_folder / TRAIN_LABELS}: 2 labels for 3 images")):
        load("idx", idx_folder)


# ---- CIFAR-10


@pytest.fixture
def cifar10_folder(tmp_path: Path) -> Path:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(
            bytes([number]) + ramp(3072, first=number).tobytes()
        )
    (tmp_path / "test_batch.bin").write_bytes(
        b"\x00" + ramp(3072, first=50).tobytes() + b"\x09" + ramp(3072, first=60).tobytes()
    )
    return tmp_path


def test_cifar10_reads_a_label_then_red_green_and_blue_planes(cifar10_folder: Path):
    data = load("cifar10", cifar10_folder)
    np.testing.assert_array_equal(
        data.train, np.stack([ramp(3, 32, 32, first=number) for number in range(1, 6)]), strict=True
    )
    np.testing.assert_array_equal(
        data.test, np.stack([ramp(3, 32, 32, first=first) for first in (50, 60)]), strict=True
    )
    np.testing.assert_array_equal(data.train_labels, np.array([1, 2, 3, 4, 5]), strict=True)
    np.testing.assert_array_equal(data.test_labels, np.array([0, 9]), strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, expected a multiple of 3073"),
        (bytes(3072), "3072 bytes, expected a multiple of 3073"),
        (bytes(3073) + b"\x0a" + bytes(3072), "record 1 has label 10, expected 0 to 9"),
    ],
)
def test_cifar10_faults_name_the_file_and_the_value(cifar10_folder: Path, content: bytes, message: str):
    (cifar10_folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{cifar10_folder / 'data_batch_3.bin'}: {message}")):
        load("cifar10", cifar10_folder)


def test_cifar10_needs_all_six_files(cifar10_folder: Path):
    (cifar10_folder / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=re.escape(f"{cifar10_folder / 'data_batch_5.bin'}: no such file")):
        load("cifar10", cifar10_folder)
