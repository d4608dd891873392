"""The image of the playground: drawn, dropped, chosen from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.asking import BOOT, COLOUR, boot, grey, saved
from tests.browser.conftest import Visit


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


@pytest.mark.parametrize("act", ["clear", "draw", "choose", "another model"])
def test_what_is_said_of_a_file_goes_with_the_next_image(visit: Visit, tmp_path: Path, act: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    visit.drop(tmp_path / "text.png")
    expect(visit.find("source-status")).to_have_class("status error")
    match act:
        case "clear":
            visit.find("clear").click()
        case "draw":
            visit.find("drawing").click()
        case "choose":
            visit.page.locator("#examples button").nth(1).click()
        case "another model":
            visit.find("model").select_option(COLOUR)
    expect(visit.find("source-status")).to_be_empty()
    expect(visit.find("source-status")).to_have_class("status")


def test_a_second_finger_draws_nothing(visit: Visit) -> None:
    visit.find("clear").click()
    box = visit.find("drawing").bounding_box()
    assert box is not None
    touch = visit.page.context.new_cdp_session(visit.page)

    def put(type: str, *fingers: tuple[int, float, float]) -> None:
        points = [
            {"id": id, "x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
            for id, x, y in fingers
        ]
        touch.send("Input.dispatchTouchEvent", {"type": type, "touchPoints": points})

    def draw() -> None:
        put("touchStart", (0, 0.25, 0.25))
        put("touchStart", (0, 0.25, 0.25), (1, 0.25, 0.75))
        put("touchMove", (0, 0.75, 0.25), (1, 0.75, 0.75))
        put("touchEnd", (0, 0.75, 0.25))
        put("touchEnd")

    visit.after("reconstruction", draw)
    drawn = grey(visit.image("drawing"))[..., 0]
    assert (drawn[6:8, 7:21] == 255).all()
    assert not drawn[10:].any()


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
