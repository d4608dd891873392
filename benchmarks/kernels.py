"""`python -m benchmarks.kernels`: what torch.compile and int8 would bring to an encoder, one thread of a CPU.

The encoder of each shipped bundle as the service runs it, compiled by Inductor with its weights frozen, and
with its layers in 8 bits: statically quantized for torch's x86 kernels. Each of the two is timed in turn with
the first, and its answers are compared with the first one's. Needs a C++ compiler. Writes kernels.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from app.engine import recorded
from app.operations import GRAPHABLE, Operation, Outputs
from benchmarks.compression.__main__ import test_images
from benchmarks.precision import table
from benchmarks.serving.machine import describe_run
from models.bundle import bundle_path, load_bundle
from models.vae import VAE

RESULTS = Path(__file__).with_name("kernels.json")
BUNDLES = ("fashion-mnist", "mnist", "cifar10")
CALIBRATION_IMAGES = 256
BATCHES = (1, 32)
TIMED_IMAGES = 320  # together

Encode = Callable[[Tensor], Outputs]  # levels (B,H,W,C) → mu, logvar


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("bundles", nargs="*", metavar="bundle", help=f"default: {' '.join(BUNDLES)}")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file to write")
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.kernels", arguments)
    torch.set_num_threads(1)
    rows = []
    for name in options.bundles or BUNDLES:
        model = load_bundle(bundle_path(name)).model
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.from_numpy(test_images(name, None)).permute(0, 2, 3, 1).contiguous()
        others = {"torch.compile": compiled(model), "int8": quantized(model, images[-CALIBRATION_IMAGES:])}
        for kernels, other in others.items():
            found = measure(model, other, images[: options.images], options.rounds)
            rows.append({"bundle": name, "kernels": kernels, **found})
    options.out.write_text(json.dumps({**facts, "images": options.images, "rows": rows}, indent=1) + "\n")
    print(table(rows))
    return 0


def compiled(model: VAE) -> Encode:
    """Return a model's encoder compiled, for each shape of a batch anew, as is documented to be fastest."""
    encode = partial(GRAPHABLE[Operation.ENCODE], model)
    return torch.compile(encode, dynamic=False, options={"freezing": True})


def quantized(model: VAE, images: Tensor) -> Encode:
    """Return a model's encoder in 8 bits, the ranges of activations those that levels (N,H,W,C) have."""
    torch.backends.quantized.engine = "x86"
    model = deepcopy(model)
    x = model.normalise(model.to_levels(images.permute(0, 3, 1, 2)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will move to another package
        observed = prepare_fx(model.encoder.eval(), get_default_qconfig_mapping("x86"), (x,))
        observed(x)
        model.encoder = torch.nn.Sequential(convert_fx(observed))
        return recorded(model, Operation.ENCODE)


@torch.no_grad()
def measure(model: VAE, other: Encode, images: Tensor, rounds: int) -> dict[str, float]:
    """Return how far another encoder's answers to levels are from the service's, and how fast it is."""
    encode = recorded(model, Operation.ENCODE)
    found: dict[str, float] = {}
    for batch in BATCHES:
        started = time.perf_counter()
        other(images[:batch])
        found[f"batches of {batch}, seconds until the first is done"] = time.perf_counter() - started
        for _ in range(3):
            seconds(encode, images[:batch]), seconds(other, images[:batch])
        ratios = [seconds(encode, images[:batch]) / seconds(other, images[:batch]) for _ in range(rounds)]
        found[f"batches of {batch}, times as fast"] = statistics.median(ratios)
    return {**differences(outputs_of(other, images), outputs_of(encode, images)), **found}


def outputs_of(encode: Encode, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and logvar of levels (N,H,W,C), but for those that would not fill a batch."""
    size = BATCHES[-1]
    parts = [encode(images[i : i + size]) for i in range(0, len(images) - size + 1, size)]
    mu, logvar = (torch.cat(output).numpy() for output in zip(*parts, strict=True))
    return mu, logvar


def differences(
    found: tuple[np.ndarray, np.ndarray], exact: tuple[np.ndarray, np.ndarray]
) -> Mapping[str, float]:
    """Return how far a posterior's mu is from the exact one's, as a number and in standard deviations."""
    mu, std = np.abs(found[0] - exact[0]), np.exp(exact[1] / 2)
    return {
        "mu, largest difference": float(mu.max()),
        "mu, mean difference in posterior std": float((mu / std).mean()),
        "mu, largest difference in posterior std": float((mu / std).max()),
    }


def seconds(encode: Encode, batch: Tensor) -> float:
    """Return the time that some batches take, one after the other."""
    begun = time.perf_counter()
    for _ in range(TIMED_IMAGES // len(batch)):
        encode(batch)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
