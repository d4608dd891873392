"""Every route and parameter, asked of the service with two small models: grey 1×8×8, colour 3×16×12."""

from __future__ import annotations

import inspect
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from models.bundle import Bundle
from models.images import fit_image
from models.priors import sample_latents
from tests.app.test_routes import assert_close, direct
from tests.servers import Running
from vaeserve_client import (
    AsyncClient,
    Client,
    Compressed,
    Fit,
    InvalidRequest,
    OtherModel,
    UnknownModel,
    calls,
)
from vaeserve_client.sending import PART_BYTES


def file_of(image: PIL.Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def colours(count: int, height: int = 16, width: int = 12) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def test_encode_gives_the_models_mu_and_logvar(client: Client, grey: Bundle, pixels: np.ndarray) -> None:
    mu, logvar = direct(grey, pixels[..., None])
    encoded = client.encode(pixels)
    assert len(encoded) == 10
    assert encoded.mu.dtype == encoded.logvar.dtype == np.float32
    assert_close(encoded.mu, mu)
    assert_close(encoded.logvar, logvar)
    assert_close(encoded.std, np.exp(logvar / 2))
    encoded.mu[0] = 0  # the caller's own


def test_a_body_of_several_parts_arrives_whole(client: Client, pixels: np.ndarray) -> None:
    many = np.tile(pixels[:8], (512, 1, 1))
    assert many.nbytes >= PART_BYTES
    encoded = client.encode(many)
    assert_close(encoded.mu, np.tile(client.encode(pixels[:8]).mu, (512, 1)))


def test_a_body_that_is_too_large_is_refused_as_such(client: Client) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.encode(np.zeros((600_000, 8, 8), np.uint8))
    assert (raised.value.status, raised.value.kind, raised.value.limit) == (413, "too-large", 32 << 20)


def test_images_are_arrays_pil_images_paths_or_files(
    client: Client, pixels: np.ndarray, tmp_path: Path
) -> None:
    expected = client.encode(pixels[:1]).mu
    image, path = PIL.Image.fromarray(pixels[0]), tmp_path / "image.png"
    image.save(path)
    same = pixels[0], pixels[:1, ..., None], image, image.convert("RGB"), path, str(path), path.read_bytes()
    for images in same:
        assert_close(client.encode(images).mu, expected)
    listed = [pixels[0], image, image.convert("RGB"), image.convert("P"), path, str(path), path.read_bytes()]
    assert_close(client.encode(listed).mu, np.repeat(expected, len(listed), axis=0))
    assert_close(client.encode([pixels[0], image]).mu, np.repeat(expected, 2, axis=0))


def test_webp_and_jpeg_files_are_sent_as_what_they_are(client: Client) -> None:
    image = PIL.Image.fromarray(colours(1)[0])
    for kind in ("WEBP", "JPEG"):
        file = file_of(image, kind)
        decoded = np.array(PIL.Image.open(BytesIO(file)))
        encoded = client.encode(file, model="colour")
        assert_close(encoded.mu, client.encode(decoded[None], model="colour").mu)


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_images_of_another_size_are_fitted_as_told(client: Client, fit: Fit) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (2, 9, 14), np.uint8)
    fitted = np.stack([fit_image(image[..., None], (1, 8, 8), fit) for image in wide])
    assert_close(client.encode(wide, fit=fit).mu, client.encode(fitted).mu)
    mixed = [wide[0], fitted[1]]
    assert_close(client.encode(mixed, fit=fit).mu, client.encode(fitted).mu)
    assert np.array_equal(client.reconstruct(wide, fit=fit).pixels, client.reconstruct(fitted).pixels)
    assert_close(client.score(wide, fit=fit).elbo, client.score(fitted).elbo)


def test_images_of_another_size_are_refused_unless_fitted(client: Client) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.encode(np.zeros((1, 9, 14), np.uint8))
    assert (raised.value.kind, raised.value.value, raised.value.limit) == ("invalid", [9, 14], [8, 8])


def test_a_colour_model_is_named(client: Client) -> None:
    assert client.encode(colours(2), model="colour").mu.shape == (2, 3)
    assert client.reconstruct(colours(2), model="colour").pixels.shape == (2, 16, 12, 3)
    assert client.decode(np.zeros((2, 3)), model="colour").to_pil()[0].mode == "RGB"
    assert client.score(colours(2), model="colour").model == "colour"
    assert client.sample(2, model="colour").pixels.shape == (2, 16, 12, 3)
    assert client.sample(2, model="colour", latents=True).pixels.shape == (2, 16, 12, 3)


def test_decode_takes_one_latent_or_many_of_any_float(client: Client, pixels: np.ndarray) -> None:
    mu = client.encode(pixels).mu
    decoded = client.decode(mu)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (10, 8, 8, 1)
    assert np.array_equal(decoded.pixels, client.reconstruct(pixels).pixels)
    assert np.array_equal(client.decode(mu.astype(np.float64).tolist()).pixels, decoded.pixels)
    assert np.abs(client.decode(mu[0]).pixels[0].astype(int) - decoded.pixels[0]).max() <= 1
    assert [image.size for image in decoded.to_pil()] == [(8, 8)] * 10
    assert np.array_equal(np.array(decoded.to_pil()[3]), decoded.pixels[3, ..., 0])


def test_score_gives_every_figure_of_every_image(client: Client, pixels: np.ndarray) -> None:
    scores = client.score(pixels, samples=3)
    assert (scores.samples, scores.model, len(scores)) == (3, "grey", 10)
    assert_close(scores.elbo, -scores.kl - scores.distortion)
    assert_close(scores.bits_per_dim, -scores.elbo / np.float32(64 * np.log(2)))
    assert scores.nll.shape == (10,)
    assert client.score(pixels[:1]).samples == 16


def test_sample_is_told_what_to_draw(client: Client, grey: Bundle) -> None:
    drawn = client.sample(3, seed=7, offset=5, temperature=0.5, prior="standard", latents=True)
    assert (drawn.seed, drawn.offset, len(drawn)) == (7, 5, 3)
    z = sample_latents(grey.latents, "standard", seed=7, temperature=0.5, offset=5, count=3)
    assert drawn.latents is not None
    assert_close(drawn.latents, z)
    same = client.sample(3, seed=7, offset=5, temperature=0.5, prior="standard")
    assert same.latents is None
    assert (same.seed, same.offset) == (7, 5)
    assert np.array_equal(same.pixels, drawn.pixels)


def test_a_sample_without_a_seed_tells_the_one_it_had(client: Client) -> None:
    drawn = client.sample()
    assert np.array_equal(client.sample(seed=drawn.seed).pixels, drawn.pixels)


def test_a_payload_gives_back_the_pixels(client: Client, pixels: np.ndarray, tmp_path: Path) -> None:
    compressed = client.compress(pixels)
    assert compressed.original_bytes == pixels.size
    assert compressed.compressed_bytes == len(compressed.payload)
    assert compressed.bits_per_dim == 8 * len(compressed.payload) / pixels.size
    (tmp_path / "images.vae").write_bytes(compressed.payload)
    for payload in (compressed, compressed.payload, tmp_path / "images.vae", str(tmp_path / "images.vae")):
        assert np.array_equal(client.decompress(payload).pixels[..., 0], pixels)
    assert np.array_equal(client.decompress(compressed, index=4).pixels[..., 0], pixels[4:5])


def test_alpha_is_kept_in_a_payload(client: Client) -> None:
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8))
    pixels = client.decompress(client.compress(image)).pixels
    assert np.array_equal(pixels[0], np.array(image))


def test_compress_is_told_how(client: Client, pixels: np.ndarray) -> None:
    assert np.array_equal(client.decompress(client.compress(pixels, effort="fast")).pixels[..., 0], pixels)
    near = client.decompress(client.compress(pixels, max_error=3)).pixels[..., 0]
    assert 0 < np.abs(near.astype(int) - pixels).max() <= 3
    assert client.compress(pixels, quality=1).compressed_bytes < client.compress(pixels).compressed_bytes
    assert client.compress(pixels, target_bytes=200).compressed_bytes <= 200
    assert client.compress(pixels, model="colour").original_bytes == pixels.size


def test_a_payload_of_another_model_is_refused(client: Client, pixels: np.ndarray) -> None:
    with pytest.raises(OtherModel):
        client.decompress(client.compress(pixels), model="colour")


def test_models_are_described(client: Client, grey: Bundle) -> None:
    models = client.models()
    assert models.default == "grey"
    assert [model.id for model in models.models] == ["grey", "colour"]
    model = client.model("grey")
    assert model == models.models[0]
    assert model.digest == f"sha256:{grey.digest}"
    assert (model.shape, model.latent_dim, model.device) == ((1, 8, 8), 4, "cpu, 1 thread(s), float32")
    assert model.codec is not None
    assert models.models[1].codec is None
    assert model.limits["max_images"] == 4096
    assert model.metrics["n"] == 1


def test_an_id_is_sent_as_it_is(client: Client) -> None:
    with pytest.raises(UnknownModel) as raised:
        client.model("ü b?c#%")
    assert raised.value.value == "ü b?c#%"


def test_a_ready_service_is_live_and_ready(client: Client) -> None:
    assert client.live() is client.ready() is True
    client.wait_until_ready()


CALLS: dict[str, calls.Call[Any]] = {
    "/encode": calls.encode(b"\x89PNG", model=None, fit=None),
    "/decode": calls.decode([0.0], model=None),
    "/reconstruct": calls.reconstruct(b"\x89PNG", model=None, fit=None),
    "/score": calls.score(b"\x89PNG", samples=None, model=None, fit=None),
    "/sample": calls.sample_page(range(1), seed=0, temperature=1, prior="standard", model=None),
    "/compress": calls.compress(
        b"\x89PNG", effort="best", max_error=0, quality=None, target_bytes=None, model=None
    ),
    "/decompress": calls.decompress(Compressed(b"", 0), index=None, model=None),
    "/models": calls.models(),
    "/models/{id}": calls.model("{id}"),
    "/health/live": calls.health("live"),
    "/health/ready": calls.health("ready"),
}


# For Prometheus, for the playground, and for Triton's clients.
NOT_CALLED = {"/metrics", "/models/{id}/latents"}
NOT_SENT = {"format", "compare"}


def test_the_service_has_no_other_routes_and_parameters(live: Running) -> None:
    paths = live.client.get("/openapi.json").json()["paths"]
    ours = {path for path in paths if not path.startswith("/v2")}
    assert ours == CALLS.keys() | NOT_CALLED
    for path, call in CALLS.items():
        (method,) = paths[path]
        listed = paths[path][method].get("parameters", [])
        asked = {parameter["name"] for parameter in listed if parameter["in"] == "query"}
        assert call.parameters.keys() == asked - NOT_SENT, path
        assert call.method == method.upper()
        answers = paths[path][method]["responses"]["200"]["content"]
        assert call.accept in answers, path


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[tuple[str, object]]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in methods
            if not name.startswith("_") or name == "__init__"
        }

    assert surface(Client) == surface(AsyncClient)


def test_defaults_are_the_services(live: Running) -> None:
    paths = live.client.get("/openapi.json").json()["paths"]
    for name in ("sample", "compress"):
        (operation,) = paths[f"/{name}"].values()
        queries = (p for p in operation["parameters"] if p["in"] == "query")
        served = {p["name"]: p["schema"].get("default") for p in queries}
        ours = inspect.signature(getattr(Client, name)).parameters
        assert {key: ours[key].default for key in served if key not in NOT_SENT} == {
            key: value for key, value in served.items() if key not in NOT_SENT
        }
