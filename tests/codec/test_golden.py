"""Golden payloads of the shipped codecs: this machine makes the same bytes, and the same pixels of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from codec.chunk import verified
from codec.encoding import KINDS, Effort, Manner, compress
from codec.model import FILE, CodecModel
from codec.payload import decompress, parsed
from models.bundle import SHIPPED

GOLDEN = Path(__file__).parent / "golden"
# SHA-256 of the first sixteen test images, by image, channel, row, column.
PIXELS = {
    "fashion-mnist": "c19af3e166819aa4c875c4dceaf0244ee33a9cc43a268bf74250a562496903a0",
    "mnist": "9424743f810dfce42e848da9da58136bb1ab7c0fad7b6d386d9ff257f1e46c2d",
}
CODECS = [path.parent.name for path in sorted(SHIPPED.glob(f"*/{FILE}"))]


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> tuple[str, CodecModel]:
    return request.param, verified(SHIPPED / request.param / FILE)


def images_of(id: str) -> np.ndarray:
    return load_file(SHIPPED / id / "golden.safetensors")["levels"]


def test_every_shipped_codec_has_a_golden_payload() -> None:
    assert list(PIXELS) == CODECS
    expected = [f"{id}.{effort}.vae" for id in CODECS for effort in sorted(KINDS)]
    assert [path.name for path in sorted(GOLDEN.glob("*.vae"))] == expected


@pytest.mark.parametrize("effort", KINDS)
def test_a_golden_payload_gives_its_pixels(codec: tuple[str, CodecModel], effort: Effort) -> None:
    id, model = codec
    payload = (GOLDEN / f"{id}.{effort}.vae").read_bytes()
    images = decompress(parsed(payload, {model.prefix: model}.get))
    assert hashlib.sha256(images.tobytes()).hexdigest() == PIXELS[id]
    np.testing.assert_array_equal(images, images_of(id))


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bytes_are_made_here(codec: tuple[str, CodecModel], threads: int, effort: Effort) -> None:
    id, model = codec
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        payload = (GOLDEN / f"{id}.{effort}.vae").read_bytes()
        assert compress(images_of(id), model, Manner(effort)) == payload
    finally:
        torch.set_num_threads(before)
