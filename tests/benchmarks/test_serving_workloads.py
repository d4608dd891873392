"""Bodies hold the images they say, and a wrong answer is refused."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks.serving.golden import golden_images
from benchmarks.serving.material import Material, direct_images, direct_posterior, material_of
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.workloads import (
    COMPRESS_1,
    DECODE_1,
    MIXED,
    NPY_256,
    NPY_MIXED,
    PNG_BASE64,
    PNG_RAW,
    SAMPLE_16,
    Body,
    check_answer,
    npy_bytes,
    read_json,
    read_payload,
    read_rows,
    read_safetensors,
)
from codec.chunk import verified
from codec.encoding import compress
from codec.model import FILE
from models.bundle import SHIPPED, load_bundle
from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.images import decode_image
from tests.bundles import save_small_bundle, small_config

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
EXPECTED = {"mu": np.array([[1.0, -2.0]], np.float32), "logvar": np.array([[0.5, 4.0]], np.float32)}
MU = np.arange(6, dtype=np.float32).reshape(3, 2)
MATERIAL = Material(IMAGES, {"mu": MU, "logvar": -MU}, IMAGES[::-1], IMAGES[:2])


def test_a_raw_body_is_each_image_in_turn() -> None:
    bodies = PNG_RAW.write(MATERIAL)
    assert [body.expected["mu"].tolist() for body in bodies] == [[row] for row in MU.tolist()]
    for image, body in zip(IMAGES, bodies, strict=True):
        np.testing.assert_array_equal(decode_image(body.content, 64), image)


def test_a_json_body_has_its_image_in_base64() -> None:
    body = PNG_BASE64.write(MATERIAL)[1]
    (text,) = json.loads(body.content)["images"]
    np.testing.assert_array_equal(decode_image(base64.b64decode(text), 64), IMAGES[1])


def test_an_npy_body_repeats_the_images_from_its_own_start() -> None:
    bodies = NPY_256.write(MATERIAL)
    assert len(bodies) == 3
    images = np.load(BytesIO(bodies[2].content))
    assert len(images) == 256
    np.testing.assert_array_equal(images[:4], IMAGES[[2, 0, 1, 2]])
    np.testing.assert_array_equal(bodies[2].expected["logvar"][:4], -MU[[2, 0, 1, 2]])


def test_mixed_bodies_have_sizes_of_their_own() -> None:
    sizes = [len(body.expected["mu"]) for body in NPY_MIXED.write(MATERIAL)]
    assert sizes == list(MIXED)
    assert NPY_MIXED.images == sum(sizes) / len(sizes)


def test_latents_are_decoded_to_their_images() -> None:
    body = DECODE_1.write(MATERIAL)[2]
    np.testing.assert_array_equal(np.load(BytesIO(body.content)), MU[2:])
    DECODE_1.check(npy_bytes(IMAGES[:1]), body, "peer")
    off_by_one = IMAGES[:1] ^ np.uint8(1)
    DECODE_1.check(npy_bytes(off_by_one), body, "peer")
    with pytest.raises(BenchmarkError, match="peer: images differs from torch"):
        DECODE_1.check(npy_bytes(IMAGES[1:2]), body, "peer")


def test_samples_are_those_of_the_material() -> None:
    [body] = SAMPLE_16.write(MATERIAL)
    assert body.content == b""
    SAMPLE_16.check(npy_bytes(IMAGES[:2]), body, "ours")


def test_a_payload_is_decompressed_and_compared() -> None:
    codec = verified(SHIPPED / "mnist" / FILE)
    images = codec.golden.levels[:1]
    material = Material(images.transpose(0, 2, 3, 1), {}, images, images)
    [body] = COMPRESS_1.write(material)
    COMPRESS_1.check(compress(images, codec), body, "ours")
    with pytest.raises(BenchmarkError, match="ours: images differs"):
        COMPRESS_1.check(compress(codec.golden.levels[1:2], codec), body, "ours")
    COMPRESS_1.check(compress(images, None), body, "ours, of a bundle without a codec")
    with pytest.raises(BenchmarkError, match="not a payload of a shipped bundle: made with model 31323334"):
        read_payload(b"V\xc6\x111234" + bytes(9))


def test_a_peer_may_answer_in_rows() -> None:
    [body] = [Body(b"", EXPECTED)]
    rows = json.dumps([{"mu": [1.0, -2.0], "logvar": [0.5, 4.0]}]).encode()
    PNG_BASE64.check(rows, body, "peer", read_rows)


def test_answers_are_read_from_json_and_safetensors() -> None:
    as_json = json.dumps({"model": "m", **{name: array.tolist() for name, array in EXPECTED.items()}})
    for found in (read_json(as_json.encode()), read_safetensors(safetensors.numpy.save(dict(EXPECTED)))):
        np.testing.assert_array_equal(found["mu"], EXPECTED["mu"])
        np.testing.assert_array_equal(found["logvar"], EXPECTED["logvar"])


def test_an_answer_may_differ_by_the_tolerance() -> None:
    check_answer({**EXPECTED, "mu": EXPECTED["mu"] + np.float32(1.9e-5)}, EXPECTED, "peer")


@pytest.mark.parametrize("value", [-2.00003, np.nan])
def test_a_wrong_answer_is_refused(value: float) -> None:
    wrong = np.array([[1.0, value]], np.float32)
    with pytest.raises(BenchmarkError, match=r"peer: mu differs from torch by .*; the limit is 2\.00e-05"):
        check_answer({**EXPECTED, "mu": wrong}, EXPECTED, "peer")


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"peer: logvar has shape \(1, 1\), expected \(1, 2\)"):
        check_answer({**EXPECTED, "logvar": np.zeros((1, 1), np.float32)}, EXPECTED, "peer")


BINARY = VAEConfig(
    family="fully-connected",
    latent_dim=4,
    channels=(8,),
    likelihood=LikelihoodConfig(name="bernoulli"),
    input=InputConfig(shape=(1, 8, 8), levels=2),
)


def test_golden_images_give_the_golden_posterior(tmp_path: Path) -> None:
    bundle = load_bundle(save_small_bundle(tmp_path / "small", small_config((3, 8, 8))))
    golden = safetensors.numpy.load_file(bundle.path / "golden.safetensors")
    images = golden_images(bundle)
    assert images.shape == (4, 8, 8, 3)
    expected = {name: golden[name] for name in ("mu", "logvar")}
    check_answer(direct_posterior(bundle, images), expected, "golden")
    material = material_of(bundle, samples=3, seed=7)
    np.testing.assert_array_equal(material.decoded, direct_images(bundle, material.posterior["mu"]))
    assert material.samples.shape == (3, 8, 8, 3)


def test_golden_images_of_two_levels_are_black_and_white(tmp_path: Path) -> None:
    bundle = load_bundle(save_small_bundle(tmp_path / "small", BINARY))
    levels = np.random.default_rng(0).integers(0, 2, (4, 1, 8, 8), np.uint8)
    safetensors.numpy.save_file({"levels": levels}, tmp_path / "golden.safetensors")
    images = golden_images(replace(bundle, path=tmp_path))
    np.testing.assert_array_equal(images[..., 0], levels[:, 0] * 255)
