"""The playground by keyboard, on a phone, in the dark, and as axe-core sees it."""

from __future__ import annotations

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from models.images import decode_image
from tests.browser.asking import BOOT, COLOUR, boot, grey
from tests.browser.conftest import Visit, Visitors


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
        *("skip", "model", "api"),
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
    visit.rest()
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


def test_tracks_are_seen_where_the_system_forces_its_colours(visit: Visit) -> None:
    visit.page.emulate_media(forced_colors="active")
    for slider in (visit.find("quality"), visit.page.locator(".track").first):
        pixels = decode_image(slider.screenshot(), 1 << 24).astype(int)
        height, width, _ = pixels.shape
        middle, above = pixels[height // 2, width // 8], pixels[1, width // 8]
        assert np.abs(middle - above).max() > 64
    bars = visit.page.locator(".bar .length").all()
    shares = [(decode_image(bar.screenshot(), 1 << 24)[6].max(axis=1) < 64).mean() for bar in bars]
    assert [round(share, 1) for share in shares] == [0.3, 0.5, 0.4, 1.0]


def test_labels_agree_with_controls_after_going_back(visit: Visit) -> None:
    figures = {"quality": "quality-shown", "temperature": "temperature-shown", "place": "place-shown"}

    def shown() -> list[tuple[str, str]]:
        return [(visit.find(id).input_value(), visit.find(told).inner_text()) for id, told in figures.items()]

    first = shown()
    visit.set("quality", 80)
    visit.set("temperature", 0.5)
    visit.set("place", 3)
    visit.page.goto("about:blank")
    visit.page.go_back()
    visit.page.wait_for_selector("#strip canvas")
    assert shown() == first
