"""The playground when the service is slow, refuses, or answers what is no longer asked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Request, Route, expect

from tests.browser.asking import BOOT, COLOUR, FASHION, boot, grey
from tests.browser.conftest import Visit, Visitors

DETAIL = "8200 images would be queued; the limit is 8192"
PATHS = {
    "encode": re.compile(r"/encode\?"),
    "reconstruct": re.compile(r"/reconstruct\?"),
    "score": re.compile(r"/score\?"),
    "lossless": re.compile(r"/compress\?.*compare="),
    "lossy": re.compile(r"/compress\?.*quality="),
    "sample": re.compile(r"/sample\?.*n=30"),
}


def refuse(visit: Visit, path: Any, times: int | None = None, **headers: str) -> None:
    visit.is_refused = True
    visit.page.route(
        path, lambda route: route.fulfill(status=429, json={"detail": DETAIL}, headers=headers), times=times
    )


def hold(visit: Visit, path: Any) -> list[Route]:
    """Return the requests to a path, which stay unanswered until they are let go."""
    held: list[Route] = []
    visit.page.route(path, lambda route: held.append(route))
    return held


def ask(visit: Visit, asked: str) -> None:
    """Do what makes the page ask."""
    if asked == "sample":
        visit.find("seed").fill("8")
    else:
        visit.page.locator("#examples button").nth(2).click()


def expect_nothing_of(visit: Visit, asked: str) -> None:
    """Expect no result that a kind of request has brought."""
    page = visit.page
    match asked:
        case "encode":
            for control in (*page.locator(".latent input").all(), *map(visit.find, ("reset", "take-from"))):
                expect(control).to_be_disabled()
            expect(visit.find("take-to")).to_be_disabled()
            assert {*page.locator(".latent .number").all_inner_texts()} == {"–"}
            assert page.locator(".posterior:visible").count() == 0
            assert visit.is_blank("decoded")
        case "reconstruct":
            expect(visit.find("reconstruction-figures")).to_be_empty()
            assert visit.is_blank("reconstruction")
            assert visit.is_blank("difference")
        case "score":
            expect(visit.find("bits")).to_have_text("–")
            expect(visit.find("verdict")).to_be_hidden()
            for id in ("percentile", "distribution", "terms", "score-hint"):
                expect(visit.find(id)).to_be_empty()
        case "lossless":
            expect(visit.find("sizes")).to_be_empty()
        case "lossy":
            expect(visit.find("lossy-figures")).to_have_text("–")
            assert visit.is_blank("lossy")
        case "sample":
            expect(page.locator("#samples canvas")).to_have_count(0)


# ---- the start


@pytest.mark.parametrize("path", [f"**/models/{FASHION}/latents", "**/examples-*.png"])
def test_a_start_that_is_refused_is_tried_again(visitors: Visitors, path: str) -> None:
    visit = visitors()
    refuse(visit, path, times=1, **{"Retry-After": "1"})
    visit.page.goto(visit.address)
    expect(visit.find("service-status")).to_have_text(f"{DETAIL}; trying again …")
    assert visit.find("layout").get_attribute("inert") is not None
    visit.page.wait_for_selector('[data-state="ready"]')
    expect(visit.find("service-status")).to_be_empty()
    expect(visit.find("bits")).to_have_text("2.14")


def test_another_model_can_be_chosen_while_the_first_is_refused(visitors: Visitors) -> None:
    visit = visitors()
    refuse(visit, f"**/models/{FASHION}/latents")
    visit.page.goto(visit.address)
    expect(visit.find("service-status")).to_have_text(f"{DETAIL}; trying again …")
    visit.find("model").select_option(COLOUR)
    visit.page.wait_for_selector('[data-state="ready"]')
    expect(visit.find("service-status")).to_be_empty()
    assert visit.image("drawing").shape == (32, 32, 3)


def test_a_refused_walk_is_told_there_and_can_be_asked_for_again(visitors: Visitors) -> None:
    visit = visitors()
    refuse(visit, PATHS["encode"])
    visit.page.goto(visit.address)
    expect(visit.find("walk-status")).to_have_text(DETAIL)
    expect(visit.find("service-status")).to_be_empty()
    expect(visit.find("play")).to_be_disabled()
    visit.page.unroute(PATHS["encode"])
    visit.page.locator("#examples button").nth(2).click()
    visit.find("take-from").click()
    expect(visit.find("play")).to_be_enabled()
    expect(visit.find("walk-status")).to_be_empty()
    expect(visit.page.locator("#strip canvas")).to_have_count(11)


# ---- refusals


@pytest.mark.parametrize("asked", PATHS)
def test_a_refusal_leaves_no_result_of_the_last_image(visit: Visit, asked: str) -> None:
    refuse(visit, PATHS[asked])
    ask(visit, asked)
    expect(visit.page.locator(".error")).to_have_text(DETAIL)
    expect_nothing_of(visit, asked)


@pytest.mark.parametrize(("refused", "answered"), [("encode", "reconstruction"), ("reconstruct", "decoded")])
def test_latents_and_reconstruction_do_without_each_other(visit: Visit, refused: str, answered: str) -> None:
    refuse(visit, PATHS[refused])
    visit.after(answered, lambda: ask(visit, refused))
    expect(visit.page.locator(".error")).to_have_count(1)


def test_a_refused_walk_leaves_nothing_to_play(visit: Visit) -> None:
    refuse(visit, "**/decode*", times=1)
    visit.find("take-to").click()
    expect(visit.find("walk-status")).to_have_text(DETAIL)
    expect(visit.page.locator("#strip canvas")).to_have_count(0)
    expect(visit.find("play")).to_be_disabled()
    assert visit.is_blank("walk-image")
    visit.find("take-to").click()
    expect(visit.find("play")).to_be_enabled()


def test_a_refusal_that_is_soon_over_is_asked_once_more(visit: Visit) -> None:
    refuse(visit, PATHS["score"], times=1, **{"Retry-After": "1"})
    visit.find("clear").click()
    expect(visit.find("score-status")).to_have_text(f"{DETAIL}; trying again …")
    expect(visit.find("verdict")).to_have_text("Unusually plain")
    expect(visit.find("score-status")).to_be_empty()
    refuse(visit, PATHS["score"], times=2, **{"Retry-After": "1"})
    visit.drop(BOOT)
    expect(visit.find("score-status")).to_have_text(DETAIL)


def test_a_refusal_that_lasts_is_told_at_once(visit: Visit) -> None:
    refuse(visit, PATHS["score"], times=1, **{"Retry-After": "11"})
    visit.find("clear").click()
    expect(visit.find("score-status")).to_have_text(DETAIL)


# ---- slow answers


def test_a_part_that_waits_says_so(visit: Visit) -> None:
    held = hold(visit, PATHS["score"])
    part = visit.page.locator(".part", has=visit.find("score-title"))
    assert part.get_attribute("aria-busy") != "true"
    visit.find("clear").click()
    expect(part).to_have_attribute("aria-busy", "true")
    expect(visit.find("terms")).to_have_css("opacity", "0.4")
    visit.until("() => document.querySelectorAll('.part[aria-busy=true]').length === 1")
    held[0].continue_()
    expect(part).to_have_attribute("aria-busy", "false")
    expect(visit.find("terms")).to_have_css("opacity", "1")


def test_an_image_is_an_end_of_a_walk_when_it_itself_is_encoded(visit: Visit) -> None:
    held = hold(visit, PATHS["encode"])
    visit.page.locator("#examples button").nth(2).click()
    for end in ("from", "to"):
        expect(visit.find(f"take-{end}")).to_be_disabled()
    visit.page.locator("#examples button").nth(3).click()
    with visit.page.expect_request(PATHS["encode"]):
        held[0].continue_()
    expect(visit.find("take-to")).to_be_disabled()
    held[1].continue_()
    visit.find("take-to").click()
    np.testing.assert_array_equal(visit.image("walk-to"), visit.image("drawing"))


# ---- from model to model


def test_nothing_of_the_last_model_stays_under_the_name_of_the_next(visit: Visit) -> None:
    for path in PATHS.values():
        visit.page.route(path, lambda route: None)  # so that it is never answered
    visit.find("model").select_option(COLOUR)
    expect(visit.find("examples-title")).to_have_text("Test images")
    visit.until("() => document.getElementById('drawing').width === 32")
    for asked in PATHS:
        expect_nothing_of(visit, asked)
    expect(visit.page.locator("#strip canvas")).to_have_count(0)
    assert visit.is_blank("walk-image")
    expect(visit.find("play")).to_be_disabled()
    visit.find("more").click()
    expect_nothing_of(visit, "encode")


@pytest.mark.parametrize("asked", PATHS)
def test_an_answer_for_the_last_model_is_not_shown_under_the_next(visit: Visit, asked: str) -> None:
    held = hold(visit, PATHS[asked])
    with visit.page.expect_request(PATHS[asked]):
        ask(visit, asked)
    visit.find("model").select_option(COLOUR)
    visit.until("() => document.getElementById('drawing').width === 32")
    with visit.page.expect_request(PATHS[asked]) as request:  # comes when the answer before was dealt with
        held[0].continue_()
    assert f"model={COLOUR}" in request.value.url
    expect_nothing_of(visit, asked)


def test_latents_of_the_last_model_are_not_shown_decoded_under_the_next(visit: Visit) -> None:
    def is_one(request: Request) -> bool:
        return "/decode?" in request.url and len(request.post_data_buffer or b"") < 2000  # a walk has more

    held = hold(visit, "**/decode*")
    with visit.page.expect_request(is_one):
        visit.page.locator(".latent input").first.press("End")
    visit.find("model").select_option(COLOUR)
    visit.until("() => document.getElementById('drawing').width === 32")
    expect(visit.page.locator(".latent input").first).to_be_enabled()
    with visit.page.expect_request(is_one):
        held[0].continue_()
    assert visit.is_blank("decoded")


def test_a_walk_of_the_last_model_is_not_shown_under_the_next(visit: Visit) -> None:
    held = hold(visit, "**/decode*")
    with visit.page.expect_request("**/decode*"):
        visit.find("take-to").click()
    visit.find("model").select_option(COLOUR)
    visit.until("() => document.getElementById('drawing').width === 32")
    expect(visit.find("take-to")).to_be_enabled()
    hold(visit, PATHS["encode"])
    with visit.page.expect_request(PATHS["encode"]):
        held[0].continue_()
    expect(visit.page.locator("#strip canvas")).to_have_count(0)
    assert visit.is_blank("walk-image")


def test_a_model_that_takes_long_is_waited_for_aloud(visit: Visit) -> None:
    held = hold(visit, f"**/models/{COLOUR}/latents")
    visit.find("model").select_option(COLOUR)
    expect(visit.find("about")).to_have_text("loading cifar10 …")
    expect(visit.find("layout")).to_have_attribute("aria-busy", "true")
    expect(visit.find("terms")).to_have_css("opacity", "0.4")
    held[0].continue_()
    expect(visit.find("layout")).to_have_attribute("aria-busy", "false")
    expect(visit.find("about")).to_have_text(re.compile("^32 × 32, colour"))


@pytest.mark.parametrize("path", [f"**/models/{COLOUR}/latents", "**/examples-*.png"])
def test_a_model_that_is_refused_leaves_the_last_one_and_its_name(visit: Visit, path: str) -> None:
    refuse(visit, path)
    about = visit.find("about").inner_text()
    visit.find("model").select_option(COLOUR)
    words = f"cifar10 cannot be shown: {DETAIL}; this is still fashion-mnist."
    expect(visit.find("service-status")).to_have_text(words)
    expect(visit.find("model")).to_have_value(FASHION)
    expect(visit.find("about")).to_have_text(about)
    np.testing.assert_array_equal(grey(visit.image("drawing")), boot())
    visit.page.unroute(path)
    visit.find("model").select_option(COLOUR)
    expect(visit.find("about")).to_have_text(re.compile("^32 × 32, colour"))
    expect(visit.find("service-status")).to_be_empty()
