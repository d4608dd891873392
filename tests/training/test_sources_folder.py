"""A folder of images: which files count, how they are fitted, split and labelled."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.sources import grey_levels, load
from training.errors import DataError


def write_image(path: Path, value: int, size: tuple[int, int] = (2, 2), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, 0, 0)
    # WebP only: without loss, so that the grey level comes back as written.
    Image.new(mode, size, colour).save(path, lossless=True)


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


def test_folder_takes_names_that_are_not_utf_8(tmp_path: Path):
    for number in range(20):
        write_image(tmp_path / f"{number:02}.png", number)
        os.rename(tmp_path / f"{number:02}.png", os.fsencode(tmp_path) + b"/\xff%02d.png" % number)
    data = load("folder", tmp_path, shape=(1, 2, 2), test_fraction=0.3)
    assert sorted(grey_levels(data.train) + grey_levels(data.test)) == list(range(20))


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
