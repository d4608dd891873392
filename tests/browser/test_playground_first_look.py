"""The playground at first sight, with other models, and when something is amiss."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Route, expect

from tests.browser.asking import BOOT, COLOUR, FASHION, SMALL, Asked, boot, close, grey, saved
from tests.browser.conftest import Visit, Visitors
from tests.servers import Running

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


def test_what_was_lost_is_shown_twofold_and_said_to_be(visit: Visit) -> None:
    lost = np.abs(visit.image("drawing").astype(int) - visit.image("reconstruction"))
    np.testing.assert_array_equal(visit.image("difference"), np.minimum(255, 2 * lost))
    expect(visit.page.locator("figure", has=visit.find("difference"))).to_contain_text("what was lost, ×2")


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


# ---- other models


def test_another_model_brings_its_own_images_latents_and_samples(visit: Visit, asked: Asked) -> None:
    visit.after("decoded", lambda: visit.find("model").select_option(COLOUR))
    visit.until("() => document.querySelector('#samples canvas').width === 32")
    expect(visit.find("latents-hint")).to_have_text(re.compile("^12 of 192"))
    expect(visit.find("about")).to_have_text(re.compile("^32 × 32, colour · 192 latents"))
    image = visit.image("drawing")
    assert close(visit.image("reconstruction"), asked.decoded(asked.mu(image, COLOUR), COLOUR))
    assert close(visit.samples(), asked.samples(n=30, seed=7, model=COLOUR))


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
    visit.is_refused = True  # it has no codec for the lossy image
    visit.after("drawing", lambda: visit.find("model").select_option(SMALL))
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
