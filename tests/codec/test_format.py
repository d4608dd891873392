"""FORMAT.md is enough: a decoder written from it alone reads what the codec writes."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from codec.chunk import coarsened
from codec.encoding import Manner, Stream, assembled, compress
from codec.ladder import BINS, PARTS, RUNGS, Modes
from codec.lossy import encode_lossy_chunk
from codec.model import FILE, CodecModel
from codec.payload import decompress, parsed
from tests.codec.reference import Reference
from tests.codecs import SHAPES, pictures


@pytest.mark.parametrize(
    ("kind", "manner", "count"),
    [
        ("grey", Manner("best"), 1),
        ("grey", Manner("best"), 5),
        ("rgb", Manner("best"), 2),
        ("grey", Manner("fast"), 18),
        ("rgb", Manner("fast"), 2),
        ("grey", Manner("best", 1), 5),
        ("rgb", Manner("fast", 3), 2),
        ("grey", Manner("fast", 30), 1),
    ],
)
def test_a_decoder_written_from_the_specification_reads_payloads(
    kind: str, manner: Manner, count: int, grey: CodecModel, rgb: CodecModel, codecs_folder: Path
) -> None:
    images = pictures(SHAPES[kind], count, seed=3)
    payload = compress(images, grey if kind == "grey" else rgb, manner)
    found = Reference(codecs_folder / f"{kind}-{FILE}").decode(payload)
    np.testing.assert_array_equal(found, coarsened(images, manner.max_error))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_decoder_written_from_the_specification_reads_every_rung_of_the_ladder(
    kind: str, grey: CodecModel, rgb: CodecModel, alone: CodecModel, codecs_folder: Path
) -> None:
    model = {"grey": grey, "rgb": rgb, "alone": alone}[kind]
    rungs = np.arange(RUNGS)
    images = pictures(SHAPES[kind], RUNGS, seed=3)
    stream, levels = encode_lossy_chunk(model, images, Modes(rungs, 7 * rungs % PARTS, rungs % BINS))
    payload = assembled([Stream(stream, False, levels)], model, Manner(quality=50))
    reference = Reference(codecs_folder / f"{kind}-{FILE}")
    np.testing.assert_array_equal(reference.decode(payload), levels)
    np.testing.assert_array_equal(decompress(parsed(payload, {model.prefix: model}.get)), levels)


def test_classical_payloads_of_both_versions_are_what_the_specification_says() -> None:
    image = pictures((1, 4, 5), 1)
    levels = image.tobytes()
    for version, summed in ((1, levels), (2, levels + levels)):  # as the stream is the levels themselves
        head = b"\x56\xc6" + bytes([version * 16 + 0, 1, 4, 5, 1])
        payload = head + zlib.crc32(head + summed).to_bytes(4, "big") + levels
        np.testing.assert_array_equal(decompress(parsed(payload, {}.get)), image)
    assert compress(image, None) == payload


def test_the_sum_of_a_chunk_of_webp_goes_over_the_file_s_content_too() -> None:
    image = np.zeros((1, 1, 30, 30), np.uint8)
    payload = compress(image, None)
    head, crc, stream = payload[:7], payload[7:11], payload[11:]
    assert stream[0] == 0x2F
    assert head == b"\x56\xc6\x20\x01\x1e\x1e\x01"
    assert zlib.crc32(head + image.tobytes() + stream).to_bytes(4, "big") == crc
