"""Damaged payloads and archives: an error or the very same images, never others, never a crash.

`make fuzz` tries many more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.archive import is_archive, opened, pack, unpack
from codec.encoding import Manner, compress
from codec.model import CodecModel
from codec.payload import PayloadError, decompress, parsed
from tests.codecs import lossy_webp, pictures

MAX_LEVELS = 1 << 20
Damage = tuple[str, float, bytes]

damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "put", "cut", "insert", "repeat", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damage: Damage) -> bytes:
    kind, share, content = damage
    place = int(share * len(data))
    before, after = data[:place], data[place:]
    match kind:
        case "flip":
            return before + bytes(b ^ c for b, c in zip(after, content, strict=False)) + after[len(content) :]
        case "put":
            return before + content + after[len(content) :]
        case "cut":
            return before + after[len(content) :]
        case "insert":
            return before + content + after
        case "repeat":
            return before + after[:8] + after
        case _:
            return after + before


def valid(codec: CodecModel) -> list[bytes]:
    """Payloads of every kind, and an archive of several."""
    shape = codec.config.shape
    channels, height, width = shape
    images = pictures(shape, 3)
    noise = np.random.default_rng(0).integers(0, 256, (2, channels, height + 3, width), np.uint8)
    manners = [Manner("best"), Manner("fast"), Manner("best", 2), Manner("fast", 5)]
    manners += [Manner(quality=quality) for quality in (10, 40, 90)]
    mixed = [*images.transpose(0, 2, 3, 1), *noise.transpose(0, 2, 3, 1)]
    return [
        *(compress(images[:count], codec, manner) for manner in manners for count in (1, 3)),
        compress(noise, codec),
        compress(np.tile(images, (1, 1, 4, 4)), None),
        lossy_webp(np.repeat(images[:, :1], 3, axis=1), 50),
        pack(mixed, list("abcde"), codec),
    ]


def images_of(data: bytes, find: Callable[[bytes], CodecModel | None]) -> list[tuple[str, np.ndarray]]:
    if is_archive(data):
        return list(unpack(opened(data), find))
    return [("", image) for image in decompress(parsed(data, find, MAX_LEVELS))]


def test_damage_is_an_error_or_does_no_harm(codec: CodecModel) -> None:
    find = {codec.prefix: codec}.get
    whole = [(data, images_of(data, find)) for data in valid(codec)]

    @settings(deadline=None)
    @given(which=st.integers(0, len(whole) - 1), changes=damages)
    def check(which: int, changes: list[Damage]) -> None:
        data, expected = whole[which]
        for change in changes:
            data = damaged(data, change)
        try:
            found = images_of(data, find)
        except PayloadError:
            return
        assert [name for name, _ in found] == [name for name, _ in expected]
        for (_, image), (_, expected_image) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(image, expected_image)

    check()


def test_random_bytes_after_a_true_beginning_are_an_error(codec: CodecModel) -> None:
    @settings(deadline=None)
    @given(data=st.binary(max_size=200), kind=st.integers(0, 15), is_named=st.booleans())
    def check(data: bytes, kind: int, is_named: bool) -> None:
        content = bytes([0x56, 0xC6, 16 + kind]) + (codec.prefix if is_named else b"") + data
        with pytest.raises(PayloadError):
            images_of(content, {codec.prefix: codec}.get)

    check()


def test_random_streams_are_decoded_to_an_error(codec: CodecModel) -> None:
    """After a whole header of a few images, so that what decodes them sees every stream."""

    @settings(deadline=None)
    @given(
        stream=st.binary(min_size=4, max_size=300),
        near=st.sampled_from([b"\x11", b"\x12", b"\x13\x01", b"\x13\x7f", b"\x14\x05", b"\x15"]),
        count=st.integers(1, 5),
    )
    def check(stream: bytes, near: bytes, count: int) -> None:
        content = b"V\xc6" + near + codec.prefix + bytes([count]) + stream
        with pytest.raises(PayloadError, match=r"^images 0 "):
            images_of(content, {codec.prefix: codec}.get)

    check()
