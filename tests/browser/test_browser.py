"""The playground in a browser, on a real service: what a person does there, and what they see."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Route, expect

from app.negotiation.media import NPY, PAYLOAD
from models.images import decode_image, encode_png, encode_webp
from tests.app.conftest import Running
from tests.browser.conftest import Visit, Visitors, picture

BOOT = Path(__file__).parents[2] / "docs" / "boot.png"
FASHION, COLOUR, SMALL = "fashion-mnist", "cifar10", "small"


class Asked:
    """The service, asked without the page."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def images(self, path: str, array: np.ndarray, **query: Any) -> np.ndarray:
        file = io.BytesIO()
        np.save(file, array)
        answer = self._client.post(
            path, content=file.getvalue(), headers={"Content-Type": NPY}, params={"format": "npy", **query}
        )
        assert answer.status_code == 200, answer.text
        return np.load(io.BytesIO(answer.content))

    def mu(self, image: np.ndarray, model: str = FASHION) -> np.ndarray:
        return self.images("/encode", image[None], model=model)[0, 0]

    def decoded(self, z: np.ndarray, model: str = FASHION) -> np.ndarray:
        return self.images("/decode", z[None].astype(np.float32), model=model)[0]

    def payload(self, image: np.ndarray, **query: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, image[None])
        headers = {"Content-Type": NPY}
        answer = self._client.post(
            "/compress", content=file.getvalue(), headers=headers, params={"format": "payload", **query}
        )
        return answer.content

    def decompressed(self, payload: bytes) -> np.ndarray:
        answer = self._client.post(
            "/decompress?format=npy", content=payload, headers={"Content-Type": PAYLOAD}
        )
        return np.load(io.BytesIO(answer.content))[0]

    def samples(self, **query: Any) -> np.ndarray:
        return np.load(io.BytesIO(self._client.get("/sample", params={"format": "npy", **query}).content))


@pytest.fixture
def asked(service: Running) -> Asked:
    return Asked(service.client)


def grey(image: np.ndarray) -> np.ndarray:
    """Return an image that a canvas shows in grey with its one channel."""
    assert (image == image[..., :1]).all()
    return image[..., :1]


def boot() -> np.ndarray:
    return decode_image(BOOT.read_bytes(), 1 << 20)


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images differ by no more than batches that round differently make them."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


# ---- the first look


def test_a_newcomer_sees_an_image_and_all_that_the_model_makes_of_it(visit: Visit, asked: Asked) -> None:
    image = grey(visit.image("drawing"))
    np.testing.assert_array_equal(image, boot())
    mu = asked.mu(image)
    for id in ("reconstruction", "decoded"):
        assert close(grey(visit.image(id)), asked.decoded(mu)), id
    expect(visit.find("bits")).to_have_text("2.14")
    expect(visit.find("verdict")).to_have_text("Usual score")
    expect(visit.find("percentile")).to_have_text(re.compile(r"^More likely than \d\d % of the test set\.$"))
    expect(visit.page.locator(".plot")).to_have_attribute("aria-label", re.compile("this image has 2.14"))
    expect(visit.page.locator("#examples button")).to_have_count(8)
    expect(visit.page.locator("#samples button")).to_have_count(30)
    expect(visit.page.locator("#strip canvas")).to_have_count(11)
    expect(visit.page.locator(".error")).to_have_count(0)


def test_the_percentile_is_that_of_the_quantiles_around_it(visit: Visit, service: Running) -> None:
    quantiles = service.service.bundle(FASHION).metrics.bits_per_dim_quantiles
    assert quantiles is not None
    below = np.interp(2.1412623, quantiles.values, quantiles.percents)
    expect(visit.find("percentile")).to_have_text(f"More likely than {100 - below:.0f} % of the test set.")


def test_an_image_of_another_kind_is_called_an_anomaly(visit: Visit, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    visit.drop(saved(tmp_path / "noise.png", noise))
    expect(visit.find("verdict")).to_have_text("Anomaly")
    words = "Less likely than all 10,000 test images: hardly of this kind."
    expect(visit.find("percentile")).to_have_text(words)
    expect(visit.page.locator(".plot .here")).to_have_text("this image →")


@pytest.mark.parametrize(
    ("bits", "name", "words"),
    [
        (0.9, "Unusually plain", "More likely than all 2,000 test images, as plain images are"),
        (1.0, "Usual score", "More likely than 99 % of the test set."),
        (2.5, "Usual score", "More likely than 25 % of the test set."),
        (2.9, "Usual score", "More likely than 5 % of the test set."),
        (2.91, "Unusual", "More likely than 5 % of the test set."),
        (2.98, "Unusual", "More likely than 1 % of the test set."),
        (2.992, "Anomaly", "Less likely than 99 % of the test set."),
        (3.01, "Anomaly", "Less likely than all 2,000 test images"),
    ],
)
def test_a_score_has_its_place_among_the_test_images(
    visit: Visit, bits: float, name: str, words: str
) -> None:
    quantiles = {"percents": [0, 50, 100], "values": [1, 2, 3]}
    found = visit.page.evaluate(
        "async (of) => (await import('/playground/score.js')).standing(...of)", [quantiles, bits, 2000]
    )
    assert found["name"] == name
    assert found["words"].startswith(words)


def test_it_tells_that_the_service_still_loads_and_tries_again(visitors: Visitors) -> None:
    visit = visitors()
    visit.is_refused = True
    document = {"detail": "the service is loading"}
    headers = {"Retry-After": "1"}
    visit.page.route(
        "**/models", lambda route: route.fulfill(status=503, json=document, headers=headers), times=1
    )
    visit.page.goto(visit.address)
    expect(visit.find("service-status")).to_have_text("the service is loading; trying again …")
    assert visit.find("layout").get_attribute("inert") is not None
    visit.page.wait_for_selector('[data-state="ready"]')
    expect(visit.find("service-status")).to_be_empty()
    assert visit.find("layout").get_attribute("inert") is None


# ---- the image


def test_a_dropped_file_becomes_the_image_pixel_for_pixel(visit: Visit) -> None:
    visit.after("reconstruction", lambda: visit.page.locator("#examples button").nth(1).click())
    assert not np.array_equal(grey(visit.image("drawing")), boot())
    visit.after("reconstruction", lambda: visit.drop(BOOT))
    np.testing.assert_array_equal(grey(visit.image("drawing")), boot())
    expect(visit.find("bits")).to_have_text("2.14")


def test_a_file_of_another_size_is_cropped_padded_or_stretched(visit: Visit, tmp_path: Path) -> None:
    wide = np.zeros((56, 112), np.uint8)
    wide[:, :28], wide[:, 28:84], wide[:, 84:] = 40, 100, 200
    path = saved(tmp_path / "wide.png", wide)
    visit.after("drawing", lambda: visit.find("file").set_input_files(path))
    np.testing.assert_array_equal(visit.image("drawing"), np.full((28, 28, 3), 100))
    padded = visit.after("drawing", lambda: visit.find("fit").select_option("pad"))
    assert (padded[7:21, :7] == 40).all()
    assert (padded[7:21, 7:21] == 100).all()
    assert (padded[7:21, 21:] == 200).all()
    assert not padded[:7].any()
    assert not padded[21:].any()
    stretched = visit.after("drawing", lambda: visit.find("fit").select_option("resize"))
    assert (stretched[:, :7] == 40).all()
    assert (stretched[:, 7:21] == 100).all()
    assert (stretched[:, 21:] == 200).all()


def test_a_larger_file_is_averaged_and_colour_becomes_the_services_grey(visit: Visit, tmp_path: Path) -> None:
    stripes = np.zeros((56, 56, 3), np.uint8)
    stripes[:, ::2] = (200, 100, 50)
    path = saved(tmp_path / "stripes.png", stripes)
    shown = visit.after("drawing", lambda: visit.find("file").set_input_files(path))
    luma = (19595 * 100 + 38470 * 50 + 7471 * 25 + 0x8000) >> 16
    np.testing.assert_array_equal(shown, np.full((28, 28, 3), luma))


def test_a_file_that_is_no_image_is_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    before = visit.image("drawing")
    (tmp_path / "text.png").write_text("no image")
    visit.drop(tmp_path / "text.png")
    expect(visit.find("source-status")).to_have_text("this file is no image that the browser can read")
    expect(visit.find("source-status")).to_have_class("status error")
    np.testing.assert_array_equal(visit.image("drawing"), before)
    visit.drop(BOOT)
    expect(visit.find("source-status")).to_be_empty()


def test_an_image_is_drawn_erased_and_cleared(visit: Visit) -> None:
    visit.find("clear").click()
    visit.until("() => document.getElementById('verdict').textContent === 'Unusually plain'")
    assert not visit.image("drawing").any()
    box = visit.find("drawing").bounding_box()
    assert box is not None
    mouse = visit.page.mouse

    def across() -> None:
        mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
        mouse.down()
        mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        mouse.up()

    plain = visit.find("bits").inner_text()
    visit.after("reconstruction", across)
    drawn = grey(visit.image("drawing"))[..., 0]
    assert (drawn[13:15, 7:21] == 255).all()
    assert not drawn[:10].any()
    assert not drawn[18:].any()
    expect(visit.find("bits")).not_to_have_text(plain)
    visit.find("eraser").check()
    visit.set("pen", 6)
    visit.after("reconstruction", across)
    assert not visit.image("drawing")[13:15, 7:21].any()


def test_the_pen_has_a_colour_where_the_model_has(visit: Visit) -> None:
    expect(visit.find("colour-field")).to_be_hidden()
    visit.after("reconstruction", lambda: visit.find("model").select_option(COLOUR))
    expect(visit.find("colour-field")).to_be_visible()
    assert visit.image("drawing").shape == (32, 32, 3)
    visit.find("colour").fill("#ff8000")
    visit.set("pen", 6)
    visit.find("drawing").click()
    assert visit.image("drawing")[16, 16].tolist() == [255, 128, 0]


# ---- latents


def test_the_most_active_latents_have_sliders_and_the_rest_follows(visit: Visit, service: Running) -> None:
    std = service.service.bundle(FASHION).latents.std
    names = [f"z{i}" for i in np.argsort(-std, kind="stable")]
    assert visit.page.locator(".latent .name").all_inner_texts() == names[:12]
    visit.find("more").click()
    assert visit.page.locator(".latent .name").all_inner_texts() == names[:24]
    expect(visit.page.locator(".latent input").nth(12)).to_be_focused()
    while visit.find("more").is_visible():
        visit.find("more").click()
    assert visit.page.locator(".latent .name").all_inner_texts() == names


def test_a_latent_shows_its_mean_and_standard_deviation(visit: Visit, asked: Asked, service: Running) -> None:
    mu, logvar = asked.images("/encode", boot()[None], model=FASHION)[0]
    index = int(np.argmax(service.service.bundle(FASHION).latents.std))
    shown = f"{mu[index]:.2f} ± {math.exp(logvar[index] / 2):.2f}".replace("-", "−")
    expect(visit.page.locator(".latent .number").first).to_have_text(shown)
    expect(visit.page.locator(".latent input").first).to_have_attribute("aria-label", f"Latent {index}")
    expect(visit.page.locator(".latent input").first).to_have_attribute("aria-valuetext", shown)


def test_the_decoded_image_follows_a_slider_and_goes_back(visit: Visit, asked: Asked) -> None:
    mu = asked.mu(boot())
    slider = visit.page.locator(".latent input").nth(2)
    index = int(str(slider.get_attribute("aria-label")).removeprefix("Latent "))
    slider.focus()
    before = visit.image("decoded")
    visit.after("decoded", lambda: visit.page.keyboard.press("End"))
    z = mu.copy()
    z[index] = float(slider.input_value())
    assert close(grey(visit.image("decoded")), asked.decoded(z))
    expect(visit.find("decoded-caption")).to_have_text("1 moved")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("encoded as"))
    visit.after("decoded", lambda: visit.find("reset").click())
    np.testing.assert_array_equal(visit.image("decoded"), before)
    expect(visit.find("decoded-caption")).to_have_text("as encoded")
    expect(visit.find("reset")).to_be_disabled()


def test_a_slider_ends_where_the_hand_ended_however_fast_it_was(visit: Visit, asked: Asked) -> None:
    slider = visit.page.locator(".latent input").first
    visit.page.evaluate(
        """() => {
            window.steps = [];
            new PerformanceObserver((list) => {
                window.steps.push(...list.getEntriesByName('slider step').map((entry) => entry.duration));
            }).observe({ type: 'measure' });
        }"""
    )
    before = len(visit.requests)
    slider.evaluate(
        """(e) => { for (let i = 0; i <= 200; i++) {
            e.value = Number(e.min) + i / 200 * (e.max - e.min);
            e.dispatchEvent(new Event('input', {bubbles: true}));
        } }"""
    )
    index = int(str(slider.get_attribute("aria-label")).removeprefix("Latent "))
    z = asked.mu(boot())
    z[index] = float(slider.input_value())
    expected = asked.decoded(z)
    visit.until("() => window.steps.length === 2")
    assert close(grey(visit.image("decoded")), expected)
    assert all(step > 0 for step in visit.page.evaluate("steps"))
    assert len(visit.requests) - before == 2  # the first, and the newest when that was answered


# ---- the walk


def slerp(one: np.ndarray, other: np.ndarray, t: float) -> np.ndarray:
    """Shoemake's formula on directions, lengths in between."""
    lengths = [np.linalg.norm(z) for z in (one, other)]
    a, b = one / lengths[0], other / lengths[1]
    angle = np.arccos(a @ b)
    direction = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return ((1 - t) * lengths[0] + t * lengths[1]) * direction


def test_a_walk_goes_from_a_to_b_on_a_sphere_without_further_requests(visit: Visit, asked: Asked) -> None:
    ends = [asked.mu(grey(visit.image(f"walk-{end}"))).astype(float) for end in ("from", "to")]
    before = len(visit.requests)
    for place in (0, 7, 31):
        visit.set("place", place)
        assert close(grey(visit.image("walk-image")), asked.decoded(slerp(*ends, place / 31))), place
    expect(visit.find("place-shown")).to_have_text("100 %")
    assert len(visit.requests) == before


def test_the_ends_of_a_walk_are_taken_from_the_image(visit: Visit, asked: Asked) -> None:
    visit.after("decoded", lambda: visit.page.locator("#examples button").nth(3).click())
    chosen = visit.image("drawing")
    visit.after("walk-image", lambda: visit.find("take-to").click())
    np.testing.assert_array_equal(visit.image("walk-to"), chosen)
    visit.set("place", 31)
    assert close(grey(visit.image("walk-image")), asked.decoded(asked.mu(grey(chosen))))


def test_a_walk_to_the_same_image_stays_there(visit: Visit, asked: Asked) -> None:
    visit.after("walk-image", lambda: visit.find("take-to").click())
    assert close(grey(visit.image("walk-image")), asked.decoded(asked.mu(boot())))


def test_a_walk_is_played_and_paused(visit: Visit) -> None:
    play = visit.find("play")
    play.click()
    expect(play).to_have_text("Pause")
    visit.until("() => document.getElementById('place').value !== '16'")
    play.click()
    expect(play).to_have_text("Play")
    place = visit.find("place").input_value()
    visit.page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    assert visit.find("place").input_value() == place


# ---- samples


def samples(visit: Visit) -> np.ndarray:
    """Return every sample that is shown, (N, H, W, 3)."""
    urls: list[str] = visit.page.eval_on_selector_all("#samples canvas", "all => all.map(c => c.toDataURL())")
    return np.stack([picture(url) for url in urls])


def after_sampling(visit: Visit, act: Callable[[], object]) -> np.ndarray:
    """Act, wait until other samples are shown, and return them."""
    first = "document.querySelector('#samples canvas').toDataURL()"
    before: str = visit.page.evaluate(first)
    act()
    visit.until(f"before => {first} !== before", before)
    return samples(visit)


def test_samples_are_the_services(visit: Visit, asked: Asked) -> None:
    expected = asked.samples(n=30, seed=7)
    assert close(samples(visit)[..., :1], expected)


@pytest.mark.parametrize(("id", "value"), [("seed", 12), ("temperature", 0.5), ("prior", "standard")])
def test_samples_follow_seed_temperature_and_prior_and_come_back(
    visit: Visit, asked: Asked, id: str, value: float | str
) -> None:
    def choose(value: object) -> None:
        match id:
            case "prior":
                visit.find(id).select_option(str(value))
            case "seed":
                visit.find(id).fill(str(value))
            case _:
                visit.set(id, float(str(value)))

    first = samples(visit)
    was = visit.find(id).input_value()
    other = after_sampling(visit, lambda: choose(value))
    assert close(other[..., :1], asked.samples(**{"n": 30, "seed": 7, id: value}))
    np.testing.assert_array_equal(after_sampling(visit, lambda: choose(was)), first)


def test_a_new_seed_is_told_so_that_it_can_be_used_again(visit: Visit, asked: Asked) -> None:
    found = after_sampling(visit, visit.find("reseed").click)
    assert close(found[..., :1], asked.samples(n=30, seed=visit.find("seed").input_value()))


def test_a_seed_that_is_none_is_refused_in_words(visit: Visit) -> None:
    visit.find("seed").fill("-1")
    expect(visit.find("samples-status")).to_have_text("The seed is a whole number from 0 to 4294967295.")
    visit.find("seed").fill("1")
    expect(visit.find("samples-status")).to_be_empty()


def test_a_sample_becomes_the_image(visit: Visit) -> None:
    fifth = samples(visit)[4]
    visit.after(
        "reconstruction", lambda: visit.page.get_by_role("button", name="Sample 5", exact=True).click()
    )
    np.testing.assert_array_equal(visit.image("drawing"), fifth)


# ---- compression


@pytest.mark.parametrize("model", [FASHION, COLOUR])
def test_sizes_without_loss_stand_beside_those_of_other_formats(
    visit: Visit, asked: Asked, service: Running, model: str
) -> None:
    levels = math.prod(service.service.bundle(model).config.input.shape)
    if model != FASHION:
        visit.find("model").select_option(model)
    expect(visit.page.locator(".bar").last).to_contain_text(f"{levels} bytes")
    image = visit.image("drawing")[..., : 1 if model == FASHION else 3]
    rows = (row.split("\n") for row in visit.page.locator(".bar").all_inner_texts())
    assert dict(map(tuple, rows)) == {
        "vaeserve": f"{len(asked.payload(image, model=model))} bytes",
        "PNG": f"{len(encode_png(image, is_smallest=True))} bytes",
        "WebP": f"{len(encode_webp(image))} bytes",
        "raw pixels": f"{levels} bytes",
    }


@pytest.mark.parametrize("quality", [1, 50, 99])
def test_the_quality_slider_shows_what_it_costs_and_what_is_left(
    visit: Visit, asked: Asked, quality: int
) -> None:
    payload = asked.payload(boot(), model=FASHION, quality=quality)
    back = asked.decompressed(payload)
    error = float(np.square(boot().astype(float) - back).mean())
    figure = f"{10 * math.log10(255**2 / error):.1f} dB"
    visit.set("quality", quality)
    expect(visit.find("quality-shown")).to_have_text(str(quality))
    expect(visit.find("lossy-figures")).to_have_text(f"{len(payload)} bytes, {figure}")
    np.testing.assert_array_equal(grey(visit.image("lossy")), back)
    np.testing.assert_array_equal(grey(visit.image("original")), boot())


# ---- other models


def test_another_model_brings_its_own_images_latents_and_samples(visit: Visit, asked: Asked) -> None:
    visit.after("decoded", lambda: visit.find("model").select_option(COLOUR))
    visit.until("() => document.querySelector('#samples canvas').width === 32")
    expect(visit.find("latents-hint")).to_have_text(re.compile("^12 of 192"))
    expect(visit.find("about")).to_have_text(re.compile("^32 × 32, colour · 192 latents"))
    image = visit.image("drawing")
    assert close(visit.image("reconstruction"), asked.decoded(asked.mu(image, COLOUR), COLOUR))
    assert close(samples(visit), asked.samples(n=30, seed=7, model=COLOUR))


def test_a_model_without_examples_quantiles_or_codec_says_so_where_it_matters(
    visit: Visit, asked: Asked
) -> None:
    visit.is_refused = True
    visit.find("model").select_option(SMALL)
    expect(visit.find("examples-title")).to_have_text("Samples of the model")
    expect(visit.find("percentile")).to_have_text("This bundle does not say how its test images are spread.")
    expect(visit.find("verdict")).to_be_hidden()
    expect(visit.page.locator(".plot")).to_have_count(0)
    expect(visit.find("lossy-status")).to_have_class("status error")
    expect(visit.find("lossy-status")).to_contain_text("codec")
    expect(visit.page.locator(".latent")).to_have_count(4)
    expect(visit.find("more")).to_be_hidden()
    assert close(grey(visit.image("drawing")), asked.samples(n=1, seed=1, model=SMALL)[0])


def test_the_last_of_two_models_that_are_chosen_in_haste_is_shown(visit: Visit) -> None:
    def late(route: Route) -> None:
        if not held:
            held.append(route)
        else:
            route.continue_()

    held: list[Route] = []
    visit.page.route(f"**/models/{COLOUR}/latents", late)
    visit.find("model").select_option(COLOUR)
    visit.after("drawing", lambda: visit.find("model").select_option(SMALL))
    visit.is_refused = True
    with visit.page.expect_response(f"**/models/{COLOUR}/latents"):
        held[0].continue_()
    expect(visit.page.locator(".latent")).to_have_count(4)
    assert visit.image("drawing").shape == (8, 8, 3)


# ---- faults


def test_a_problem_is_told_where_it_arose_and_goes_with_the_next_answer(visit: Visit) -> None:
    visit.is_refused = True
    document = {"detail": "8200 images would be queued; the limit is 8192"}
    visit.page.route("**/score*", lambda route: route.fulfill(status=429, json=document), times=1)
    visit.find("clear").click()
    expect(visit.find("score-status")).to_have_text(document["detail"])
    expect(visit.page.locator(".error")).to_have_count(1)
    visit.drop(BOOT)
    expect(visit.find("score-status")).to_be_empty()
    expect(visit.find("bits")).to_have_text("2.14")


def test_a_service_that_is_gone_is_told(visit: Visit) -> None:
    visit.is_refused = True
    visit.page.route("**/sample*", lambda route: route.abort())
    visit.find("seed").fill("8")
    expect(visit.find("samples-status")).to_have_text("the service does not answer")


# ---- for everyone


def test_everything_can_be_reached_and_done_by_keyboard(visit: Visit) -> None:
    keyboard = visit.page.keyboard

    def focused() -> str:
        found: str = visit.page.evaluate(
            "() => (({id, ariaLabel, className}) => id || ariaLabel || className)(document.activeElement)"
        )
        return found

    stops = []
    for _ in range(60):
        keyboard.press("Tab")
        if (stop := focused()) == "skip" and stops:
            break
        stops.append(stop)
    sliders = [stop for stop in stops if stop.startswith("Latent ")]
    assert len(sliders) == 12
    assert [stop for stop in stops if stop not in sliders and stop] == [
        *("skip", "model"),
        *(("docs",) if "docs" in stops else ()),
        *("file", "clear", "pen", "eraser", "fit", "Example 1", "more"),
        *("take-from", "take-to", "play", "place"),
        *("seed", "reseed", "temperature", "prior", "Sample 1", "quality"),
    ]

    visit.page.get_by_role("button", name="Example 1", exact=True).focus()
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    assert focused() == "Example 3"
    keyboard.press("End")
    assert focused() == "Example 8"
    keyboard.press("ArrowUp")
    assert focused() == "Example 4"
    visit.after("decoded", lambda: keyboard.press("Enter"))
    visit.page.locator(".latent input").first.focus()
    visit.after("decoded", lambda: keyboard.press("ArrowRight"))
    visit.find("place").focus()
    visit.after("walk-image", lambda: keyboard.press("Home"))
    visit.find("play").focus()
    keyboard.press("Space")
    expect(visit.find("play")).to_have_text("Pause")


def test_a_file_is_chosen_by_keyboard(visit: Visit) -> None:
    visit.page.on("filechooser", lambda chooser: None)  # from now on, so that it is listened for in time
    visit.after("decoded", lambda: visit.find("clear").press("Enter"))
    visit.find("file").focus()
    with visit.page.expect_file_chooser() as chooser:
        visit.page.keyboard.press("Enter")
    visit.after("decoded", lambda: chooser.value.set_files(BOOT))
    np.testing.assert_array_equal(grey(visit.image("drawing")), boot())


def test_the_first_stop_skips_to_the_results(visit: Visit) -> None:
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    expect(visit.find("content")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_to_blame(visitors: Visitors, scheme: str, width: int) -> None:
    visit = visitors(width, 800, scheme).open()
    visit.is_refused = True
    assert violations(visit) == []
    visit.page.locator(".latent input").first.focus()
    visit.after("decoded", lambda: visit.page.keyboard.press("End"))
    visit.find("clear").click()
    visit.find("seed").fill("-1")
    visit.page.route(
        "**/score*", lambda route: route.fulfill(status=429, json={"detail": "the queue is full"})
    )
    visit.drop(BOOT)
    expect(visit.find("score-status")).to_have_text("the queue is full")
    assert violations(visit) == []
    visit.after("drawing", lambda: visit.find("model").select_option(COLOUR))
    assert violations(visit) == []


def violations(visit: Visit) -> list[str]:
    found = Axe().run(visit.page).response["violations"]
    return [f"{fault['id']}: {[node['html'] for node in fault['nodes']]}" for fault in found]


@pytest.mark.parametrize("width", [360, 600, 768, 1024, 1280, 1600])
def test_nothing_is_wider_than_the_screen(visitors: Visitors, width: int) -> None:
    visit = visitors(width).open()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    wide = """width => [...document.querySelectorAll('body *:not(.skip)')].filter((e) => {
        const box = e.getBoundingClientRect();
        return box.width && (box.right > width + 0.5 || box.left < -0.5);
    }).map((e) => e.outerHTML.slice(0, 80))"""
    assert visit.page.evaluate(wide, width) == []


def test_the_colour_scheme_is_the_systems(visitors: Visitors) -> None:
    backgrounds = [
        visitors(scheme=scheme).open().page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert backgrounds == ["rgb(245, 246, 249)", "rgb(14, 16, 20)"]


def test_less_motion_is_granted(visitors: Visitors) -> None:
    visit = visitors()
    visit.page.emulate_media(reduced_motion="reduce")
    visit.page.route("**/models", lambda route: None)  # so that it goes on loading
    visit.page.goto(visit.address)
    animation = "getComputedStyle(document.querySelector('.frame'), '::after').animationName"
    assert visit.page.evaluate(animation) == "none"
    visit.page.emulate_media(reduced_motion="no-preference")
    assert visit.page.evaluate(animation) == "shimmer"
