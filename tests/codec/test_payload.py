"""Payloads: small, exact, and never a wrong image from damaged bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import classical, encoding
from codec import payload as payloads
from codec.chunk import (
    Coded,
    coarsened,
    decode_chunk,
    decode_chunks,
    decode_fast_chunk,
    encode_chunk,
    encode_chunks,
    encode_fast_chunk,
)
from codec.classical import decode_classical, encode_classical, encode_lossy_classical
from codec.encoding import KINDS, NEAR_KINDS, Effort, Manner, compress
from codec.model import CodecModel
from codec.payload import (
    Kind,
    PayloadError,
    UnknownModelError,
    decompress,
    decompress_one,
    images_a_chunk,
    joined,
    parsed,
)
from codec.rans import StreamError
from tests.codecs import SHAPES, lossy_webp, pictures


def decoded(payload: bytes, *models: CodecModel, max_levels: int = 1 << 24) -> np.ndarray:
    known = {model.prefix: model for model in models}
    return decompress(parsed(payload, known.get, max_levels))


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_images_come_back_from_the_model(codec: CodecModel, count: int, effort: Effort) -> None:
    images = pictures(codec.config.shape, count, seed=2)
    payload = compress(images, codec, Manner(effort))
    header = parsed(payload, {codec.prefix: codec}.get)
    assert (header.kind, header.count, header.shape) == (KINDS[effort], count, codec.config.shape)
    np.testing.assert_array_equal(decompress(header), images)


def test_a_single_image_has_a_header_of_twelve_bytes(grey: CodecModel) -> None:
    image = pictures(SHAPES["grey"], 1)
    payload = compress(image, grey)
    [chunk] = parsed(payload, {grey.prefix: grey}.get).chunks
    assert len(payload) - len(chunk.stream) == 12
    assert len(payload) < 12 + len(encode_classical(image))


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("max_error", [1, 2, 7, 40, 127])
def test_no_level_differs_by_more_than_it_may(codec: CodecModel, max_error: int, effort: Effort) -> None:
    images = pictures(codec.config.shape, 3, seed=5)
    payload = compress(images, codec, Manner(effort, max_error))
    header = parsed(payload, {codec.prefix: codec}.get)
    found = decompress(header)
    assert np.abs(found.astype(int) - images).max() <= max_error
    np.testing.assert_array_equal(decompress_one(header, 1), found[1:2])
    if max_error < 7:  # beyond, slopes of few levels are shorter as WebP
        assert header.kind == NEAR_KINDS[effort]
    if max_error < 40:
        assert len(payload) < len(compress(images, codec, Manner(effort)))


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("max_error", [1, 2, 60, 127])
def test_every_level_is_within_the_error_in_a_stream(
    codec: CodecModel, max_error: int, effort: Effort
) -> None:
    channels, height, width = codec.config.shape
    images = np.resize(np.arange(256, dtype=np.uint8), (5, channels, height, width))
    coarse = coarsened(images, max_error)
    assert np.abs(coarse.astype(int) - images).max() == max_error
    if effort == "fast":
        stream = encode_fast_chunk(codec, coarse, max_error)
        found = decode_fast_chunk(codec, stream, 5, max_error)
    else:
        [stream] = encode_chunks(codec, [coarse], max_error)
        [found] = decode_chunks(codec, [Coded(stream, 5, max_error)])
    np.testing.assert_array_equal(found, coarse)


def test_images_that_no_model_knows_may_differ_too(grey: CodecModel) -> None:
    images = np.tile(pictures((1, 8, 8), 1), (1, 3, 5, 5))
    payload = compress(images, grey, Manner("best", 5))
    assert len(payload) < len(compress(images, grey))
    assert 0 < np.abs(decoded(payload).astype(int) - images).max() <= 5


@pytest.mark.parametrize("max_error", [-1, 128])
def test_an_error_outside_its_range_is_refused(grey: CodecModel, max_error: int) -> None:
    with pytest.raises(PayloadError, match=f"max_error is {max_error}, outside 0 … 127"):
        compress(pictures((1, 8, 8), 1), grey, Manner("best", max_error))


@pytest.mark.parametrize("effort", KINDS)
def test_extreme_images_come_back(codec: CodecModel, effort: Effort) -> None:
    shape = codec.config.shape
    ends = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise(1, *shape)[0]]
    images = np.stack([*ends, *pictures(shape, 15)])
    stream = {"best": encode_chunk, "fast": encode_fast_chunk}[effort](codec, images)
    found = {"best": decode_chunk, "fast": decode_fast_chunk}[effort](codec, stream, len(images))
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 1, 1), (4, 1, 1), (1, 1, 300), (1, 300, 1), (3, 40, 30), (4, 17, 23), (1, 9, 8)]
)
def test_images_that_no_model_knows_come_back_too(grey: CodecModel, shape: tuple[int, int, int]) -> None:
    for images in (noise(3, *shape), np.full((2, *shape), 7, np.uint8)):
        payload = compress(images, grey)
        assert parsed(payload, lambda prefix: None).kind == Kind.CLASSICAL
        np.testing.assert_array_equal(decoded(payload), images)


def test_transparent_pixels_keep_their_colours() -> None:
    images = noise(1, 4, 20, 20)
    images[:, 3] = 0
    np.testing.assert_array_equal(decoded(compress(images, None)), images)


@pytest.mark.parametrize("effort", KINDS)
def test_a_payload_is_never_larger_than_the_classical_one_and_its_header(
    grey: CodecModel, effort: Effort
) -> None:
    for images in (noise(3, 1, 8, 8), np.zeros((4, 1, 8, 8), np.uint8), pictures(SHAPES["grey"], 3)):
        assert len(compress(images, grey, Manner(effort))) <= len(compress(images, None, Manner(effort)))


def test_chunks_of_either_sort_go_together(grey: CodecModel) -> None:
    size = images_a_chunk((1, 8, 8))
    images = np.concatenate([pictures((1, 8, 8), size), noise(size, 1, 8, 8), pictures((1, 8, 8), 5)])
    payload = compress(images, grey)
    header = parsed(payload, {grey.prefix: grey}.get)
    assert [chunk.model for chunk in header.chunks] == [grey, None, grey]
    with ThreadPoolExecutor(2) as executor:
        assert compress(images, grey, each=executor.map) == payload
        np.testing.assert_array_equal(decompress(header, executor.map), images)
    for index in (0, size - 1, size, 2 * size + 4):
        np.testing.assert_array_equal(decompress_one(header, index), images[index : index + 1])
    with pytest.raises(PayloadError, match=f"index {len(images)} is outside 0 … {len(images) - 1}"):
        decompress_one(header, len(images))


def test_a_large_sheet_is_more_than_one_chunk() -> None:
    assert images_a_chunk((1, 8192, 8192)) == 1
    assert images_a_chunk((1, 8192, 1)) == 1
    assert images_a_chunk((1, 28, 28)) == 80
    assert images_a_chunk((3, 32, 32)) == 16
    assert images_a_chunk((3, 64, 64)) == 5
    assert images_a_chunk((1, 1, 1)) == 16368


@pytest.mark.parametrize("effort", KINDS)
def test_every_truncation_is_an_error(codec: CodecModel, effort: Effort) -> None:
    payload = compress(pictures(codec.config.shape, 2), codec, Manner(effort))
    for size in range(len(payload)):
        with pytest.raises(PayloadError):
            decoded(payload[:size], codec)


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_every_flipped_bit_is_an_error(codec: CodecModel, count: int, effort: Effort) -> None:
    payload = compress(pictures(codec.config.shape, count), codec, Manner(effort))
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            decoded(bytes(damaged), codec)


def check_flipped_bits(payload: bytes) -> None:
    """Flip bits of a classical payload, one by one, every one of a small payload: each is an error."""
    for bit in range(0, 8 * len(payload), 1 + len(payload) // 4000):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            decoded(bytes(damaged))


@pytest.mark.parametrize(("count", "side"), [(1, 2), (1, 24), (3, 160)])
def test_every_flipped_bit_of_a_classical_payload_is_an_error(count: int, side: int) -> None:
    images = np.tile(pictures((1, 8, 8), 1), (count, 1, side // 8 + 1, side // 8 + 1))[..., :side, :side]
    check_flipped_bits(compress(images, None))


@pytest.mark.parametrize("quality", [0, 60])
def test_every_flipped_bit_of_a_lossy_classical_payload_is_an_error(quality: int) -> None:
    check_flipped_bits(lossy_webp(noise(3, 3, 17, 20), quality))


def test_a_lossy_classical_stream_is_of_colour_images_of_the_size_that_is_declared() -> None:
    stream = encode_lossy_classical(noise(1, 3, 17, 20), 50)
    with pytest.raises(StreamError, match=r"a sheet of \(20, 17\), expected \(20, 34\)"):
        decode_classical(stream, (3, 17, 20), 2)
    with pytest.raises(StreamError, match="a VP8 stream of images with 1 channels, expected 3"):
        decode_classical(stream, (1, 17, 20), 1)
    with pytest.raises(StreamError, match="not a VP8L or VP8 stream; it starts with"):
        decode_classical(
            bytes([stream[0] ^ 1]) + stream[1:], (3, 17, 20), 1
        )  # of a picture after a first one
    with pytest.raises(StreamError, match="not a VP8 stream"):
        decode_classical(stream[:20], (3, 17, 20), 1)


def test_a_lossy_classical_stream_is_never_as_long_as_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(1, 3, 17, 20)
    monkeypatch.setattr(classical, "_webp", lambda raw, **_: (b"VP8 ", bytes(raw.size)))
    assert len(encode_lossy_classical(images, 50)) == images.size + 1


def test_a_zero_byte_after_a_lossy_classical_stream_changes_nothing() -> None:
    images = noise(1, 3, 17, 20)
    stream = encode_lossy_classical(images, 50)
    found = decode_classical(stream + b"\0", (3, 17, 20), 1)
    np.testing.assert_array_equal(found, decode_classical(stream, (3, 17, 20), 1))


def test_a_learned_chunk_in_a_payload_without_a_model_is_an_error() -> None:
    payload = compress(noise(3, 1, 200, 200), None)
    place = len(b"V\xc6\x10\x01\xc8\x01\xc8\x01\x03")  # of the first chunk's length
    damaged = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
    with pytest.raises(PayloadError, match="a chunk is said to be learned, in a payload without a model"):
        decoded(damaged)


@pytest.mark.parametrize("side", [10_000, 16_384])
def test_a_sheet_that_is_larger_than_declared_is_not_decoded(side: int) -> None:
    stream = b"\x2f" + ((side - 1) * (2**14 + 1)).to_bytes(4, "little") + b"\0" * 20
    with pytest.raises(PayloadError, match=rf"a sheet of \({side}, {side}\), expected \(100, 100\)"):
        decoded(b"V\xc6\x10\x01\x64\x64\x01abcd" + stream)


@pytest.mark.parametrize("effort", KINDS)
def test_pictures_that_are_the_same_cost_no_more_than_classically(grey: CodecModel, effort: Effort) -> None:
    images = np.tile(noise(5, 1, 8, 8), (205, 1, 1, 1))
    assert len(compress(images, grey, Manner(effort))) <= len(compress(images, None, Manner(effort)))


def test_no_images_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PayloadError, match="0 images of 1×4×4: 0 levels, outside 1 … 268435456"):
        compress(noise(0, 1, 4, 4), None)
    monkeypatch.setattr(encoding, "MAX_LEVELS", 31)
    with pytest.raises(PayloadError, match="2 images of 1×4×4: 32 levels, outside 1 … 31"):
        compress(noise(2, 1, 4, 4), None)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=64), kind=st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_random_bytes_are_an_error(data: bytes, kind: int, grey: CodecModel) -> None:
    prefix = grey.prefix if kind else b""
    with pytest.raises(PayloadError):
        decoded(payloads.MAGIC + bytes([16 + kind]) + prefix + data, grey)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends after 0 bytes, at least 2 expected"),
        (b"PK\x03\x04", "not a payload: it does not begin with 56 c6"),
        (b"V\xc6\x31", "version 3 is not known here, only 1 and 2"),
        (b"V\xc6\x1e", "kind 14 is not known here, only 0 … 5"),
        (b"V\xc6\x13\x00abcd", "the largest error is 0, outside 1 … 127"),
        (b"V\xc6\x14\x80abcd", "the largest error is 128, outside 1 … 127"),
        (b"V\xc6\x10\x02\x01\x01\x01", "shape 2×1×1 is outside 1, 3 or 4 channels, sides of 1 … 8192"),
        (b"V\xc6\x10\x01\x81\x40\x01\x01", "shape 1×8193×1 is outside 1, 3 or 4 channels, sides of 1 … 8192"),
        (b"V\xc6\x10\x01\x01\x01\x00", "0 images of 1×1×1: 0 levels, outside 1 … 16777216"),
        (
            b"V\xc6\x10\x01\x80\x40\x80\x40\x01",
            "1 images of 1×8192×8192: 67108864 levels, outside 1 … 16777216",
        ),
        (
            b"V\xc6\x10\x01\x01\x01\x80\x80\x80\x04",
            "8388608 images need 513 chunks, more than 10 bytes can hold",
        ),
        (
            b"V\xc6\x10\x01\x81\x80\x80\x80\x80\x80\x01",
            "a number of more than 5 bytes, or ending with a zero byte",
        ),
        (b"V\xc6\x10\x01\x81\x00", "a number of more than 5 bytes, or ending with a zero byte"),
        (b"V\xc6\x10\x01\x01\x01\x01abcd\x07", "images 0 … 0: damaged, their CRC-32 is not the payload's"),
        (
            b"V\xc6\x10\x01\x02\x01\x01abcdno stream",
            "images 0 … 0: not a VP8L or VP8 stream; it starts with 6e 6f",
        ),
        (
            b"V\xc6\x10\x01\x0a\x0a\x01abcd/\x09\x40\x02\x00" + b"\xff" * 9,
            "images 0 … 0: not a VP8L stream: ",
        ),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=f"^{message}"):
        decoded(data)


def test_a_sheet_of_another_size_is_an_error() -> None:
    payload = compress(np.zeros((1, 1, 40, 40), np.uint8), None)
    with pytest.raises(PayloadError, match=r"a sheet of \(40, 40\), expected \(40, 41\)"):
        decoded(payload[:4] + bytes([41]) + payload[5:])


def test_a_stream_that_begins_with_zero_is_an_error(grey: CodecModel) -> None:
    with pytest.raises(StreamError, match="the stream begins with a zero byte"):
        decode_chunk(grey, b"\0\1", 1)
    with pytest.raises(StreamError, match="the stream begins with a zero byte"):
        decode_fast_chunk(grey, b"\0\1", 1)


def test_bytes_after_the_last_chunk_are_an_error(grey: CodecModel) -> None:
    images = pictures(SHAPES["grey"], images_a_chunk(SHAPES["grey"]) + 1)
    with pytest.raises(PayloadError, match="1 bytes are left over at the end"):
        decoded(compress(images, grey) + b"\0", grey)


def test_an_error_of_a_chunk_is_raised_anew() -> None:
    damaged = PayloadError("damaged")
    with pytest.raises(PayloadError, match="damaged") as caught:
        joined([pictures(SHAPES["grey"], 1), damaged])
    assert caught.value is not damaged
    assert damaged.__traceback__ is None


def test_another_model_is_told_apart(grey: CodecModel, rgb: CodecModel) -> None:
    payload = compress(pictures(SHAPES["grey"], 1), grey)
    with pytest.raises(UnknownModelError, match=f"made with model {grey.prefix.hex()}, which is not at hand"):
        decoded(payload, rgb)


def test_a_shape_that_cannot_be_coded_is_refused() -> None:
    with pytest.raises(PayloadError, match="shape 2×4×4 is outside"):
        compress(noise(1, 2, 4, 4), None)
