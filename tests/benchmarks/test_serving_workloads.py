"""Bodies hold the images they say, and a wrong answer is refused."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks.serving.material import direct_posterior, golden_images
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.workloads import (
    NPY_256,
    PNG_BASE64,
    PNG_RAW,
    check_answer,
    read_json,
    read_safetensors,
)
from models.bundle import load_bundle
from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.images import decode_image
from tests.bundles import save_small_bundle, small_config

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
EXPECTED = {"mu": np.array([[1.0, -2.0]], np.float32), "logvar": np.array([[0.5, 4.0]], np.float32)}


def test_a_raw_body_is_each_image_in_turn() -> None:
    bodies = PNG_RAW.bodies(IMAGES)
    assert [body.rows.tolist() for body in bodies] == [[0], [1], [2]]
    for image, body in zip(IMAGES, bodies, strict=True):
        np.testing.assert_array_equal(decode_image(body.content, 64), image)


def test_a_json_body_has_its_image_in_base64() -> None:
    body = PNG_BASE64.bodies(IMAGES)[1]
    (text,) = json.loads(body.content)["images"]
    np.testing.assert_array_equal(decode_image(base64.b64decode(text), 64), IMAGES[1])


def test_an_npy_body_repeats_the_images_from_its_own_start() -> None:
    bodies = NPY_256.bodies(IMAGES)
    assert len(bodies) == 3
    assert bodies[2].rows[:4].tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(np.load(BytesIO(bodies[2].content)), IMAGES[bodies[2].rows])


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


def test_golden_images_of_two_levels_are_black_and_white(tmp_path: Path) -> None:
    bundle = load_bundle(save_small_bundle(tmp_path / "small", BINARY))
    levels = np.random.default_rng(0).integers(0, 2, (4, 1, 8, 8), np.uint8)
    safetensors.numpy.save_file({"levels": levels}, tmp_path / "golden.safetensors")
    images = golden_images(replace(bundle, path=tmp_path))
    np.testing.assert_array_equal(images[..., 0], levels[:, 0] * 255)
