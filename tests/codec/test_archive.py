"""Archives: pictures of any sizes and their names, and an index that tells when it is damaged."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from codec import archive
from codec.archive import ArchiveTooLargeError, Picture, is_archive, opened, pack, unpack, unpack_one
from codec.model import CodecModel
from codec.payload import PayloadError, varint
from tests.codecs import SHAPES, pictures

START = b"V\xc6\x1f"


def hwc(images: np.ndarray) -> list[Picture]:
    return list(images.transpose(0, 2, 3, 1))


def test_pictures_come_back_by_their_names(grey: CodecModel) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 6), np.uint8)
    one, two, three = hwc(pictures(SHAPES["grey"], 3))
    mixed = [one, hwc(noise)[0], two, hwc(noise)[1], three]
    names = ["a.png", "b/c.png", "b/ä.jpg", "d", "e"]
    data = pack(mixed, names, grey)
    assert is_archive(data)
    assert not is_archive(data[1:])
    assert opened(data).names == (("a.png", "b/ä.jpg", "e"), ("b/c.png", "d"))
    found = dict(unpack(opened(data), {grey.prefix: grey}.get))
    assert found.keys() == set(names)
    for name, expected in zip(names, mixed, strict=True):
        np.testing.assert_array_equal(found[name], expected)


def test_long_names_that_differ_by_a_number_come_back() -> None:
    names = [f"{'a-long-folder/' * 40}{number:06d}.png" for number in range(6000)]
    data = pack([np.zeros((1, 1, 1), np.uint8)] * len(names), names, None)
    assert opened(data).names == (tuple(names),)
    assert len(data) < sum(map(len, names))


def test_names_that_no_reader_would_take_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_INDEX_BYTES", 20)
    picture = np.zeros((1, 1, 1), np.uint8)
    assert opened(pack([picture], ["a" * 13], None)).names == (("a" * 13,),)
    with pytest.raises(PayloadError, match="the names have 20 bytes; the limit is 19"):
        pack([picture], ["a" * 14], None)


def test_pictures_that_are_too_many_for_a_payload_go_into_several(
    grey: CodecModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_LEVELS", 3 * 64 - 1)
    images = hwc(pictures(SHAPES["grey"], 5))
    data = opened(pack(images, list("abcde"), grey))
    assert data.names == (("a", "b"), ("c", "d"), ("e",))
    for (name, picture), own, expected in zip(
        unpack(data, {grey.prefix: grey}.get), "abcde", images, strict=True
    ):
        assert name == own
        np.testing.assert_array_equal(picture, expected)
        alone = unpack_one(data, {grey.prefix: grey}.get, "abcde".index(own))
        np.testing.assert_array_equal(alone[1], expected)


def test_a_name_that_is_not_text_is_refused() -> None:
    with pytest.raises(PayloadError, match="a file's name is not text"):
        pack([np.zeros((2, 2, 1), np.uint8)], ["\udce4.png"], None)


def test_one_picture_is_found_by_its_number(grey: CodecModel) -> None:
    images = hwc(pictures(SHAPES["grey"], 2))
    other = np.zeros((3, 2, 4), np.uint8)
    data = opened(pack([images[0], other, images[1]], ["a", "b", "c"], grey))
    for index, (name, expected) in enumerate(zip("acb", [*images, other], strict=True)):
        found = unpack_one(data, {grey.prefix: grey}.get, index)
        assert found[0] == name
        np.testing.assert_array_equal(found[1], expected)
    for index in (-1, 3):
        with pytest.raises(PayloadError, match=rf"index {index} is outside 0 … 2"):
            unpack_one(data, {grey.prefix: grey}.get, index)


def test_damage_anywhere_is_an_error(grey: CodecModel) -> None:
    data = pack(hwc(pictures(SHAPES["grey"], 2)), ["a", "b"], grey)
    for size in range(3, len(data)):
        with pytest.raises(PayloadError):
            list(unpack(opened(data[:size]), {grey.prefix: grey}.get))
    for place in range(3, len(data)):
        damaged = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(PayloadError):
            list(unpack(opened(damaged), {grey.prefix: grey}.get))


def sealed(index: bytes) -> bytes:
    """Return an archive of no payloads with this index."""
    head = START + b"\0" + varint(len(index)) + index
    return head + zlib.crc32(head).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sealed(b"no zlib"), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"no JSON")), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"[" * 999)), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"{}")), "the archive's index cannot be read"),
        (sealed(zlib.compress(b"[[1]]")), "the archive's index cannot be read"),
        (sealed(zlib.compress(b'[["a"]]')[:-1]), "the archive's index is cut off"),
        (sealed(zlib.compress(b'[["a"]]')), "the archive's index is of 1 payloads, there are 0"),
        (sealed(zlib.compress(b"[]")) + b"\0", "1 bytes are left over at the end"),
        (START + b"\x7f", "127 parts are declared, more than there are bytes: 4"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        opened(data)


def test_an_index_that_grows_without_end_is_an_error() -> None:
    index = zlib.compress(b" " * (1 << 17))
    with pytest.raises(PayloadError, match=f"or longer than {64 * len(index) + (1 << 16)} bytes"):
        opened(sealed(index))


def test_an_index_of_other_images_is_an_error(grey: CodecModel) -> None:
    data = opened(pack(hwc(pictures(SHAPES["grey"], 2)), ["a", "b"], grey))
    with pytest.raises(PayloadError, match="the archive names 3 images of a payload that has 2"):
        list(unpack(archive.Archive((("a", "b", "c"),), data.payloads), {grey.prefix: grey}.get))


def test_an_archive_of_more_than_is_wanted_is_refused(grey: CodecModel) -> None:
    images = [*hwc(pictures(SHAPES["grey"], 1)), np.zeros((2, 2, 1), np.uint8)]
    data = pack(images, ["a", "b"], grey)
    assert len(opened(data, max_payloads=2, max_index_bytes=15).payloads) == 2
    with pytest.raises(ArchiveTooLargeError, match="an archive of 2 payloads; the limit is 1"):
        opened(data, max_payloads=1)
    with pytest.raises(ArchiveTooLargeError, match="index has 14 bytes or more; that is the limit"):
        opened(data, max_index_bytes=14)
