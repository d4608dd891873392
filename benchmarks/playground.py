"""`python -m benchmarks.playground`: how soon the decoded image follows a slider, in headless Chromium.

A slider of each bundle is dragged back and forth, an event every few milliseconds. A step lasts from the
input event to the moment after the paint of its image; steps that a newer one overtakes are not painted.
Writes playground.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from benchmarks.serving.machine import describe_run
from benchmarks.serving.processes import BenchmarkError, free_port, started, wait_until_ready

BUNDLES = ("fashion-mnist", "mnist", "cifar10")
RESULTS = Path(__file__).with_name("playground.json")
EVENT_MILLISECONDS = 8  # between two input events, as of a mouse of 125 Hz
# The page measures each step by the name of "slider step", in milliseconds.
DRAG = """([events, wait]) => new Promise((done) => {
    const steps = [];
    const observer = new PerformanceObserver((list) => {
        steps.push(...list.getEntriesByName('slider step').map((entry) => entry.duration));
    });
    observer.observe({ type: 'measure' });
    const slider = document.querySelector('.latent input');
    const [min, max] = [Number(slider.min), Number(slider.max)];
    let count = 0;
    const timer = setInterval(() => {
        slider.value = min + (max - min) * (0.5 + 0.5 * Math.sin(count / 20));
        slider.dispatchEvent(new Event('input', { bubbles: true }));
        if (++count === events) {
            clearInterval(timer);
            setTimeout(() => {
                observer.disconnect();
                done(steps);
            }, 1000);
        }
    }, wait);
})"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every bundle, write the figures and print them; return 1 where that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.playground", description=__doc__)
    parser.add_argument("--events", type=int, default=1000, help="of the slider, in each bundle")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    facts: dict[str, Any] = describe_run("benchmarks.playground", arguments, "playwright")
    try:
        facts["versions"]["chromium"], rows = measure(options.events)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print("{bundle}: {painted} steps, median {p50_ms:.1f} ms, p95 {p95_ms:.1f} ms".format_map(row))
    return 0


def measure(events: int) -> tuple[str, list[dict[str, Any]]]:
    """Return Chromium's version and a row for each bundle."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise BenchmarkError("no chromium on this machine; on Debian, `apt-get install chromium` brings it")
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    settings = {
        "VAE_PORT": str(port),
        "VAE_MODELS": ",".join(BUNDLES),
        "VAE_DEVICE": "cpu",
        "VAE_THREADS": "1",
    }
    address = f"http://127.0.0.1:{port}"
    with (
        TemporaryDirectory() as folder,
        started(
            [sys.executable, "-m", "app"], log=Path(folder, "app.log"), environment=inherited | settings
        ) as process,
        sync_playwright() as playwright,
    ):
        wait_until_ready(process, f"{address}/health/ready")
        browser = playwright.chromium.launch(executable_path=chromium)
        rows = [{"bundle": bundle, **dragged(browser, address, bundle, events)} for bundle in BUNDLES]
        return browser.version, rows


def dragged(browser: Browser, address: str, bundle: str, events: int) -> dict[str, float]:
    """Return how many steps of a drag were painted, and milliseconds of a step."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector('[data-state="ready"]')
    page.select_option("#model", bundle)
    page.locator("#sliders").scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    page.evaluate(DRAG, [events // 10, EVENT_MILLISECONDS])  # what is compiled or filled at first, is
    steps: list[float] = page.evaluate(DRAG, [events, EVENT_MILLISECONDS])
    page.close()
    if not steps:
        raise BenchmarkError(f"{bundle}: no step was painted")
    p95 = float(np.percentile(steps, 95))
    return {"events": events, "painted": len(steps), "p50_ms": statistics.median(steps), "p95_ms": p95}


if __name__ == "__main__":
    sys.exit(main())
