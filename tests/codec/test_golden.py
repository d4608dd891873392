"""Golden payloads of the shipped codecs: this machine makes the same bytes, and the same pixels of them."""

from __future__ import annotations

import hashlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from codec.chunk import verified
from codec.encoding import Manner, Stream, assembled, compress
from codec.ladder import BINS, RUNGS_OF_LATENTS, Modes
from codec.lossy import at_quality, encode_lossy_chunk, rung_costs, squared_errors
from codec.model import FILE, CodecModel
from codec.payload import Kind, decompress, parsed
from models.bundle import SHIPPED
from tests.servers import running

GOLDEN = Path(__file__).parent / "golden"
# SHA-256 of the first sixteen test images, by image, channel, row, column.
PIXELS = {
    "cifar10": "7071ab6459a1f63008e8aae25004745cff4e3326d40e19c93b82ca83a94be504",
    "fashion-mnist": "c19af3e166819aa4c875c4dceaf0244ee33a9cc43a268bf74250a562496903a0",
    "mnist": "9424743f810dfce42e848da9da58136bb1ab7c0fad7b6d386d9ff257f1e46c2d",
}
# Of grey images some are latents alone, some have levels; cifar10's have levels, and would be WebP at 30.
QUALITIES = {"cifar10": 70, "fashion-mnist": 30, "mnist": 30}
# Of quality 40; other versions of WebP's library may make other bytes. The first is of version 1.
WEBP = [GOLDEN / "cifar10.webp.vae", GOLDEN / "cifar10.webp2.vae"]
WEBP_PIXELS = "50dd5ffd1768b66906e5278b707ff954f46795e602f7f6eb4a08898070446171"
# SHA-256 of what comes back of them.
LOSSY_PIXELS = {
    "cifar10": "472f1730d8c8e95289e3e600876ac19bb676bd483b8ebe7230968ddeaa72e5e2",
    "fashion-mnist": "336f46eca5cd86171d2237c179df5890fee86d972140187e56b44f5d3fdbcea1",
    "mnist": "b083f30b2c6d08c63b1023fe92e8390c7f1da365abcf96a4dc8d4413490977b7",
}
BETWEEN_PIXELS = {
    "cifar10": "be60c19f39c89e8a1ab30a32ea3cca37613f801b33e422bb3427d9da50aba235",
    "fashion-mnist": "018520e3bcdc48f7fa6687300413265862d20db0ac1270222618ca2b71580e46",
    "mnist": "6c73bd1bc849178b106c067f1be05be9b2f93015492df4c3549c25b9cc99706b",
}
MANNERS = ("best", "fast", "lossy")
CODECS = [path.parent.name for path in sorted(SHIPPED.glob(f"*/{FILE}"))]


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> tuple[str, CodecModel]:
    return request.param, verified(SHIPPED / request.param / FILE)


def manner(id: str, name: str) -> Manner:
    return Manner(quality=QUALITIES[id]) if name == "lossy" else Manner(name)  # type: ignore[arg-type]


def images_of(id: str) -> np.ndarray:
    return load_file(SHIPPED / id / "golden.safetensors")["levels"]


def test_every_shipped_codec_has_a_golden_payload() -> None:
    assert list(PIXELS) == CODECS
    assert list(LOSSY_PIXELS) == CODECS
    assert list(BETWEEN_PIXELS) == CODECS
    expected = [f"{id}.{name}.vae" for id in CODECS for name in (*MANNERS, "between")]
    assert [path.name for path in sorted(GOLDEN.glob("*.vae"))] == sorted(
        [*expected, *(path.name for path in WEBP)]
    )


@pytest.mark.parametrize("name", MANNERS)
def test_a_golden_payload_gives_its_pixels(codec: tuple[str, CodecModel], name: str) -> None:
    id, model = codec
    payload = (GOLDEN / f"{id}.{name}.vae").read_bytes()
    images = decompress(parsed(payload, {model.prefix: model}.get))
    expected = LOSSY_PIXELS if name == "lossy" else PIXELS
    assert hashlib.sha256(images.tobytes()).hexdigest() == expected[id]
    if name != "lossy":
        np.testing.assert_array_equal(images, images_of(id))


@pytest.mark.parametrize(("path", "version"), [(WEBP[0], 1), (WEBP[1], 2)])
def test_a_golden_payload_of_lossy_webp_gives_its_pixels(path: Path, version: int) -> None:
    payload = path.read_bytes()
    header = parsed(payload, {}.get)
    assert (payload[2] // 16, header.kind) == (version, Kind.CLASSICAL)
    assert hashlib.sha256(decompress(header).tobytes()).hexdigest() == WEBP_PIXELS


@pytest.mark.parametrize("name", MANNERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bytes_are_made_here(codec: tuple[str, CodecModel], threads: int, name: str) -> None:
    id, model = codec
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        payload = (GOLDEN / f"{id}.{name}.vae").read_bytes()
        assert compress(images_of(id), model, manner(id, name)) == payload
    finally:
        torch.set_num_threads(before)


def test_a_golden_payload_between_latents_and_levels(codec: tuple[str, CodecModel]) -> None:
    id, model = codec
    images = images_of(id)
    n = np.arange(len(images))
    stream, levels = encode_lossy_chunk(model, images, Modes(np.full_like(n, 5), 8 * n, n % BINS))
    payload = (GOLDEN / f"{id}.between.vae").read_bytes()
    assert assembled([Stream(stream, False, levels)], model, Manner(quality=50)) == payload
    found = decompress(parsed(payload, {model.prefix: model}.get))
    np.testing.assert_array_equal(found, levels)
    assert hashlib.sha256(found.tobytes()).hexdigest() == BETWEEN_PIXELS[id]


def test_quality_is_monotone_where_webp_takes_turns_with_the_ladder() -> None:
    codec, image = verified(SHIPPED / "cifar10" / FILE), images_of("cifar10")[:1]
    payloads = [compress(image, codec, Manner(quality=quality)) for quality in range(1, 100, 2)]
    headers = [parsed(payload, {codec.prefix: codec}.get) for payload in payloads]
    sizes = [len(payload) for payload in payloads]
    errors = [int(squared_errors(decompress(header), image)[0]) for header in headers]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    kinds = [header.kind for header in headers]
    assert [kind for kind, before in pairwise([*kinds, None]) if kind != before] == [
        Kind.LOSSY,
        Kind.CLASSICAL,
        Kind.LOSSY,
    ]


def test_bytes_go_to_webp_where_that_has_less_error() -> None:
    codec, image = verified(SHIPPED / "cifar10" / FILE), images_of("cifar10")[:1]
    alone = compress(image, codec, Manner("fast", target_bytes=200))  # the ladder's latents
    found = compress(image, codec, Manner(target_bytes=200))
    assert parsed(found, {}.get).kind == Kind.CLASSICAL
    of_ladder, of_webp = (decompress(parsed(data, {codec.prefix: codec}.get)) for data in (alone, found))
    assert squared_errors(of_webp, image)[0] < squared_errors(of_ladder, image)[0] / 2


@pytest.mark.parametrize("count", [1, 16])
def test_bytes_are_kept_to_and_made_use_of(codec: tuple[str, CodecModel], count: int) -> None:
    id, model = codec
    images = images_of(id)[:count]
    lossless = len(compress(images, model))
    first = 40 if count == 1 else 12 + 8 * count
    filled = 0.98
    if not model.config.features:  # between latents and levels stands WebP, whose settings are further apart
        first = 100 if count == 1 else 12 + 24 * count
        filled = 0.95 if count == 1 else filled
    for target in np.linspace(first, 0.97 * lossless, 8).astype(int):
        found = len(compress(images, model, Manner(target_bytes=int(target))))
        assert min(filled * target, target - 1) <= found <= target


def test_the_lossy_golden_payload_has_rungs_of_the_sorts_it_should(codec: tuple[str, CodecModel]) -> None:
    id, model = codec
    rungs = at_quality(rung_costs(model, images_of(id)), QUALITIES[id]).rungs
    assert rungs.max() >= RUNGS_OF_LATENTS
    assert (rungs.min() < RUNGS_OF_LATENTS) == (model.config.features > 0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_service_on_any_device_makes_the_golden_payloads(device: str) -> None:
    headers = {"Content-Type": "application/x-npy"}
    with running(SHIPPED, models=tuple(CODECS), device=device) as server:
        for id in CODECS:
            images = BytesIO()
            np.save(images, images_of(id).transpose(0, 2, 3, 1))
            found = server.client.post(
                f"/compress?format=payload&model={id}", content=images.getvalue(), headers=headers
            )
            assert found.content == (GOLDEN / f"{id}.best.vae").read_bytes()
