"""Every source gives the same kind of arrays, and every fault names file, value and expectation."""

import gzip
import hashlib
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from training.datasets import DataConfig, DataError, Dataset, load_dataset

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def load(source: str, path: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(format=source, path=path, **options))


def ramp(*shape: int, first: int = 0) -> np.ndarray:
    return (np.arange(first, first + np.prod(shape)) % 256).astype(np.uint8).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(ramp(3, 2, 4)))
    (tmp_path / TRAIN_LABELS).write_bytes(idx_bytes(np.array([7, 0, 9], np.uint8)))
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(ramp(2, 2, 4, first=100)))
    (tmp_path / TEST_LABELS).write_bytes(idx_bytes(np.array([1, 2], np.uint8)))
    return tmp_path


def write_image(path: Path, value: int, size: tuple[int, int] = (2, 2), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, 0, 0)
    # WebP only: without loss, so that the grey level comes back as written.
    Image.new(mode, size, colour).save(path, lossless=True)


def grey_levels(images: np.ndarray) -> list[int]:
    assert (images == images[:, :1, :1, :1]).all()
    return [int(level) for level in images[:, 0, 0, 0]]


# ---- the data set as a whole


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
        ({"shape": (2, 8, 8)}, "Input should be 1 or 3"),
        ({"shape": (1, 0, 8)}, "greater than 0"),
        ({"fit": "stretch"}, "Input should be 'resize', 'crop' or 'pad'"),
        ({"format": "folder"}, r"format 'folder' needs shape = \[channels, height, width\]"),
    ],
)
def test_config_refuses(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**{"format": "idx", "path": "x", **options})


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


# ---- npz


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
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'data.npz'}: no such file")):
        load("npz", tmp_path / "data.npz")


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


def test_npz_member_that_is_no_array_is_refused(tmp_path: Path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"hello")
    with pytest.raises(DataError, match=re.escape(f"{path}: 'images' is |S5 (), expected uint8")):
        load("npz", path)


# ---- a folder of images


def test_folder_with_train_and_test_keeps_that_split(tmp_path: Path):
    write_image(tmp_path / "train/b.png", 2)
    write_image(tmp_path / "train/a.webp", 1)
    write_image(tmp_path / "test/c.PNG", 3)
    data = load("folder", tmp_path, shape=(1, 2, 2))
    assert grey_levels(data.train) == [1, 2]
    assert grey_levels(data.test) == [3]


def test_folder_reads_jpeg(tmp_path: Path):
    write_image(tmp_path / "train/a.jpg", 128)
    write_image(tmp_path / "test/a.jpeg", 128)
    data = load("folder", tmp_path, shape=(1, 2, 2))
    assert grey_levels(data.train) == grey_levels(data.test) == [128]


def test_folder_ignores_other_files_and_hidden_ones(tmp_path: Path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "a.png", 1)
        (tmp_path / split / "notes.txt").write_text("no image")
        (tmp_path / split / "._a.png").write_bytes(b"resource fork")
        write_image(tmp_path / split / ".thumbnails/a.png", 9)
        (tmp_path / split / "folder.png").mkdir()
    data = load("folder", tmp_path, shape=(1, 2, 2))
    assert grey_levels(data.train) == grey_levels(data.test) == [1]


def test_folder_converts_colours_to_the_asked_channels(tmp_path: Path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "red.png", 255, mode="RGB")
    colour = load("folder", tmp_path, shape=(3, 2, 2)).train
    grey = load("folder", tmp_path, shape=(1, 2, 2)).train
    assert colour[0, :, 0, 0].tolist() == [255, 0, 0]
    assert grey_levels(grey) == [76]


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("crop", [[90, 90, 90], [120, 120, 120], [150, 150, 150]]),
        ("pad", [[0, 60, 0], [0, 120, 0], [0, 180, 0]]),
        ("resize", [[60, 60, 60], [120, 120, 120], [180, 180, 180]]),
    ],
)
def test_folder_fits_images_to_the_shape(tmp_path: Path, fit: str, expected: list[list[int]]):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(np.array([[60], [120], [180]], np.uint8)).save(tmp_path / split / "a.png")
    assert load("folder", tmp_path, shape=(1, 3, 3), fit=fit).train.tolist() == [[expected]]


def test_folder_without_splits_holds_out_files_by_their_path(tmp_path: Path):
    for number in range(20):
        write_image(tmp_path / f"{number:02}.png", number)
    data = load("folder", tmp_path, shape=(1, 2, 2), test_fraction=0.3)
    assert grey_levels(data.test) == [0, 1, 2, 3, 4, 6, 14, 16, 18]
    assert sorted(grey_levels(data.train) + grey_levels(data.test)) == list(range(20))


def test_folder_never_moves_a_file_between_splits_when_others_come(tmp_path: Path):
    for number in range(0, 60, 2):
        write_image(tmp_path / f"{number:02}.png", number)
    few = load("folder", tmp_path, shape=(1, 2, 2))
    for number in range(1, 60, 2):
        write_image(tmp_path / f"{number:02}.png", number)
    many = load("folder", tmp_path, shape=(1, 2, 2))
    assert grey_levels(few.test) == [level for level in grey_levels(many.test) if level % 2 == 0]


def test_folder_splits_alike_wherever_it_lies(tmp_path: Path):
    for place in ("here", "there/deeper"):
        for number in range(30):
            write_image(tmp_path / place / f"{number}.png", number)
    here, there = (load("folder", tmp_path / place, shape=(1, 2, 2)) for place in ("here", "there/deeper"))
    assert here.digest == there.digest


def test_folder_of_class_subfolders_numbers_the_classes_by_name(tmp_path: Path):
    write_image(tmp_path / "train/shoe/a.png", 1)
    write_image(tmp_path / "train/bag/deeper/b.png", 2)
    write_image(tmp_path / "train/coat/c.png", 3)
    write_image(tmp_path / "test/coat/d.png", 4)
    data = load("folder", tmp_path, shape=(1, 2, 2))
    assert grey_levels(data.train) == [2, 3, 1]
    np.testing.assert_array_equal(data.train_labels, np.array([0, 1, 2]), strict=True)
    np.testing.assert_array_equal(data.test_labels, np.array([1]), strict=True)


def test_folder_with_any_image_outside_the_class_subfolders_has_no_labels(tmp_path: Path):
    write_image(tmp_path / "train/bag/a.png", 1)
    write_image(tmp_path / "test/bag/b.png", 2)
    write_image(tmp_path / "test/c.png", 3)
    data = load("folder", tmp_path, shape=(1, 2, 2))
    assert data.train_labels is None
    assert data.test_labels is None


def test_folder_lists_five_unreadable_images_and_counts_them_all(tmp_path: Path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "good.png", 1)
    for number in range(7):
        (tmp_path / "train" / f"bad{number}.png").write_bytes(b"hello")
    with pytest.raises(DataError) as caught:
        load("folder", tmp_path, shape=(1, 2, 2))
    first, *listed = str(caught.value).splitlines()
    assert first == f"{tmp_path}: 7 images cannot be read, the first:"
    assert [line.split(": ")[0] for line in listed] == [f"  {tmp_path}/train/bad{n}.png" for n in range(5)]
    assert all("not a PNG, JPEG or WebP file" in line for line in listed)


@pytest.mark.parametrize("alone", ["train", "test"])
def test_folder_with_one_split_alone_is_refused(tmp_path: Path, alone: str):
    write_image(tmp_path / alone / "a.png", 1)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: has {alone}/ alone, expected both")):
        load("folder", tmp_path, shape=(1, 2, 2))


def test_folder_with_images_beside_its_splits_is_refused(tmp_path: Path):
    for name in ("train/a.png", "test/a.png", "extra/a.png", "b.png"):
        write_image(tmp_path / name, 1)
    message = f"{tmp_path}: 2 images lie outside train/ and test/, the first b.png"
    with pytest.raises(DataError, match=re.escape(message)):
        load("folder", tmp_path, shape=(1, 2, 2))


def test_folder_too_small_to_hold_anything_out_is_refused(tmp_path: Path):
    write_image(tmp_path / "a.png", 1)
    message = "1 training and 0 test images, expected at least one each (test_fraction = 0.1)"
    with pytest.raises(DataError, match=re.escape(message)):
        load("folder", tmp_path, shape=(1, 2, 2))


def test_folder_without_images_is_refused(tmp_path: Path):
    message = f"{tmp_path / 'none'}: no such folder, or no .png, .jpg, .jpeg, .webp file in it"
    with pytest.raises(DataError, match=re.escape(message)):
        load("folder", tmp_path / "none", shape=(1, 2, 2))
