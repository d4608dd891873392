"""Archives: pictures of any sizes and their names, and an index that tells when it is damaged."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from codec import archive
from codec.archive import Picture, is_archive, opened, pack, unpack, unpack_one
from codec.model import CodecModel
from codec.payload import PayloadError
from tests.codec.conftest import SHAPES, pictures

START = b"V\xc6\x1f"


def hwc(images: np.ndarray) -> list[Picture]:
    return list(images.transpose(0, 2, 3, 1))


def test_pictures_come_back_in_their_order_by_their_names(grey: CodecModel) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 6), np.uint8)
    one, two, three = hwc(pictures(SHAPES["grey"], 3))
    mixed = [one, hwc(noise)[0], two, hwc(noise)[1], three]
    names = ["a.png", "b/c.png", "b/ä.jpg", "d", "e"]
    data = pack(mixed, names, grey)
    assert is_archive(data)
    assert not is_archive(data[1:])
    found = list(unpack(opened(data), {grey.prefix: grey}.get))
    assert [name for name, _ in found] == names
    for (_, picture), expected in zip(found, mixed, strict=True):
        np.testing.assert_array_equal(picture, expected)


def test_one_picture_is_found_by_its_number(grey: CodecModel) -> None:
    images = hwc(pictures(SHAPES["grey"], 2))
    other = np.zeros((3, 2, 4), np.uint8)
    data = opened(pack([images[0], other, images[1]], ["a", "b", "c"], grey))
    for index, (name, expected) in enumerate(zip("abc", [images[0], other, images[1]], strict=True)):
        found = unpack_one(data, {grey.prefix: grey}.get, index)
        assert found[0] == name
        np.testing.assert_array_equal(found[1], expected)
    with pytest.raises(PayloadError, match=r"index 3 is outside 0 … 2"):
        unpack_one(data, {grey.prefix: grey}.get, 3)


def test_damage_anywhere_is_an_error(grey: CodecModel) -> None:
    data = pack(hwc(pictures(SHAPES["grey"], 2)), ["a", "b"], grey)
    for size in range(3, len(data)):
        with pytest.raises(PayloadError):
            list(unpack(opened(data[:size]), {grey.prefix: grey}.get))
    for place in range(3, len(data)):
        damaged = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(PayloadError):
            list(unpack(opened(damaged), {grey.prefix: grey}.get))


def sealed(index: bytes, payloads: bytes = b"\0") -> bytes:
    head = START + payloads + bytes([len(index)]) + index
    return head + zlib.crc32(head).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sealed(b"no zlib"), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"no JSON")), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"[" * 999)), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"[]")), "the archive's index cannot be read"),
        (sealed(zlib.compress(json.dumps({"names": ["a"], "payloads": [0]}).encode())), "1 names, 1 places"),
        (sealed(zlib.compress(json.dumps({"names": ["a"], "payloads": []}).encode())), "1 names, 0 places"),
        (sealed(zlib.compress(json.dumps({"names": [1], "payloads": [0]}).encode())), "the archive's index"),
        (START + b"\x7f", "127 parts are declared, more than there are bytes: 4"),
        (sealed(zlib.compress(b'{"names": [], "payloads": []}')) + b"\0", "1 bytes are left over at the end"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        opened(data)


def test_an_index_that_grows_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_INDEX_BYTES", 100)
    with pytest.raises(PayloadError, match="the archive's index is longer than 100 bytes"):
        opened(sealed(zlib.compress(b" " * 101)))


def test_an_index_of_other_images_is_an_error(grey: CodecModel) -> None:
    data = opened(pack(hwc(pictures(SHAPES["grey"], 2)), ["a", "b"], grey))
    too_many = archive.Archive(("a", "b", "c"), (0, 0, 0), data.payloads)
    with pytest.raises(PayloadError, match="the archive names 3 images of payload 0, which has 2"):
        list(unpack(too_many, {grey.prefix: grey}.get))
