"""An npz file of images: what it may hold, and that every fault names file, array and expectation."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.training.sources import grey_levels, load, ramp
from training.errors import DataError


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_with_its_own_splits_and_labels(tmp_path: Path):
    path = save_npz(
        tmp_path / "data.npz",
        train=ramp(3, 2, 4),
        test=ramp(2, 2, 4, first=100),
        train_labels=np.array([7, 0, 9], np.uint8),
        test_labels=np.array([1, 2], np.int32),
    )
    data = load("npz", path)
    np.testing.assert_array_equal(data.train, ramp(3, 1, 2, 4), strict=True)
    np.testing.assert_array_equal(data.test, ramp(2, 1, 2, 4, first=100), strict=True)
    np.testing.assert_array_equal(data.train_labels, np.array([7, 0, 9]), strict=True)
    np.testing.assert_array_equal(data.test_labels, np.array([1, 2]), strict=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_channels_move_from_last_to_first(tmp_path: Path, channels: int):
    images = ramp(2, 4, 5, channels)
    data = load("npz", save_npz(tmp_path / "data.npz", train=images, test=images[:1]))
    np.testing.assert_array_equal(data.train, images.transpose(0, 3, 1, 2), strict=True)
    assert data.train_labels is None
    assert data.test_labels is None


def test_npz_without_a_test_split_holds_out_images_by_their_content(tmp_path: Path):
    images = np.stack([np.full((2, 2), value, np.uint8) for value in range(20)])
    data = load(
        "npz", save_npz(tmp_path / "data.npz", images=images, labels=np.arange(20)), test_fraction=0.3
    )
    assert grey_levels(data.test) == [1, 4, 6, 12, 18, 19]
    assert data.test_labels is not None
    assert data.train_labels is not None
    assert data.test_labels.tolist() == grey_levels(data.test)
    assert data.train_labels.tolist() == grey_levels(data.train)
    assert sorted([*data.train_labels, *data.test_labels]) == list(range(20))


def test_npz_never_moves_an_image_between_splits_when_others_come(tmp_path: Path):
    images = np.stack([np.full((2, 2), value, np.uint8) for value in range(200)])
    few = load("npz", save_npz(tmp_path / "few.npz", images=images[100:]))
    many = load("npz", save_npz(tmp_path / "many.npz", images=images))
    assert set(grey_levels(few.test)) == {level for level in grey_levels(many.test) if level >= 100}
    assert few.train_labels is None
    assert few.test_labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": ramp(1, 2, 2)}, "no array 'test'; expected 'images', or 'train' and 'test'"),
        ({"other": ramp(1)}, "unexpected arrays other; expected train, test, train_labels, test_labels"),
        (
            {"images": ramp(1, 2, 2), "train": ramp(1, 2, 2), "b": ramp(1)},
            "unexpected arrays b, train; expected images, labels",
        ),
        (
            {"images": np.zeros((1, 2, 2))},
            "'images' is float64 (1, 2, 2), expected uint8 (N, H, W) or (N, H, W, C)",
        ),
        ({"images": ramp(2, 2)}, "'images' is uint8 (2, 2), expected uint8 (N, H, W)"),
        ({"images": ramp(1, 3, 8, 8)}, "'images' is uint8 (1, 3, 8, 8), expected"),
        (
            {"images": ramp(3, 2, 2), "labels": ramp(2)},
            "'labels' is uint8 (2,), expected integers of shape (3,)",
        ),
        (
            {"images": ramp(3, 2, 2), "labels": np.zeros(3)},
            "'labels' is float64 (3,), expected integers of shape (3,)",
        ),
        ({"images": np.array([{}, {}])}, "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_npz_faults_name_the_file_and_what_was_expected(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
):
    path = save_npz(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load("npz", path)


def test_npz_must_exist(tmp_path: Path):
    message = f"{tmp_path / 'data.npz'}: cannot be read: [Errno 2] No such file or directory"
    with pytest.raises(DataError, match=re.escape(message)):
        load("npz", tmp_path / "data.npz")


def test_npz_that_cannot_be_opened_is_not_said_to_be_of_another_format(tmp_path: Path):
    message = f"{tmp_path}: cannot be read: [Errno 21] Is a directory"
    with pytest.raises(DataError, match=re.escape(message)):
        load("npz", tmp_path)


def test_npz_of_another_format_is_refused(tmp_path: Path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=re.escape(f"{path}: not an npz file")):
        load("npz", path)


def test_npz_with_damaged_content_is_refused(tmp_path: Path):
    path = save_npz(tmp_path / "data.npz", images=np.zeros((8, 64, 64), np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read: Bad CRC-32")):
        load("npz", path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(6, 1, "is encrypted, password required"), (8, 99, "compression method is not supported")],
    ids=["encrypted", "unknown compression"],
)
def test_npz_that_cannot_be_unpacked_is_refused(tmp_path: Path, offset: int, value: int, message: str):
    path = save_npz(tmp_path / "data.npz", images=ramp(2, 2, 2))
    content = bytearray(path.read_bytes())
    # The flags and the method of the one member, in its own header and in the directory at the end.
    for header, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        content[content.index(header) + offset + shift] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: cannot be read: .*{message}"):
        load("npz", path)


def test_npz_with_a_damaged_header_is_refused(tmp_path: Path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0\x40\0" + b"{'descr': '|u1', ((".ljust(63) + b"\n")
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read: ")):
        load("npz", path)


def test_npz_member_that_is_no_array_is_refused(tmp_path: Path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"hello")
    with pytest.raises(DataError, match=re.escape(f"{path}: 'images' is |S5 (), expected uint8")):
        load("npz", path)
