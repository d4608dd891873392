"""A client that openapi-python-client makes of the OpenAPI document encodes and decodes."""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import Bundle
from models.images import decode_image, encode_png
from tests.app.test_routes import assert_close, direct, pixels_of
from tests.servers import Running

ROOT = Path(__file__).parents[2]
MODULES = ("client", "models", "types", "api.images", "api.samples", "api.payloads", "api.inference")
Import = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def generated(live: Running, tmp_path_factory: pytest.TempPathFactory) -> Import:
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_bytes(live.client.get("/openapi.json").content)
    command = [Path(sys.executable).parent / "openapi-python-client", "generate", "--path", document]
    options = ["--config", ROOT / "docs" / "openapi-python-client.yml", "--meta", "none", "--fail-on-warning"]
    made = subprocess.run(
        [*command, *options, "--output-path", folder / "generated_vaeserve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "arning" not in made.stdout + made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in MODULES:
            importlib.import_module(f"generated_vaeserve.{name}")
    return lambda name: importlib.import_module(f"generated_vaeserve.{name}")


@pytest.fixture
def made(generated: Import, client: httpx.Client) -> Iterator[Any]:
    with generated("client").Client(base_url=str(client.base_url)) as found:
        yield found


def test_it_encodes_json(generated: Import, made: Any, grey: Bundle) -> None:
    pixels = pixels_of(grey, 2)
    images = [base64.b64encode(encode_png(image)).decode() for image in pixels]
    body = generated("models").ImagesIn(images=images)
    answer = generated("api.images.encode").sync(client=made, body=body, model="grey")
    mu, logvar = direct(grey, pixels)
    assert_close(answer.mu, mu)
    assert_close(answer.logvar, logvar)


def test_it_encodes_a_file(generated: Import, made: Any, grey: Bundle) -> None:
    pixels = pixels_of(grey, 1)
    body = generated("types").File(payload=BytesIO(encode_png(pixels[0])))
    answer = generated("api.images.encode").sync(client=made, body=body)
    assert_close(answer.mu, direct(grey, pixels)[0])


def test_it_decodes(generated: Import, made: Any) -> None:
    body = generated("models").LatentsIn(latents=[[0.5] * 4])
    answer = generated("api.images.decode").sync(client=made, body=body)
    assert decode_image(base64.b64decode(answer.images[0]), 1 << 20).shape == (8, 8, 1)


def test_it_samples_and_compresses_and_asks_the_inference_protocol(
    generated: Import, made: Any, grey: Bundle
) -> None:
    models = generated("models")
    sampled = generated("api.samples.sample").sync(client=made, n=2, seed=7)
    assert (sampled.seed, len(sampled.images), len(sampled.latents)) == (7, 2, 2)
    compressed = generated("api.payloads.compress").sync(
        client=made, body=models.ImagesIn(images=sampled.images)
    )
    assert compressed.original_bytes == 128
    body = models.PayloadIn(payload=compressed.payload)
    back = generated("api.payloads.decompress").sync(client=made, body=body)
    assert [decode_image(base64.b64decode(each), 1 << 20).tolist() for each in back.images] == [
        decode_image(base64.b64decode(each), 1 << 20).tolist() for each in sampled.images
    ]
    tensor = models.RequestTensor(name="n", shape=[1], datatype="INT64", data=[3])
    asked = models.InferenceRequest(inputs=[tensor])
    inferred = generated("api.inference.inference_infer").sync("sample", client=made, body=asked)
    assert [output.shape for output in inferred.outputs] == [[3, 8, 8, 1], [3, 4], [1]]
    assert np.size(inferred.outputs[0].data) == 3 * 64


def test_its_problems_are_documents(generated: Import, made: Any) -> None:
    body = generated("models").LatentsIn(latents=[[0.5] * 5])
    answer = generated("api.images.decode").sync(client=made, body=body)
    assert answer.status == 422
    assert answer.limit == 4
