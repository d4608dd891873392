"""/v2 over HTTP, driven by Triton's own clients: the values are those of the other routes."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from app.negotiation import values_of_rows
from codec.encoding import Manner, compress
from codec.model import CodecModel
from models.bundle import Bundle
from models.images import encode_png
from models.priors import sample_latents
from tests.app.test_routes import NPY, assert_close, direct, npy, pixels_of, problem
from tests.app.test_server import gate, posted  # noqa: F401
from tests.codecs import pictures
from tests.servers import Gate, Running, running
from tests.waiting import eventually

LARGE = np.zeros((1, 1500, 1500, 3), np.uint8)
OPERATIONS = ("encode", "decode", "reconstruct", "score", "sample", "compress", "decompress")
Arrays = Mapping[str, np.ndarray]
Infer = Callable[..., Any]


def inputs_of(arrays: Arrays, is_binary: bool = True) -> list[triton.InferInput]:
    tensors = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array, binary_data=is_binary))
    return tensors


@dataclass(frozen=True)
class Case:
    """A model, what it is given and what it gives."""

    name: str
    inputs: Arrays
    outputs: Sequence[str]
    parameters: Mapping[str, Any]
    check: Callable[[Any], None]


def cases(grey: Bundle, codec: CodecModel) -> list[Case]:
    pixels = pixels_of(grey, 3)
    mu, logvar = direct(grey, pixels)
    images = pictures((1, 8, 8), 3)
    in_place = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    payload = compress(images, codec, Manner("fast"))

    def encoded(result: Any) -> None:
        assert_close(result.as_numpy("mu"), mu)
        assert_close(result.as_numpy("logvar"), logvar)

    def imaged(result: Any) -> None:
        assert result.as_numpy("images").dtype == np.uint8
        assert result.as_numpy("images").shape == pixels.shape

    def scored(result: Any) -> None:
        elbo, bits = result.as_numpy("elbo"), result.as_numpy("bits_per_dim")
        assert elbo.shape == (3,)
        np.testing.assert_allclose(bits, -elbo / (64 * np.log(2)), rtol=1e-6)

    def sampled(result: Any) -> None:
        z = sample_latents(grey.latents, "standard", seed=7, offset=2, count=20, temperature=0.5)
        np.testing.assert_array_equal(result.as_numpy("latents"), z)
        assert result.as_numpy("images").shape == (20, 8, 8, 1)
        assert result.as_numpy("seed").tolist() == [7]

    def compressed(result: Any) -> None:
        assert result.as_numpy("original_bytes").tolist() == [192]
        assert result.as_numpy("compressed_bytes").tolist() == [len(payload)]
        assert_close(result.as_numpy("bits_per_dim"), np.array([len(payload) / 24], np.float32))
        (found,) = result.as_numpy("payload")
        assert (found if isinstance(found, bytes) else base64.b64decode(found)) == payload

    def decompressed(result: Any) -> None:
        np.testing.assert_array_equal(result.as_numpy("images"), in_place)

    vectors = ("mu", "logvar")
    scores = ("elbo", "nll", "kl", "distortion", "bits_per_dim")
    sampling = {"seed": 7, "offset": 2, "temperature": 0.5, "prior": "standard"}
    whole = np.array([payload], np.object_)
    return [
        Case("encode", {"images": pixels}, vectors, {}, encoded),
        Case("grey.encode", {"images": pixels}, vectors, {}, encoded),
        Case("grey.decode", {"z": mu}, ("images",), {}, imaged),
        Case("grey.reconstruct", {"images": pixels}, ("images",), {}, imaged),
        Case("grey.score", {"images": pixels}, scores, {"samples": 2}, scored),
        Case("grey.sample", {"n": np.array([20])}, ("images", "latents", "seed"), sampling, sampled),
        Case(
            "grey.compress",
            {"images": in_place},
            ("payload", "original_bytes", "compressed_bytes", "bits_per_dim"),
            {"effort": "fast"},
            compressed,
        ),
        Case("grey.decompress", {"payload": whole}, ("images",), {}, decompressed),
    ]


def sendable(arrays: Arrays, is_binary: bool) -> Arrays:
    """Return arrays as the client can send them: JSON has no bytes, so they go in base64."""
    if is_binary:
        return arrays
    return {
        name: np.array([base64.b64encode(element) for element in array], np.object_)
        if array.dtype == np.object_
        else array
        for name, array in arrays.items()
    }


@pytest.fixture
def address(live: Running) -> str:
    return live.client.base_url.netloc.decode()


@pytest.fixture
def blocking(address: str) -> Any:
    with triton.InferenceServerClient(address) as client:
        yield client


def through_blocking(address: str, name: str, inputs: list[Any], options: dict[str, Any]) -> Any:
    with triton.InferenceServerClient(address) as client:
        return client.infer(name, inputs, **options)


def through_greenlets(address: str, name: str, inputs: list[Any], options: dict[str, Any]) -> Any:
    with triton.InferenceServerClient(address, concurrency=2) as client:
        return client.async_infer(name, inputs, **options).get_result()


def through_asyncio(address: str, name: str, inputs: list[Any], options: dict[str, Any]) -> Any:
    async def infer() -> Any:
        async with triton_aio.InferenceServerClient(address) as client:
            return await client.infer(name, inputs, **options)

    return asyncio.run(infer())


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("infer", [through_blocking, through_greenlets, through_asyncio])
def test_every_model_through_every_client(
    address: str, grey: Bundle, codec: CodecModel, infer: Infer, is_binary: bool, coding: str | None
) -> None:
    for case in cases(grey, codec):
        inputs = inputs_of(sendable(case.inputs, is_binary), is_binary)
        outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in case.outputs]
        options = {
            "outputs": outputs,
            "parameters": dict(case.parameters),
            "request_id": "7",
            "request_compression_algorithm": coding,
            "response_compression_algorithm": coding,
        }
        result = infer(address, case.name, inputs, options)
        case.check(result)
        response = result.get_response()
        assert (response["model_name"], response["model_version"], response["id"]) == (case.name, "1", "7")


def test_all_outputs_come_where_none_is_named(blocking: Any, grey: Bundle) -> None:
    result = blocking.infer("encode", inputs_of({"images": pixels_of(grey, 1)}), model_version="1")
    assert [output["name"] for output in result.get_response()["outputs"]] == ["mu", "logvar"]


def test_encoded_images_go_as_bytes(blocking: Any, grey: Bundle) -> None:
    pixels = pixels_of(grey, 2)
    files = np.array([encode_png(image) for image in pixels], np.object_)
    for model in ("encode", "compress"):
        of_files = blocking.infer(model, inputs_of({"images": files}))
        of_pixels = blocking.infer(model, inputs_of({"images": pixels}))
        name = of_pixels.get_response()["outputs"][0]["name"]
        np.testing.assert_array_equal(of_files.as_numpy(name), of_pixels.as_numpy(name))


def test_a_body_without_json_is_the_tensor_and_answered_in_kind(client: httpx.Client, grey: Bundle) -> None:
    pixels = pixels_of(grey, 2)
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/encode/infer", content=pixels.tobytes(), headers=headers)
    length = int(response.headers["inference-header-content-length"])
    found = np.frombuffer(response.content[length:], "<f4").reshape(2, 2, 4)
    assert_close(found[0], direct(grey, pixels)[0])


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_no_tensor(client: httpx.Client, media_type: str) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": media_type}
    response = client.post("/v2/models/encode/infer", content=b" " * 64, headers=headers)
    detail = f"Inference-Header-Content-Length is 0, which leaves no JSON; Content-Type is {media_type}"
    assert (response.status_code, response.json()) == (400, {"error": detail})


def test_a_payload_alone_is_decompressed(client: httpx.Client, codec: CodecModel) -> None:
    images = pictures((1, 8, 8), 3)
    headers = {"Inference-Header-Content-Length": "0"}
    payload = compress(images, codec)
    response = client.post("/v2/models/decompress/infer", content=payload, headers=headers)
    assert response.content.endswith(images.transpose(0, 2, 3, 1).tobytes())


def test_only_json_is_coded_for_clients_that_accept_whatever_they_know(
    client: httpx.Client, grey: Bundle
) -> None:
    pixels = pixels_of(grey, 64)
    asked = {
        "name": "images",
        "shape": list(pixels.shape),
        "datatype": "UINT8",
        "data": pixels.ravel().tolist(),
    }
    for is_binary in (False, True):
        body = {"inputs": [asked], "parameters": {"binary_data_output": is_binary}}
        for accepts, is_coded in (("gzip", True), ("gzip, deflate", not is_binary), ("br", False)):
            response = client.post(
                "/v2/models/reconstruct/infer", json=body, headers={"Accept-Encoding": accepts}
            )
            assert ("content-encoding" in response.headers) == is_coded


def test_a_large_answer_is_written_whole(address: str) -> None:
    result = through_blocking(address, "colour.sample", inputs_of({"n": np.array([4096])}), {})
    assert result.as_numpy("images").shape == (4096, 16, 12, 3)
    (payload,) = through_blocking(address, "compress", inputs_of({"images": LARGE}), {}).as_numpy("payload")
    back = through_blocking(
        address, "decompress", inputs_of({"payload": np.array([payload], np.object_)}), {}
    )
    np.testing.assert_array_equal(back.as_numpy("images"), LARGE)


def test_a_large_answer_is_coded_too(address: str, grey: Bundle) -> None:
    options = {"response_compression_algorithm": "gzip"}
    count = np.array([4096])
    result = through_blocking(address, "colour.sample", inputs_of({"n": count}), options)
    assert result.as_numpy("images").shape == (4096, 16, 12, 3)


def test_an_answer_says_where_the_time_went_and_how_it_is_coded(client: httpx.Client, grey: Bundle) -> None:
    data = pixels_of(grey, 64)
    tensor = {"name": "images", "shape": list(data.shape), "datatype": "UINT8", "data": data.ravel().tolist()}
    response = client.post("/v2/models/grey.reconstruct/infer", json={"inputs": [tensor]})
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == "Accept-Encoding"
    assert response.headers["server-timing"].startswith("queue;dur=")


def test_tensors_behind_the_json_of_a_coded_body_are_not_taken_for_json(client: httpx.Client) -> None:
    images = np.full_like(LARGE, ord(","))
    body, length = triton.InferenceServerClient.generate_request_body(inputs_of({"images": images}))
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": "gzip"}
    response = client.post(
        "/v2/models/compress/infer",
        content=gzip.compress(body),
        headers={**headers, "Content-Type": "application/json"},
    )
    assert response.status_code == 200, response.text


def test_a_coded_body_is_read_whatever_its_type_says_as_one_that_is_not(client: httpx.Client) -> None:
    body = b'{"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [2]}]}' + b" " * 4096
    headers = {"Content-Type": NPY, "Content-Encoding": "gzip"}
    coded = client.post("/v2/models/sample/infer", content=gzip.compress(body), headers=headers)
    assert coded.status_code == 200, coded.text


def test_the_other_routes_read_coded_bodies_too(client: httpx.Client, grey: Bundle) -> None:
    body = npy(pixels_of(grey, 2))
    plain = client.post("/encode", content=body, headers={"Content-Type": NPY})
    headers = {"Content-Type": NPY, "Content-Encoding": "gzip"}
    coded = client.post("/encode", content=gzip.compress(body), headers=headers)
    assert coded.json() == plain.json()


def test_pixels_may_be_many_numbers_in_json_and_nothing_else(client: httpx.Client, grey: Bundle) -> None:
    pixels = pixels_of(grey, 2048)
    most = values_of_rows(4096, 4)
    assert pixels.size > most
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
    for headers in ({}, {"Content-Encoding": "gzip"}):
        code = gzip.compress if headers else bytes
        body = code(orjson.dumps({"inputs": [tensor]}))
        headers = {"Content-Type": "application/json", **headers}
        answer = client.post("/v2/models/encode/infer", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        for path in ("/v2/models/decode/infer", "/v2/models/sample/infer", "/v2/models/decompress/infer"):
            refused = client.post(path, content=body, headers=headers)
            assert refused.status_code == 413
            assert refused.json()["error"].endswith(f"values or more; the limit is {most}")
        for path in ("/encode", "/decode", "/compress", "/decompress"):
            problem(
                client.post(path, content=body, headers=headers), 413, "too-large", f"the limit is {most}"
            )


# what the server says of itself


def test_health(blocking: Any) -> None:
    assert blocking.is_server_live()
    assert blocking.is_server_ready()
    assert all(blocking.is_model_ready(f"{id}.{name}") for id in ("grey", "colour") for name in OPERATIONS)
    assert blocking.is_model_ready("encode", "1")
    assert not blocking.is_model_ready("encode", "2")
    assert not blocking.is_model_ready("nope.encode")


def test_server_metadata(blocking: Any) -> None:
    metadata = blocking.get_server_metadata()
    assert metadata["name"] == "vaeserve"
    assert "binary_tensor_data" in metadata["extensions"]


def test_the_index_lists_every_operation_of_every_bundle(blocking: Any) -> None:
    index = blocking.get_model_repository_index()
    names = {f"{id}.{operation}" for id in ("grey", "colour") for operation in OPERATIONS}
    assert {model["name"] for model in index} == names
    assert {(model["version"], model["state"]) for model in index} == {("1", "READY")}


def test_model_metadata(blocking: Any) -> None:
    assert blocking.get_model_metadata("colour.encode", "1") == {
        "name": "colour.encode",
        "versions": ["1"],
        "platform": "vaeserve",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 16, 12, 3]}],
        "outputs": [
            {"name": "mu", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "logvar", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_model_answers_what_its_metadata_says(
    blocking: Any, grey: Bundle, codec: CodecModel, operation: str
) -> None:
    (case, *_) = (case for case in cases(grey, codec) if case.name == f"grey.{operation}")
    metadata = blocking.get_model_metadata(case.name)
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(case.inputs)
    result = blocking.infer(case.name, inputs_of(case.inputs))
    outputs = result.get_response()["outputs"]
    assert [output["name"] for output in outputs] == [tensor["name"] for tensor in metadata["outputs"]]
    for output, declared in zip(outputs, metadata["outputs"], strict=True):
        assert output["datatype"] == declared["datatype"]
        assert len(output["shape"]) == len(declared["shape"])
        for side, expected in zip(output["shape"], declared["shape"], strict=True):
            assert expected in (-1, side)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_config_is_metadata_without_the_axis_of_a_batch(blocking: Any, operation: str) -> None:
    config = blocking.get_model_config(f"grey.{operation}", "1")
    metadata = blocking.get_model_metadata(f"grey.{operation}")
    is_batched = config["max_batch_size"] > 0
    assert is_batched == (operation in ("encode", "decode", "reconstruct", "score"))
    for configured, declared in zip(
        config["input"] + config["output"], metadata["inputs"] + metadata["outputs"], strict=True
    ):
        assert configured["name"] == declared["name"]
        assert (
            configured["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES") == declared["datatype"]
        )
        assert configured["dims"] == (declared["shape"][is_batched:] or [1])


def test_config_has_the_parameters_and_their_defaults(blocking: Any) -> None:
    assert blocking.get_model_config("grey.sample")["parameters"] == {
        "seed": {"string_value": ""},
        "offset": {"string_value": "0"},
        "temperature": {"string_value": "1.0"},
        "prior": {"string_value": "aggregated"},
    }


def test_statistics_count_what_a_model_was_asked_by_any_protocol(bundle_folder: Path, grey: Bundle) -> None:
    body, headers = npy(pixels_of(grey, 3)), {"Content-Type": NPY}
    with running(bundle_folder) as server:
        address = server.client.base_url.netloc.decode()
        with triton.InferenceServerClient(address) as client:
            before = statistics_of(client, "grey.encode")
            assert (before["last_inference"], before["inference_count"], before["execution_count"]) == (
                0,
                0,
                0,
            )
            client.infer("encode", inputs_of({"images": pixels_of(grey, 5)}))
            assert server.client.post("/encode", content=body, headers=headers).status_code == 200
            after = statistics_of(client, "encode")
            client.infer("sample", inputs_of({"n": np.array([40])}))
            sampled = statistics_of(client, "grey.sample")
            decoded = statistics_of(client, "decode")
            client.infer("decode", inputs_of({"z": np.zeros((1, 4), np.float32)}))
            both = statistics_of(client, "decode")
            everything = client.get_inference_statistics()["model_stats"]
    assert (after["inference_count"], after["execution_count"]) == (8, 2)
    assert after["last_inference"] > 1.7e12
    stats = after["inference_stats"]
    assert stats["success"]["count"] == stats["queue"]["count"] == stats["compute_infer"]["count"] == 2
    assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"] > 0
    assert stats["fail"] == {"count": 0, "ns": 0}
    assert (sampled["inference_count"], sampled["execution_count"]) == (40, 3)
    assert (decoded["inference_count"], decoded["execution_count"]) == (0, 0)
    assert (both["inference_count"], both["execution_count"]) == (1, 1)
    assert len(everything) == 2 * len(OPERATIONS)


def statistics_of(client: Any, model: str) -> Any:
    (found,) = client.get_inference_statistics(model, "1")["model_stats"]
    assert (found["name"], found["version"]) == (model, "1")
    return found


def test_what_fails_is_counted_apart(bundle_folder: Path) -> None:
    tensor = {"name": "n", "shape": [1], "datatype": "INT64", "data": [1]}
    body = {"inputs": [tensor], "parameters": {"timeout": 1}}
    with running(bundle_folder) as server:
        assert server.client.post("/v2/models/sample/infer", json=body).status_code == 504
        (found,) = server.client.get("/v2/models/sample/stats").json()["model_stats"]
    assert found["inference_count"] == 0
    assert found["inference_stats"]["fail"]["count"] == 1
    assert found["inference_stats"]["success"]["count"] == 0


# what is refused


@pytest.mark.parametrize(
    ("model", "inputs", "options", "status", "words"),
    [
        ("grey.nope", {}, {}, 404, "model 'grey.nope' is not loaded; loaded are grey.encode, grey.decode"),
        ("nope.encode", {}, {}, 404, "model 'nope.encode' is not loaded"),
        (".encode", {}, {}, 404, "model '.encode' is not loaded"),
        ("grey.encode", {}, {"model_version": "3"}, 404, "has no version '3'; its only version is 1"),
        ("grey.encode", {"images": np.zeros((1, 9, 8, 1), np.uint8)}, {}, 422, "images[0] is 9×8; the model"),
        ("grey.encode", {"images": np.zeros((0, 8, 8, 1), np.uint8)}, {}, 422, "0 images; at least 1"),
        ("grey.encode", {"images": np.zeros((2, 2), np.uint8)}, {}, 422, "the images have shape [2, 2]"),
        ("grey.encode", {"images": np.array([b"x"], np.object_)}, {}, 422, "images[0]: not a PNG, JPEG or"),
        (
            "grey.encode",
            {"images": np.array([b"x"] * 5000, np.object_)},
            {},
            413,
            "5000 images; the limit is",
        ),
        ("grey.decode", {"z": np.zeros((1, 5), np.float32)}, {}, 422, "have shape [1, 5]; expected (N, 4)"),
        ("grey.decode", {"z": np.full((1, 4), np.nan, np.float32)}, {}, 422, "latents[0][0] is nan"),
        ("grey.sample", {"n": np.array(3)}, {}, 422, "input n has shape []; expected [1]"),
        ("grey.sample", {"n": np.array([0])}, {}, 422, "n is 0; at least 1 is needed"),
        ("grey.sample", {"n": np.array([4097])}, {}, 413, "n is 4097; the limit is 4096 a request"),
        ("grey.sample", {"n": np.array([1, 1])}, {}, 422, "input n has shape [2]; expected [1]"),
        ("grey.sample", {"n": np.array([[1]])}, {}, 422, "input n has shape [1, 1]; expected [1]"),
        ("grey.sample", {"n": np.array([1])}, {"parameters": {"seed": -1}}, 422, "parameter seed: input"),
        ("grey.sample", {"n": np.array([1])}, {"parameters": {"seed": "1"}}, 422, "parameter seed: input"),
        ("grey.sample", {"n": np.array([1])}, {"parameters": {"sed": 1}}, 422, "parameter sed: extra inputs"),
        (
            "grey.score",
            {"images": np.zeros((1, 8, 8), np.uint8)},
            {"parameters": {"samples": 1001}},
            422,
            "samples is 1001; the limit is 1000",
        ),
        (
            "grey.compress",
            {"images": np.zeros((1, 9, 8, 1), np.uint8)},
            {"parameters": {"quality": 50}},
            422,
            "shape",
        ),
        ("grey.decompress", {"payload": np.array([b"x"], np.object_)}, {}, 400, "the payload: "),
        ("grey.decompress", {"payload": np.array([b"x", b"y"], np.object_)}, {}, 422, "has shape [2]"),
    ],
)
def test_bad_requests_are_named(
    blocking: Any, model: str, inputs: Arrays, options: dict[str, Any], status: int, words: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        blocking.infer(model, inputs_of(inputs), **options)
    assert raised.value.status() == str(status)
    assert words in raised.value.message()


def test_a_payload_of_another_bundle_is_refused(blocking: Any, codec: CodecModel) -> None:
    payload = np.array([compress(pictures((1, 8, 8), 1), codec)], np.object_)
    with pytest.raises(InferenceServerException, match="is of model grey, not of colour"):
        blocking.infer("colour.decompress", inputs_of({"payload": payload}))


def test_models_are_not_loaded_over_http(blocking: Any) -> None:
    with pytest.raises(InferenceServerException, match="there is nothing at /v2/repository/models/x/load"):
        blocking.load_model("x")


def test_errors_have_the_protocol_s_form_wherever_they_arise(client: httpx.Client) -> None:
    for response, words in (
        (client.get("/v2/nope"), "there is nothing at /v2/nope"),
        (client.get("/v2/models/encode/infer"), "does not take GET; it takes POST"),
        (client.get("/v2?x=1"), "there is no query parameter x here"),
        (client.post("/v2/models/encode/infer", content=b"{"), "the body is not JSON"),
        (client.post("/v2/models/encode/infer?x=1"), "there is no query parameter x here"),
    ):
        assert list(response.json()) == ["error"]
        assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("model", "tensor", "parameters"),
    [
        ("sample", {"name": "n", "shape": [1], "datatype": "INT64", "data": [4096]}, {}),
        (
            "score",
            {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64},
            {"samples": 1000},
        ),
    ],
)
def test_a_timeout_is_a_deadline(
    client: httpx.Client, model: str, tensor: dict[str, Any], parameters: dict[str, int]
) -> None:
    body = {"inputs": [tensor], "parameters": {**parameters, "timeout": 1}}
    response = client.post(f"/v2/models/{model}/infer", json=body)
    assert response.status_code == 504
    assert "no answer within" in response.json()["error"]


def test_samples_of_a_client_that_has_left_are_not_computed(bundle_folder: Path) -> None:
    tensor = {"name": "n", "shape": [1], "datatype": "INT64", "data": [4096]}
    with running(bundle_folder, max_batch=1) as server:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v2/models/sample/infer", json={"inputs": [tensor]}, timeout=0.1)
        registry = server.service.metrics.registry
        failed = {"model": "grey", "operation": "sample", "outcome": "failure"}
        eventually(lambda: registry.get_sample_value("vae_model_requests_total", failed))
        computed = registry.get_sample_value("vae_images_total", {"model": "grey", "operation": "decode"})
        assert computed is not None
        assert computed < 4096


def test_the_codec_s_models_do_not_wait_for_the_device_s_queue(
    bundle_folder: Path,
    codec: CodecModel,
    gate: Gate,  # noqa: F811
) -> None:
    payload = compress(pictures((1, 8, 8), 1), codec)
    headers = {"Inference-Header-Content-Length": "0"}
    with running(bundle_folder, max_queued_images=1) as server, posted(server):
        assert gate.entered.acquire(timeout=30)
        with posted(server):
            eventually(lambda: server.service.batcher.is_full)
            refused = server.client.post("/v2/models/sample/infer", content=bytes(8), headers=headers)
            assert refused.status_code == 429
            answer = server.client.post("/v2/models/decompress/infer", content=payload, headers=headers)
            assert answer.status_code == 200
            gate.opened.set()


def test_samples_say_where_the_time_went(client: httpx.Client) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    response = client.post("/v2/models/sample/infer", content=(40).to_bytes(8, "little"), headers=headers)
    assert float(response.headers["server-timing"].rpartition("=")[2]) > 0


def test_a_path_beside_the_protocol_s_has_its_problems_as_ever(client: httpx.Client) -> None:
    problem(client.get("/v2foo"), 404, "not-found")


def test_nothing_is_ready_before_the_models_are(tmp_path: Path, bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        server.service.drain()
        for path in ("/v2/health/ready", "/v2/models/encode/ready"):
            response = server.client.get(path)
            assert response.status_code == 503
            assert orjson.loads(response.content) == {"error": "not ready: draining"}
        assert server.client.get("/v2/health/live").json() == {"live": True}
