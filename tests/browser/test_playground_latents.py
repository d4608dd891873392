"""Latents under a hand, and the walk between two images."""

from __future__ import annotations

import math
import re

import numpy as np
from playwright.sync_api import expect

from tests.browser.asking import FASHION, Asked, boot, close, grey
from tests.browser.conftest import Visit
from tests.servers import Running

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
