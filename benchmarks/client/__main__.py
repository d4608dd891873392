"""`python -m benchmarks.client`: a call through vaeserve_client against the same request by bare httpx.

Bare httpx posts bytes that were made before and makes nothing of the answer's; the client makes its body from
an array and arrays from the answer, within a deadline. The two take turns, call by call, against one service
that encodes a batch of 64 images, npy in and safetensors out. Nearly all of a call's time is the service's;
what the client adds shows in the CPU time of the calling thread. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import safetensors.numpy

from benchmarks.serving.machine import describe_run
from benchmarks.serving.processes import BenchmarkError, free_port, started, wait_until_ready
from vaeserve_client import AsyncClient, Client, Encoded

BUNDLE, BATCH = "fashion-mnist", 64
SHAPE = (BATCH, 28, 28)
HEADERS = {"Content-Type": "application/x-npy", "Accept": "application/x-safetensors"}
WARM_UP_CALLS = 20
RESULTS = Path(__file__).with_name("results.json")
CONTENDERS = ("bare", "client")
CLASSES = ("Client", "AsyncClient")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both classes in rounds, write the figures and print their medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="of each, in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    packages = ("httpx", "httpcore", "safetensors", "vaeserve-client")
    facts = {
        **describe_run("benchmarks.client", arguments, *packages),
        "bundle": BUNDLE,
        "batch": BATCH,
    }
    try:
        rounds = measure(options.rounds, options.calls)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    medians = summary(rounds)
    options.out.write_text(json.dumps({**facts, "medians": medians, "rounds": rounds}, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(table(medians))
    print(table(medians))
    return 0


def measure(rounds: int, calls: int) -> list[dict[str, Any]]:
    """Return the medians of each round and class."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    settings = {"VAE_PORT": str(port), "VAE_MODELS": BUNDLE, "VAE_DEVICE": "cpu", "VAE_THREADS": "1"}
    command = [sys.executable, "-m", "app"]
    with (
        TemporaryDirectory() as folder,
        started(command, log=Path(folder, "app.log"), environment=inherited | settings) as process,
    ):
        wait_until_ready(process, f"{url}/health/ready")
        images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
        found = []
        for number in range(rounds):
            blocking = blocking_round(url, images, calls)
            asynchronous = asyncio.run(asynchronous_round(url, images, calls))
            for kind, medians in zip(CLASSES, (blocking, asynchronous), strict=True):
                found.append({"round": number, "class": kind} | medians)
        return found


def blocking_round(url: str, images: np.ndarray, calls: int) -> dict[str, float]:
    """Time bare httpx and the client in turns, in one thread."""
    body = npy(images)
    with httpx.Client(base_url=url) as bare, Client(url) as client:
        check(bare.post("/encode", content=body, headers=HEADERS), client.encode(images))
        pair = Pair()
        for name in in_turns(calls):
            with pair.timed(name):
                if name == "bare":
                    bare.post("/encode", content=body, headers=HEADERS).raise_for_status()
                else:
                    client.encode(images)
        return pair.medians()


async def asynchronous_round(url: str, images: np.ndarray, calls: int) -> dict[str, float]:
    """Time bare httpx and the client in turns, one call at a time, on one event loop."""
    body = npy(images)
    async with httpx.AsyncClient(base_url=url) as bare, AsyncClient(url) as client:
        check(await bare.post("/encode", content=body, headers=HEADERS), await client.encode(images))
        pair = Pair()
        for name in in_turns(calls):
            with pair.timed(name):
                if name == "bare":
                    (await bare.post("/encode", content=body, headers=HEADERS)).raise_for_status()
                else:
                    await client.encode(images)
        return pair.medians()


class Pair:
    """Times of bare httpx and of the client, call by call, in milliseconds."""

    def __init__(self) -> None:
        self._wall: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        self._cpu: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what is done within: on the clock, and on this thread's processor."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self._wall[name].append(1e3 * (time.perf_counter() - wall))
        self._cpu[name].append(1e3 * (time.thread_time() - cpu))

    def medians(self) -> dict[str, float]:
        """Return the medians without the first calls, and the client's over bare httpx's."""
        bare, client = (statistics.median(self._wall[name][WARM_UP_CALLS:]) for name in CONTENDERS)
        bare_cpu, client_cpu = (statistics.median(self._cpu[name][WARM_UP_CALLS:]) for name in CONTENDERS)
        return {
            "bare_ms": bare,
            "client_ms": client,
            "ratio": client / bare,
            "bare_cpu_ms": bare_cpu,
            "client_cpu_ms": client_cpu,
            "cpu_ratio": client_cpu / bare_cpu,
        }


def in_turns(calls: int) -> Iterator[str]:
    """Yield both names for each call, the first of them by turns."""
    for number in range(WARM_UP_CALLS + calls):
        yield from CONTENDERS if number % 2 else CONTENDERS[::-1]


def check(answer: httpx.Response, encoded: Encoded) -> None:
    """Raise BenchmarkError unless both asked for, and got, the same."""
    answer.raise_for_status()
    expected = safetensors.numpy.load(answer.content)["mu"]
    if not np.allclose(encoded.mu, expected, rtol=0, atol=1e-5 * np.abs(expected).max()):
        raise BenchmarkError("the client's answer is another than bare httpx's")


def npy(images: np.ndarray) -> bytes:
    """Return an array as the bytes of an .npy file."""
    file = BytesIO()
    np.save(file, images)
    return file.getvalue()


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the median of the rounds for each class."""
    names = ("bare_ms", "client_ms", "ratio", "bare_cpu_ms", "client_cpu_ms", "cpu_ratio")
    return {
        kind: {
            name: statistics.median(found[name] for found in rounds if found["class"] == kind)
            for name in names
        }
        for kind in CLASSES
    }


def table(medians: Mapping[str, Mapping[str, float]]) -> str:
    """Return the medians as a Markdown table."""
    lines = [
        "| class | bare httpx, ms | client, ms | ratio "
        "| CPU of bare httpx, ms | CPU of the client, ms | ratio of CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, found in medians.items():
        lines.append(
            f"| `{kind}` | {found['bare_ms']:.2f} | {found['client_ms']:.2f} | {found['ratio']:.3f} "
            f"| {found['bare_cpu_ms']:.2f} | {found['client_cpu_ms']:.2f} | {found['cpu_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
