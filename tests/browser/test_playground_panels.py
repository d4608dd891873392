"""Samples and compression in the playground."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import expect

from models.images import encode_png, encode_webp
from tests.browser.asking import COLOUR, FASHION, Asked, boot, close, grey
from tests.browser.conftest import Visit
from tests.servers import Running

# ---- samples


def after_sampling(visit: Visit, act: Callable[[], object]) -> np.ndarray:
    """Act, wait until other samples are shown, and return them."""
    first = "document.querySelector('#samples canvas').toDataURL()"
    before: str = visit.page.evaluate(first)
    act()
    visit.until(f"before => {first} !== before", before)
    return visit.samples()


def test_samples_are_the_services(visit: Visit, asked: Asked) -> None:
    expected = asked.samples(n=30, seed=7)
    assert close(visit.samples()[..., :1], expected)


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

    first = visit.samples()
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
    fifth = visit.samples()[4]
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
