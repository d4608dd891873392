"""`python -m benchmarks.compression.service`: what POST /compress and /decompress take, an image a request.

One request after the other over loopback, to a service of its own; what loses nothing is compared. Needs
`make data`. Writes service.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.compression.__main__ import PACKAGES, test_images
from benchmarks.compression.contenders import Images
from benchmarks.serving.machine import describe_run
from benchmarks.serving.processes import BenchmarkError, free_port, started, wait_until_ready
from models.images import decode_image, encode_png

BUNDLES = ("cifar10", "fashion-mnist", "mnist")
MANNERS = ("effort=best", "effort=fast", "quality=50", "target_bytes=200")
PAYLOAD = "application/vnd.vaeserve.payload"
MAX_PIXELS = 1 << 16
RESULTS = Path(__file__).with_name("service.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every bundle and manner, write the figures and print their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.service", description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="of each test set, from the first")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.compression.service", arguments, *PACKAGES)
    try:
        rows = measure(options.images)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def measure(count: int) -> list[dict[str, Any]]:
    """Return a row for each bundle and manner: milliseconds of both routes."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    settings = {
        "VAE_PORT": str(port),
        "VAE_MODELS": ",".join(BUNDLES),
        "VAE_DEVICE": "cpu",
        "VAE_THREADS": "1",
    }
    server = f"http://127.0.0.1:{port}"
    rows = []
    with (
        TemporaryDirectory() as folder,
        started(
            [sys.executable, "-m", "app"], log=Path(folder, "app.log"), environment=inherited | settings
        ) as process,
        httpx.Client(base_url=server, timeout=60) as client,
    ):
        wait_until_ready(process, f"{server}/health/ready")
        for bundle in BUNDLES:
            images = test_images(bundle, count)
            for manner in MANNERS:
                asked(client, bundle, manner, images[:20])  # what is compiled or filled at first, is
                compress, decompress = asked(client, bundle, manner, images)
                rows.append(
                    {"bundle": bundle, "manner": manner}
                    | {f"compress_{name}": value for name, value in percentiles(compress).items()}
                    | {f"decompress_{name}": value for name, value in percentiles(decompress).items()}
                )
    return rows


def asked(client: httpx.Client, bundle: str, manner: str, images: Images) -> tuple[list[float], list[float]]:
    """Return how many milliseconds each image took to become a payload, and back."""
    compress, decompress = [], []
    for image in images.transpose(0, 2, 3, 1):
        query = f"model={bundle}&format=payload&{manner}"
        taken, payload = posted(client, f"/compress?{query}", encode_png(image), "image/png")
        compress.append(taken)
        taken, back = posted(client, "/decompress?format=png", payload, PAYLOAD)
        decompress.append(taken)
        if manner.startswith("effort") and not np.array_equal(decode_image(back, MAX_PIXELS), image):
            raise BenchmarkError(f"{bundle}, {manner}: another image came back")
    return compress, decompress


def posted(client: httpx.Client, path: str, body: bytes, kind: str) -> tuple[float, bytes]:
    """Return how many milliseconds an answer took, and its body."""
    begun = time.perf_counter()
    answer = client.post(path, content=body, headers={"Content-Type": kind})
    taken = 1e3 * (time.perf_counter() - begun)
    if answer.status_code != 200:
        raise BenchmarkError(f"POST {path}: {answer.status_code} {answer.text}")
    return taken, answer.content


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    return {"p50_ms": statistics.median(values), "p99_ms": float(np.percentile(values, 99))}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: p50 and p99 of /compress, then of /decompress, a bundle a column."""
    bundles = list(dict.fromkeys(row["bundle"] for row in rows))
    lines = ["| | " + " | ".join(bundles) + " |", "| --- |" + " ---: |" * len(bundles)]
    found = {(row["bundle"], row["manner"]): row for row in rows}
    for manner in dict.fromkeys(row["manner"] for row in rows):
        cells = []
        for bundle in bundles:
            row = found[bundle, manner]
            of_routes = (
                f"{row[f'{route}_p50_ms']:.1f} ({row[f'{route}_p99_ms']:.1f})"
                for route in ("compress", "decompress")
            )
            cells.append(", ".join(of_routes))
        lines.append(f"| `{manner}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
