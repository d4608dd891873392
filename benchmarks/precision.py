"""`python -m benchmarks.precision`: what the lower precisions of VAE_PRECISION cost and bring on this device.

Test images of each shipped bundle through the engine in float32 and in each other precision: how far mu,
decoded images and ELBO move, and how much faster a full batch is. The precisions are timed in turn. Writes
precision.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.cuda import CudaEngine
from app.engine import CpuEngine, build_engine
from app.operations import ModelTask, Operation
from app.settings import Precision, Settings
from benchmarks.compression.__main__ import test_images
from benchmarks.serving.machine import describe_run
from models.bundle import Bundle, bundle_path, load_bundle

RESULTS = Path(__file__).with_name("precision.json")
BUNDLES = ("fashion-mnist", "mnist", "cifar10")
SCORE_SAMPLES = 8
BATCHES = 10  # timed together

Engine = CpuEngine | CudaEngine
Outputs = Mapping[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("bundles", nargs="*", metavar="bundle", help=f"default: {' '.join(BUNDLES)}")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file to write")
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.precision", arguments)
    rows = [
        row
        for name in options.bundles or BUNDLES
        for row in measure(load_bundle(bundle_path(name)), test_images(name, options.images), options.rounds)
    ]
    options.out.write_text(json.dumps({**facts, "images": options.images, "rows": rows}, indent=1) + "\n")
    print(table(rows))
    return 0


def measure(bundle: Bundle, images: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each lower precision that this device has; images are (N, C, H, W)."""
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    exact_engine = warm_engine(bundle, "float32")
    exact = outputs_of(exact_engine, bundle, pixels)
    rows = []
    for precision in precisions():
        engine = warm_engine(bundle, precision)
        found = outputs_of(engine, bundle, pixels, exact["mu"])
        faster = speed_ups(exact_engine, engine, bundle, {"encode": pixels, "decode": exact["mu"]}, rounds)
        row = {"bundle": bundle.id, "device": str(engine), "precision": precision}
        rows.append({**row, **differences(found, exact), **faster})
    return rows


def precisions() -> tuple[Precision, ...]:
    """Return the precisions below float32 that this device has."""
    return ("tf32", "bf16") if torch.cuda.is_available() else ("bf16",)


def warm_engine(bundle: Bundle, precision: Precision) -> Engine:
    """Return the service's own engine for this device, torch on one thread."""
    engine = build_engine([bundle], Settings(precision=precision, threads=1))
    engine.warm_up()
    return engine


def outputs_of(engine: Engine, bundle: Bundle, pixels: np.ndarray, z: np.ndarray | None = None) -> Outputs:
    """Return mu, std and ELBO of images (N, H, W, C), and what z decodes to: mu unless it is given."""
    mu, logvar = in_batches(engine, ModelTask(bundle.id, Operation.ENCODE), pixels)
    (decoded,) = in_batches(engine, ModelTask(bundle.id, Operation.DECODE), mu if z is None else z)
    elbo = in_batches(engine, ModelTask(bundle.id, Operation.SCORE, SCORE_SAMPLES), pixels)[0]
    return {"mu": mu, "std": np.exp(logvar / 2), "elbo": elbo, "decoded": decoded}


def in_batches(engine: Engine, task: ModelTask, rows: np.ndarray) -> list[np.ndarray]:
    """Return an operation's outputs for any number of rows."""
    size = engine.max_batch
    parts = [engine.launch(task, [rows[i : i + size]]).result() for i in range(0, len(rows), size)]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def differences(found: Outputs, exact: Outputs) -> dict[str, float]:
    """Return how far outputs are from the exact ones."""
    mu = np.abs(found["mu"] - exact["mu"]) / exact["std"]
    pixel = np.abs(found["decoded"].astype(int) - exact["decoded"])
    elbo = found["elbo"] - exact["elbo"]
    return {
        "mu, mean difference in posterior std": float(mu.mean()),
        "mu, largest difference in posterior std": float(mu.max()),
        "decoded, share of pixels that differ": float((pixel > 0).mean()),
        "decoded, largest difference of 255": float(pixel.max()),
        "elbo, mean difference in nats": float(elbo.mean()),
        "elbo, largest difference in nats": float(np.abs(elbo).max()),
    }


def speed_ups(
    exact: Engine, other: Engine, bundle: Bundle, rows: Mapping[str, np.ndarray], rounds: int
) -> dict[str, float]:
    """Return how many times faster the other engine does full batches: medians of ratios, in turn."""
    found = {}
    for name, inputs in rows.items():
        task, batch = ModelTask(bundle.id, Operation(name)), [inputs[: exact.max_batch]]
        ratios = [seconds(exact, task, batch) / seconds(other, task, batch) for _ in range(rounds)]
        found[f"{name}, times as fast"] = statistics.median(ratios)
    return found


def seconds(engine: Engine, task: ModelTask, batch: list[np.ndarray]) -> float:
    """Return the time that a few batches take, one after the other."""
    begun = time.perf_counter()
    for _ in range(BATCHES):
        engine.launch(task, batch).result()
    return time.perf_counter() - begun


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    names = [name for name in rows[0] if name != "device"]
    rule = ["---" if isinstance(rows[0][name], str) else "---:" for name in names]
    cells = [
        [row[name] if isinstance(row[name], str) else f"{row[name]:.3g}" for name in names] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, rule, *cells])


if __name__ == "__main__":
    sys.exit(main())
