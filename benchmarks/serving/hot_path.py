"""`python -m benchmarks.serving.hot_path`: where the time of a small request goes, outside the model.

One image in base64 at a time to /encode, in process, without sockets; the batcher answers at once. The total
is measured without a profiler, and divided among the parts as a profile divides it. Adds to hot_path.json
under a name; an earlier commit is measured by its checkout in PYTHONPATH:

    git worktree add ../before 2482120
    PYTHONPATH=../before python benchmarks/serving/hot_path.py --name before
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import uvloop

from app.batcher import Answer
from app.server import create_app
from app.settings import Settings
from models.bundle import SHIPPED
from models.images import encode_png

RESULTS = Path(__file__).parent / "results" / "hot_path.json"
BUNDLE = "fashion-mnist"
REQUESTS, ROUNDS = 1000, 9
PARTS = {  # by what a function's file has in its path; the first that fits
    "image decoding": ("/PIL/", "/models/images.py", "/base64.py"),
    "FastAPI, Starlette, pydantic": ("/fastapi/", "/starlette/", "/pydantic", "/typing.py", "/inspect.py"),
    "metrics": ("/prometheus_client/",),
    "reading and checking": (
        "/negotiation/requests.py",
        "/negotiation/media.py",
        "/routes/",
        "/app/intake.py",
    ),
    "batcher and event loop": ("/app/service.py", "/app/batcher.py", "/asyncio/"),
    "answer": ("/negotiation/answers.py", "/numpy/"),
}
OTHER = "the rest"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.hot_path", description=__doc__)
    parser.add_argument("--name", default="now", help="under which the figures are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    found = uvloop.run(measure())
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept[options.name] = found
    options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(table(kept))
    sys.stdout.flush()
    os._exit(0)  # the service's threads are not waited for


async def measure() -> dict[str, Any]:
    """Return microseconds a request, in all and by part."""
    app = create_app(Settings(models=(BUNDLE,), threads=1, device="cpu"))
    service = app.state.service
    await service.load()
    latents = np.zeros((1, service.default_config.latent_dim), np.float32)

    async def submit(*_: object) -> Answer:
        return Answer((latents, latents), 0.0, 0.0)

    service.batcher.submit = submit
    image = safetensors.numpy.load_file(SHIPPED / BUNDLE / "golden.safetensors")["levels"][0]
    encoded = base64.b64encode(encode_png(image.transpose(1, 2, 0))).decode()
    body = json.dumps({"images": [encoded]}).encode()

    async def requests() -> float:
        started = time.perf_counter()
        for _ in range(REQUESTS):
            await _request(app, body)
        return (time.perf_counter() - started) / REQUESTS

    await requests()
    total = statistics.median([await requests() for _ in range(ROUNDS)])
    profile = cProfile.Profile()
    profile.enable()
    await requests()
    profile.disable()
    seconds = by_part(pstats.Stats(profile))
    whole = sum(seconds.values())
    parts = {part: 1e6 * total * seconds[part] / whole for part in (*PARTS, OTHER)}
    return {"microseconds": 1e6 * total, "parts": parts}


async def _request(app: Any, body: bytes) -> None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "accept": "application/json",
        "content-length": str(len(body)),
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 200


def by_part(stats: pstats.Stats) -> Counter[str]:
    """Return the seconds of each part; what is written in C counts for who calls it."""
    seconds: Counter[str] = Counter()
    functions: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]
    for (file, _, _), (_, _, own, _, callers) in functions.items():
        if file == "~" and callers:
            for (caller, _, _), (_, _, part, _) in callers.items():
                seconds[_part(caller)] += part
        else:
            seconds[_part(file)] += own
    return seconds


def _part(file: str) -> str:
    return next((part for part, places in PARTS.items() if any(place in file for place in places)), OTHER)


def table(kept: dict[str, Any]) -> str:
    """Return a Markdown table, a name a column."""
    rows = {part: [found["parts"][part] for found in kept.values()] for part in (*PARTS, OTHER)}
    rows["all"] = [found["microseconds"] for found in kept.values()]
    lines = [
        f"| {name} | " + " | ".join(f"{value:.0f}" for value in row) + " |" for name, row in rows.items()
    ]
    return "\n".join(
        ["| µs a request | " + " | ".join(kept) + " |", "| --- |" + " ---: |" * len(kept), *lines]
    )


if __name__ == "__main__":
    sys.exit(main())
