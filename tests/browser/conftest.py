"""A browser on the playground of a real service, and what every visit must keep to."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, sync_playwright

from models.bundle import SHIPPED
from tests.browser.asking import Asked, picture
from tests.bundles import save_small_bundle, small_config
from tests.servers import Running, running

CHROMIUM = shutil.which("chromium")
REFUSED = "Failed to load resource"  # what Chromium itself says of every answer that is a problem
REST_SECONDS = 0.5  # after an answer, in which the page would ask on
REST_DEADLINE_SECONDS = 20.0
# What a canvas shows, or null where that is nothing.
SHOWN = """const shown = (id) => {
    const canvas = document.getElementById(id);
    const blank = Object.assign(canvas.cloneNode(), { width: canvas.width, height: canvas.height });
    return canvas.toDataURL() === blank.toDataURL() ? null : canvas.toDataURL();
};"""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The default bundle, one of colour, and one with no codec, no examples and no quantiles."""
    small = save_small_bundle(tmp_path_factory.mktemp("bundles") / "small", small_config())
    with running(SHIPPED, models=("fashion-mnist", "cifar10", str(small)), max_batch=32) as server:
        yield server


@pytest.fixture
def asked(service: Running) -> Asked:
    return Asked(service.client)


@pytest.fixture(scope="module")  # not longer: while it runs, this thread has an event loop
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; on Debian, `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Visit:
    """A page, and all that was amiss on it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._under_way: set[Request] = set()
        self._last_end = time.monotonic()
        self.is_refused = False  # whether the service may answer problems
        page.set_default_timeout(20_000)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        page.on("request", self._note)
        page.on("requestfinished", self._end)
        page.on("requestfailed", self._end)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.is_refused and REFUSED in message.text):
            self.faults.append(f"{message.type}: {message.text}")

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)
        self._under_way.add(request)
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.faults.append(f"a request to {request.url}")

    def _end(self, request: Request) -> None:
        self._under_way.discard(request)
        self._last_end = time.monotonic()

    def open(self) -> Visit:
        """Open the page and wait until all of it is there."""
        self.page.goto(self.address)
        self.page.wait_for_selector('[data-state="ready"]')
        self.page.wait_for_selector("#lossy-figures:has-text('dB')")
        self.page.wait_for_selector("#samples button")
        self.page.wait_for_selector("#strip canvas")
        self.until(f"() => {{ {SHOWN} return shown('decoded'); }}")
        return self

    def find(self, id: str) -> Locator:
        return self.page.locator(f"#{id}")

    def image(self, id: str) -> np.ndarray:
        """Return what a canvas shows, uint8 (H, W, 3)."""
        url: str = self.page.evaluate("id => document.getElementById(id).toDataURL()", id)
        return picture(url)

    def samples(self) -> np.ndarray:
        """Return every sample that is shown, (N, H, W, 3)."""
        read = "all => all.map((canvas) => canvas.toDataURL())"
        urls: list[str] = self.page.eval_on_selector_all("#samples canvas", read)
        return np.stack([picture(url) for url in urls])

    def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns true."""
        self.page.wait_for_function(condition, arg=argument)

    def rest(self) -> None:
        """Wait until the page asks for nothing and dims nothing that an answer would replace."""
        deadline = time.monotonic() + REST_DEADLINE_SECONDS
        while self._under_way or time.monotonic() - self._last_end < REST_SECONDS:
            assert time.monotonic() < deadline, [request.url for request in self._under_way]
            self.page.wait_for_timeout(50)
        self.until("() => document.querySelector('[aria-busy=true]') === null")

    def after(self, id: str, act: Any) -> np.ndarray:
        """Act, wait until a canvas shows another image, and return that."""
        before: str = self.page.evaluate(f"id => {{ {SHOWN} return shown(id); }}", id)
        act()
        self.until(
            f"([id, before]) => {{ {SHOWN} const now = shown(id); return now && now !== before; }}",
            [id, before],
        )
        return self.image(id)

    def is_blank(self, id: str) -> bool:
        """Whether a canvas shows no image at all."""
        return bool(self.page.evaluate(f"id => {{ {SHOWN} return shown(id) === null; }}", id))

    def set(self, id: str, value: float) -> None:
        """Move a slider as a hand would, in one step."""
        self.find(id).evaluate(
            "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
        )

    def drop(self, path: Path, type: str = "image/png") -> None:
        """Drop a file on the image."""
        content = base64.b64encode(path.read_bytes()).decode()
        transfer = self.page.evaluate_handle(
            """([content, name, type]) => {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, { type }));
                return transfer;
            }""",
            [content, path.name, type],
        )
        for event in ("dragover", "drop"):
            self.page.dispatch_event("#drop", event, {"dataTransfer": transfer})


class Visitors:
    """Opens pages of any size and colour scheme."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.visits: list[Visit] = []
        self._browser, self._address = browser, address

    def __call__(self, width: int = 1280, height: int = 900, scheme: Any = "light") -> Visit:
        page = self._browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.visits.append(Visit(page, self._address))
        return self.visits[-1]


@pytest.fixture
def visitors(browser: Browser, service: Running) -> Iterator[Visitors]:
    """Give pages, on none of which anything may be amiss in the end."""
    visitors = Visitors(browser, str(service.client.base_url).rstrip("/") + "/")
    yield visitors
    for visit in visitors.visits:
        visit.page.close()
    assert [fault for visit in visitors.visits for fault in visit.faults] == []


@pytest.fixture
def visit(visitors: Visitors) -> Visit:
    return visitors().open()
