"""Sums and lengths put right: what is whole stays as it is, and what has a wrong one is whole again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from codec.archive import is_archive, opened
from fuzzing import sums
from fuzzing.seeds import seeds_of

Mended = Callable[[bytes], bytes]
MENDED: dict[str, Mended] = {
    "image": sums.mended_image,
    "npy": sums.mended_npy,
    "safetensors": sums.mended_safetensors,
    "payload": sums.mended_archive,
    "inference": sums.mended_inference,
    "http": sums.mended_http,
    "coding": sums.mended_coding,
}


def places_of_sums(data: bytes) -> list[int]:
    """Return bytes of an input, one of each sum or length, that are nothing else."""
    if data.startswith(b"\x89PNG"):
        return [len(data) - 1, data.index(b"IDAT") - 5]
    if data.startswith(b"RIFF"):
        return [4, 16] if data[12:16] in (b"VP8 ", b"VP8L") else [4]
    if data.startswith(b"\x93NUMPY\1"):
        return [8]
    if data[8:9] == b"{":
        return [0, 7]
    if is_archive(data):
        return [len(data) - sum(map(len, opened(data).payloads)) - 1]
    if b"binary_data_size" in data:
        return [data.index(b"\n") - 1]
    if b"Content-Length: " in data:
        return [data.index(b"Content-Length: ") + 16]
    return [len(data) - 1, len(data) - 4] if data.startswith((b"\x1f\x8b\x08\0", b"x\xda")) else []


@pytest.mark.parametrize("name", MENDED)
def test_what_a_mutation_broke_is_whole_again(name: str) -> None:
    mended, tried = MENDED[name], 0
    for data in seeds_of(name):
        whole = mended(data)
        if whole != data:  # two files in one, of which the second is cut off
            assert name == "coding"
            assert data.startswith(whole)
            continue
        for place in places_of_sums(data):
            damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            assert mended(damaged) == data
            tried += 1
    assert tried > 0


@pytest.mark.parametrize(
    ("mended", "data"),
    [
        (sums.mended_image, b"\x89PNG\r\n\x1a\n\0\0\0\xffIHDR cut off"),
        (sums.mended_image, b"RIFF"),
        (sums.mended_npy, b"\x93NUMPY\1\0\0\0{no end of a line"),
        (sums.mended_safetensors, b"\0\0\0\0\0\0\0\0no document"),
        (sums.mended_safetensors, b"\0\0\0\0\0\0\0\0" + b"[" * 9999),
        (sums.mended_archive, b"V\xc6\x1f\x7f"),
        (sums.mended_inference, b"no line"),
        (sums.mended_http, b"GET / HTTP/1.1\r\n\r\n"),
        (sums.mended_coding, b"x\xda\7"),
        (sums.mended_coding, b"x\xda"),
    ],
)
def test_what_has_no_place_for_a_sum_is_left(mended: Mended, data: bytes) -> None:
    assert mended(data) == data


def test_a_model_that_is_none_gets_the_name_of_one() -> None:
    assert sums.mended_inference(b"abc\n{}") == b"score\n{}"
    assert sums.mended_inference(b"abc 7\n{}raw") == b"score 2\n{}raw"
    assert sums.mended_inference(b"mnist.sample\n{}") == b"mnist.sample\n{}"
