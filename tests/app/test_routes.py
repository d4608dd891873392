"""The routes, asked over HTTP of a running server with two small models: grey 1×8×8, colour 3×16×12."""

import base64
import io
import math
import socket
import threading
import zipfile
from http.client import HTTPConnection

import httpx
import numpy as np
import orjson
import pytest
import safetensors.numpy
import torch

from codec.model import CodecModel
from models.bundle import Bundle
from models.images import decode_image, encode_png
from models.priors import sample_latents
from tests.servers import Running

JSON, NPY = "application/json", "application/x-npy"
SAFETENSORS = "application/x-safetensors"
FORMATS = ("json", "png", "npy", "safetensors", "zip")


def pixels_of(bundle: Bundle, count: int) -> np.ndarray:
    channels, height, width = bundle.config.input.shape
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def base64_json(images: np.ndarray) -> bytes:
    return orjson.dumps({"images": [base64.b64encode(encode_png(image)).decode() for image in images]})


def direct(bundle: Bundle, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        levels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        mu, logvar = bundle.model.encode(bundle.model.normalise(levels))
    return mu.numpy(), logvar.numpy()


def decoded(response: httpx.Response, fmt: str) -> np.ndarray:
    """Images (N, H, W, C) of an answer in any format but png."""
    match fmt:
        case "json":
            return np.stack(
                [decode_image(base64.b64decode(text), 1 << 20) for text in response.json()["images"]]
            )
        case "npy":
            return np.load(io.BytesIO(response.content))
        case "safetensors":
            return safetensors.numpy.load(response.content)["images"]
        case _:
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                return np.stack([decode_image(archive.read(name), 1 << 20) for name in archive.namelist()])


def assert_close(actual: object, expected: np.ndarray) -> None:
    """Compare within the tolerance that the README states, 1e-5 of the largest value."""
    actual = np.float32(actual)  # type: ignore[arg-type]
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def problem(response: httpx.Response, status: int, slug: str, *words: str) -> dict[str, object]:
    document: dict[str, object] = response.json()
    assert response.status_code == status, document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"urn:vaeserve:problem:{slug}"
    assert document["status"] == status
    for word in words:
        assert word in str(document["detail"])
    return document


# encode


@pytest.mark.parametrize("path", ["/encode", "/score", "/compress", "/v2/models/encode/infer"])
def test_no_address_in_a_body_is_asked(client: httpx.Client, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/image.png"
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [url]}
        answer = client.post(path, json={"images": [url], "inputs": [tensor]})
        assert answer.status_code in (400, 422)
        with pytest.raises(BlockingIOError):  # as nobody came
            elsewhere.accept()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("image/png", lambda pixels: encode_png(pixels[0])),
        (JSON, lambda pixels: base64_json(pixels[:1])),
        (NPY, lambda pixels: npy(pixels[:1])),
        (NPY, lambda pixels: npy(pixels[:1, :, :, 0])),
        (SAFETENSORS, lambda pixels: safetensors.numpy.save({"images": pixels[:1]})),
    ],
    ids=["png", "json", "npy", "npy-without-channels", "safetensors"],
)
def test_encode_reads_every_media_type(
    client: httpx.Client, grey: Bundle, content_type: str, body: object
) -> None:
    pixels = pixels_of(grey, 2)
    response = client.post("/encode", content=body(pixels), headers={"Content-Type": content_type})  # type: ignore[operator]
    document = response.json()
    mu, logvar = direct(grey, pixels[:1])
    assert list(document) == ["model", "mu", "logvar"]
    assert document["model"] == "grey"
    assert_close(document["mu"], mu)
    assert_close(document["logvar"], logvar)


@pytest.mark.parametrize("asked", ["accept", "query"])
@pytest.mark.parametrize("fmt", ["json", "npy", "safetensors"])
def test_encode_answers_in_the_format_asked_for(
    client: httpx.Client, grey: Bundle, asked: str, fmt: str
) -> None:
    pixels = pixels_of(grey, 5)
    media_type = {"json": JSON, "npy": NPY, "safetensors": SAFETENSORS}[fmt]
    extra = (
        {"headers": {"Content-Type": NPY, "Accept": media_type}}
        if asked == "accept"
        else {"headers": {"Content-Type": NPY}, "params": {"format": fmt}}
    )
    response = client.post("/encode", content=npy(pixels), **extra)  # type: ignore[arg-type]
    assert response.headers["content-type"] == media_type
    match fmt:
        case "json":
            found = response.json()["mu"], response.json()["logvar"]
        case "npy":
            array = np.load(io.BytesIO(response.content))
            found = array[:, 0], array[:, 1]
        case _:
            tensors = safetensors.numpy.load(response.content)
            found = tensors["mu"], tensors["logvar"]
    for array, expected in zip(found, direct(grey, pixels), strict=True):
        assert_close(array, expected)


def test_a_request_larger_than_a_batch_is_answered_whole_and_in_order(
    client: httpx.Client, grey: Bundle
) -> None:
    pixels = pixels_of(grey, 100)  # max_batch is 16
    response = client.post("/encode?format=npy", content=npy(pixels), headers={"Content-Type": NPY})
    np.testing.assert_allclose(
        np.load(io.BytesIO(response.content))[:, 0], direct(grey, pixels)[0], rtol=1e-4, atol=1e-6
    )


def test_large_encoded_bodies_are_read(client: httpx.Client, grey: Bundle) -> None:
    pixels = pixels_of(grey, 300)
    response = client.post("/encode?format=npy", content=base64_json(pixels), headers={"Content-Type": JSON})
    assert np.load(io.BytesIO(response.content)).shape == (300, 2, 4)


def test_the_model_parameter_picks_a_bundle(client: httpx.Client, colour: Bundle) -> None:
    pixels = pixels_of(colour, 1)
    response = client.post(
        "/encode?model=colour", content=encode_png(pixels[0]), headers={"Content-Type": "image/png"}
    )
    assert response.json()["model"] == "colour"
    assert_close(response.json()["mu"], direct(colour, pixels)[0])


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_fit_brings_images_to_the_model_s_size(client: httpx.Client, fit: str) -> None:
    big = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    response = client.post(
        f"/encode?fit={fit}", content=encode_png(big), headers={"Content-Type": "image/png"}
    )
    assert np.shape(response.json()["mu"]) == (1, 4)


def test_answers_say_where_the_time_went(client: httpx.Client, grey: Bundle) -> None:
    response = client.post("/encode", content=npy(pixels_of(grey, 1)), headers={"Content-Type": NPY})
    names = [part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")]
    assert names == ["queue", "compute"]


# decode and reconstruct


@pytest.mark.parametrize("fmt", ["json", "npy", "safetensors", "zip"])
@pytest.mark.parametrize("count", [1, 20])
def test_decode_answers_in_every_format(client: httpx.Client, grey: Bundle, fmt: str, count: int) -> None:
    z = np.random.default_rng(0).standard_normal((count, 4), np.float32)
    response = client.post(f"/decode?format={fmt}", content=npy(z), headers={"Content-Type": NPY})
    with torch.inference_mode():
        expected = grey.model.to_pixels(grey.model.x_hat(torch.from_numpy(z))).permute(0, 2, 3, 1).numpy()
    difference = np.abs(decoded(response, fmt).astype(int) - expected)
    assert difference.max() <= (0 if count == 1 else 1)  # rounding may differ where batches differ


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, lambda z: orjson.dumps({"latents": z.tolist()})),
        (SAFETENSORS, lambda z: safetensors.numpy.save({"z": z})),
    ],
    ids=["json", "safetensors"],
)
def test_decode_reads_every_media_type(client: httpx.Client, content_type: str, body: object) -> None:
    z = np.float32([[0.5, -1, 0, 2]])
    response = client.post("/decode?format=npy", content=body(z), headers={"Content-Type": content_type})  # type: ignore[operator]
    expected = client.post("/decode?format=npy", content=npy(z), headers={"Content-Type": NPY})
    assert response.content == expected.content


@pytest.mark.parametrize(("count", "size"), [(1, (8, 8)), (5, (2 * 8 + 1, 3 * 8 + 2))])
def test_png_is_one_image_or_a_contact_sheet(client: httpx.Client, count: int, size: tuple[int, int]) -> None:
    response = client.post(
        "/decode?format=png", content=npy(np.zeros((count, 4), np.float32)), headers={"Content-Type": NPY}
    )
    assert response.headers["content-type"] == "image/png"
    assert decode_image(response.content, 1 << 20).shape[:2] == size


def test_reconstruct_is_decode_of_encode(client: httpx.Client, colour: Bundle) -> None:
    pixels = pixels_of(colour, 3)
    encoded = client.post(
        "/encode?model=colour&format=safetensors", content=npy(pixels), headers={"Content-Type": NPY}
    )
    mu = safetensors.numpy.load(encoded.content)["mu"]
    expected = client.post("/decode?model=colour&format=npy", content=npy(mu), headers={"Content-Type": NPY})
    found = client.post(
        "/reconstruct?model=colour&format=npy", content=npy(pixels), headers={"Content-Type": NPY}
    )
    assert found.content == expected.content


# score


def test_scores_are_consistent(client: httpx.Client, grey: Bundle) -> None:
    response = client.post("/score?samples=8", content=npy(pixels_of(grey, 3)), headers={"Content-Type": NPY})
    document = response.json()
    assert list(document) == ["model", "elbo", "nll", "kl", "distortion", "bits_per_dim", "samples"]
    assert document["samples"] == 8
    elbo, kl, distortion = (np.array(document[name]) for name in ("elbo", "kl", "distortion"))
    np.testing.assert_allclose(elbo, -(kl + distortion), rtol=1e-5)
    np.testing.assert_allclose(document["bits_per_dim"], -elbo / (64 * math.log(2)), rtol=1e-5)


# sample


def test_a_sample_is_the_decoded_latent_of_its_seed(client: httpx.Client, grey: Bundle) -> None:
    document = client.get("/sample?n=3&seed=11&prior=standard&temperature=0.5").json()
    expected = sample_latents(grey.latents, "standard", seed=11, offset=0, count=3, temperature=0.5)
    assert document["seed"] == 11
    np.testing.assert_array_equal(np.float32(document["latents"]), expected)
    again = client.post(
        "/decode", content=orjson.dumps({"latents": document["latents"]}), headers={"Content-Type": JSON}
    )
    assert again.json()["images"] == document["images"]


@pytest.mark.parametrize("prior", ["standard", "aggregated"])
def test_samples_can_be_paged(client: httpx.Client, prior: str) -> None:
    whole = client.get(f"/sample?n=50&seed=3&prior={prior}").json()
    pages = [client.get(f"/sample?n=25&seed=3&offset={offset}&prior={prior}").json() for offset in (0, 25)]
    assert whole["latents"] == pages[0]["latents"] + pages[1]["latents"]
    images = [
        np.stack([decode_image(base64.b64decode(t), 64) for t in d["images"]]).astype(int)
        for d in (whole, *pages)
    ]
    assert np.abs(images[0] - np.concatenate(images[1:])).max() <= 1


@pytest.mark.parametrize("fmt", FORMATS)
def test_large_samples_stream_in_every_format(client: httpx.Client, fmt: str) -> None:
    response = client.get(f"/sample?n=200&seed=5&format={fmt}")
    assert response.status_code == 200
    assert response.headers["x-seed"] == "5"
    if fmt == "png":
        assert decode_image(response.content, 1 << 20).ndim == 3
    else:
        assert decoded(response, fmt).shape == (200, 8, 8, 1)


def test_a_seed_is_drawn_and_told_where_none_is_given(client: httpx.Client) -> None:
    first, second = client.get("/sample"), client.get("/sample")
    assert first.headers["x-seed"] == str(first.json()["seed"])
    assert first.json()["seed"] != second.json()["seed"]


# models, health, metrics


def test_models_lists_what_is_loaded(client: httpx.Client, grey: Bundle, codec: CodecModel) -> None:
    document = client.get("/models").json()
    assert document["default"] == "grey"
    assert [model["id"] for model in document["models"]] == ["grey", "colour"]
    described = client.get("/models/grey").json()
    assert described == document["models"][0]
    assert described["digest"] == f"sha256:{grey.digest}"
    assert described["codec"] == f"sha256:{codec.digest.hex()}"
    assert document["models"][1]["codec"] is None
    assert described["device"] == "cpu, 1 thread(s), float32"
    assert described["config"] == grey.config.model_dump(mode="json")
    assert described["metrics"] == grey.metrics.model_dump(mode="json")
    assert described["limits"]["max_images"] == 4096


def test_a_model_tells_how_its_latents_are_spread(client: httpx.Client, grey: Bundle) -> None:
    assert client.get("/models/grey/latents").json() == {
        "model": "grey",
        "latent_dim": 4,
        "mean": grey.latents.mean.tolist(),
        "std": grey.latents.std.tolist(),
        "active": grey.latents.active.tolist(),
    }


def test_the_process_is_live_and_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_metrics_count_requests_by_route_and_status(client: httpx.Client, live: Running) -> None:
    registry = live.service.metrics.registry

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    before = (
        value("vae_requests_total", route="/models/{id}", status="404"),
        value("vae_requests_total", route="other", status="404"),
    )
    client.get("/models/nope")
    client.get("/made/up")
    after = (
        value("vae_requests_total", route="/models/{id}", status="404"),
        value("vae_requests_total", route="other", status="404"),
    )
    assert after == (before[0] + 1, before[1] + 1)
    text = client.get("/metrics").text
    assert "vae_ready 1.0" in text
    assert 'vae_dropped_requests_total{cause="deadline"}' in text


# the documentation page


def test_the_documentation_page_needs_no_network(client: httpx.Client) -> None:
    page = client.get("/docs").text
    links = [part.split('"')[0] for part in page.replace("'", '"').split('="')[1:]]
    assets = [link for link in links if link.startswith(("/", "http"))]
    assert assets
    for link in assets:
        assert client.get(link).status_code == 200, link
    assert "//cdn" not in page


# bad input


@pytest.mark.parametrize("route", ["/encode", "/reconstruct", "/score"])
@pytest.mark.parametrize(
    ("content_type", "body", "status", "slug", "words"),
    [
        ("image/png", b"not an image", 400, "malformed", "not a PNG, JPEG or WebP file"),
        ("image/png", encode_png(np.zeros((8, 8, 1), np.uint8))[:40], 400, "malformed", "the body"),
        ("image/png", b"", 400, "malformed", "the body is empty"),
        ("text/plain", b"x", 415, "unsupported-media-type", "text/plain"),
        (JSON, b"{", 400, "malformed", "not JSON"),
        (JSON, b'{"images": []}', 422, "invalid", "0 images"),
        (JSON, b'{"images": ["!"]}', 422, "invalid", "images[0] is not base64"),
        (NPY, b"\x93NUMPY garbage", 400, "malformed", ".npy"),
        (NPY, npy(np.zeros((1, 8, 8), np.float32)), 422, "invalid", "float32; expected uint8"),
        (NPY, npy(np.zeros((1, 9, 7), np.uint8)), 422, "invalid", "9×7; the model takes 8×8"),
        (NPY, npy(np.zeros((0, 8, 8), np.uint8)), 422, "invalid", "0 images"),
        (NPY, npy(np.zeros((1, 8, 8, 2), np.uint8)), 422, "invalid", "[1,8,8,2]"),
        (NPY, npy(np.zeros((4097, 8, 8), np.uint8)), 413, "too-large", "4097 images; the limit is 4096"),
        (
            SAFETENSORS,
            safetensors.numpy.save({"x": np.zeros(1, np.uint8)}),
            422,
            "invalid",
            "expected images",
        ),
    ],
)
def test_bad_images_are_named(
    client: httpx.Client, route: str, content_type: str, body: bytes, status: int, slug: str, words: str
) -> None:
    response = client.post(route, content=body, headers={"Content-Type": content_type})
    document = problem(response, status, slug)
    assert words.replace(" ", "") in str(document["detail"]).replace(" ", "")


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (JSON, b'{"latents": [[1, 2, 3]]}', "latents[0] has 3 numbers; the model's latents have 4"),
        (JSON, b'{"latents": [[1, 2, 3, "x"]]}', "latents[0][3] is x; expected a number"),
        (JSON, b'{"latents": []}', "0 latents"),
        (NPY, npy(np.float32([[0, 0, np.nan, 0]])), "latents[0][2] is nan"),
        (NPY, npy(np.zeros((1, 4))), "float64; expected float32"),
        (NPY, npy(np.zeros((1, 5), np.float32)), "expected (N, 4)"),
    ],
)
def test_bad_latents_are_named(client: httpx.Client, content_type: str, body: bytes, words: str) -> None:
    problem(
        client.post("/decode", content=body, headers={"Content-Type": content_type}), 422, "invalid", words
    )


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("n=0", "query parameter n: input should be greater than or equal to 1, got 0"),
        ("n=100001&format=npy", "n is 100001; the limit is 100000"),
        ("n=1025&format=png", "1025 images as png; a contact sheet shows at most 1024"),
        ("n=999999999999999999999", "n is 999999999999999999999; the limit is 100000"),
        ("n=many", "query parameter n: input should be a valid integer"),
        ("seed=-1", "query parameter seed: input should be greater than or equal to 0, got -1"),
        ("temperature=nan", "query parameter temperature: input should be a finite number"),
        ("temperature=11", "query parameter temperature: input should be less than or equal to 10, got 11"),
        ("prior=uniform", "query parameter prior: input should be 'standard' or 'aggregated', got uniform"),
        ("format=bmp", "query parameter format: input should be 'json', 'png'"),
        ("count=2", "there is no query parameter count here; there are format, model, n, offset, prior"),
    ],
)
def test_absurd_samples_are_refused(client: httpx.Client, query: str, words: str) -> None:
    problem(client.get(f"/sample?{query}"), 422, "invalid", words)


def test_a_sheet_of_too_many_decoded_images_is_refused(client: httpx.Client) -> None:
    body = npy(np.zeros((1025, 4), np.float32))
    response = client.post("/decode?format=png", content=body, headers={"Content-Type": NPY})
    problem(response, 422, "invalid", "1025 images as png; a contact sheet shows at most 1024")


def test_scores_come_as_json_alone(client: httpx.Client, grey: Bundle) -> None:
    response = client.post(
        "/score?format=npy", content=npy(pixels_of(grey, 1)), headers={"Content-Type": NPY}
    )
    problem(response, 422, "invalid", "format=npy is not offered here; offered are json")


def test_a_route_without_parameters_refuses_any(client: httpx.Client) -> None:
    problem(client.get("/models?id=grey"), 422, "invalid", "no query parameter id here; there are none")


@pytest.mark.parametrize(("side", "is_quick"), [(100, True), (1000, False)])
def test_an_image_of_many_pixels_is_decoded_off_the_event_loop(
    live: Running, monkeypatch: pytest.MonkeyPatch, side: int, is_quick: bool
) -> None:
    threads: list[threading.Thread] = []

    def watched(data: bytes, max_pixels: int, keep_alpha: bool) -> np.ndarray:
        decoded = decode_image(data, max_pixels, keep_alpha)
        threads.append(threading.current_thread())
        return decoded

    monkeypatch.setattr("app.negotiation.requests.decode_image", watched)
    png = encode_png(np.zeros((side, side, 1), np.uint8))
    response = live.client.post("/encode?fit=resize", content=png, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    assert [thread is live.thread for thread in threads] == [is_quick]


def test_too_many_score_samples_are_refused(client: httpx.Client, grey: Bundle) -> None:
    response = client.post(
        "/score?samples=1001", content=npy(pixels_of(grey, 1)), headers={"Content-Type": NPY}
    )
    problem(response, 422, "invalid", "samples is 1001; the limit is 1000")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/encode?model=nope"),
        ("GET", "/sample?model=nope"),
        ("GET", "/models/nope"),
        ("GET", "/models/nope/latents"),
    ],
)
def test_an_unknown_model_is_named_beside_the_loaded_ones(
    client: httpx.Client, method: str, path: str
) -> None:
    response = client.request(method, path, content=b"x" if method == "POST" else None)
    problem(response, 404, "unknown-model", "'nope' is not loaded; loaded are grey, colour")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/encode"), ("POST", "/score"), ("POST", "/decode"), ("GET", "/sample")]
)
def test_an_accept_that_nothing_fits_is_refused(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path, headers={"Accept": "text/html"})
    problem(response, 406, "not-acceptable", "Accept is text/html; offered are application/json")


def test_several_accept_headers_are_one_list(client: httpx.Client) -> None:
    response = client.get("/sample", headers=[("Accept", "text/html"), ("Accept", "image/png")])
    assert response.headers["content-type"] == "image/png"


def test_a_body_over_the_limit_is_refused_by_its_content_length(live: Running) -> None:
    connection = HTTPConnection(live.client.base_url.host, live.client.base_url.port)
    connection.putrequest("POST", "/encode")
    connection.putheader("Content-Type", NPY)
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()  # and not one byte of the body
    response = connection.getresponse()
    assert response.status == 413
    assert f"the body has {1 << 40} bytes; the limit is {32 << 20}" in response.read().decode()
    connection.close()


def test_a_body_over_the_limit_is_refused_while_it_streams(client: httpx.Client) -> None:
    response = client.post(
        "/encode", content=(bytes(1 << 20) for _ in range(64)), headers={"Content-Type": NPY}
    )
    problem(response, 413, "too-large", f"the limit is {32 << 20}")


def test_a_decompression_bomb_is_refused_by_its_pixel_count(client: httpx.Client) -> None:
    bomb = encode_png(np.zeros((5000, 5000, 1), np.uint8))
    assert len(bomb) < 100_000
    response = client.post("/encode?fit=resize", content=bomb, headers={"Content-Type": "image/png"})
    problem(response, 413, "too-large", "25000000", str(1 << 24))


def test_an_image_of_another_size_is_refused_before_its_pixels_are_decoded(client: httpx.Client) -> None:
    whole = encode_png(np.zeros((4096, 4096, 1), np.uint8))
    cut = whole[:200] + b"IEND\xaeB`\x82"  # decoding it would find the damage
    text = base64.b64encode(cut).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [text]}
    png, json = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}
    for path, body, headers in (
        ("/encode", cut, png),
        ("/score", orjson.dumps({"images": [text]}), json),
        ("/v2/models/encode/infer", orjson.dumps({"inputs": [tensor]}), json),
    ):
        response = client.post(path, content=body, headers=headers)
        assert response.status_code == 422
        assert "images[0] is 4096×4096; the model takes 8×8 (height × width)" in response.text
    fitted = client.post("/encode?fit=resize", content=cut, headers=png)
    problem(fitted, 400, "malformed", "damaged PNG")


def test_a_missing_route_and_a_wrong_method_are_problems(client: httpx.Client) -> None:
    problem(client.get("/nowhere"), 404, "not-found", "/nowhere")
    wrong = client.get("/encode")
    problem(wrong, 405, "method-not-allowed", "POST")
    assert wrong.headers["allow"] == "POST"
