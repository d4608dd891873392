"""The limit: `model.encode` in a loop on a batch that lies in memory in the faster layout, nothing else.

On a GPU a batch is one replay of a CUDA graph, waited for; nothing is copied to it or from it.

    python -m benchmarks.serving.torch_loop BUNDLE [cpu|cuda]

reads a JSON line from standard input for each task and answers with one:

    {"batch": 256, "seconds": 10}  →  {"requests": …, "seconds": …, "p50_seconds": …, "p99_seconds": …}
    {"batch": 256}                 →  {"mu": [[…]], "logvar": [[…]]}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.serving.golden import golden_images
from models.bundle import bundle_path, load_bundle
from models.vae import VAE

LAYOUTS = (torch.contiguous_format, torch.channels_last)
TRIALS = 10
WARM_UP_RUNS = 3  # before a graph may be captured

Encode = Callable[[], tuple[Tensor, Tensor]]  # of a batch that is there already


@torch.inference_mode()
def in_faster_layout(model: VAE, x: Tensor) -> Encode:
    """Return what encodes x in the memory layout that is faster; a limit that tried one would be none."""
    return fastest([encoding(model, x.clone(memory_format=layout)) for layout in LAYOUTS])


def encoding(model: VAE, x: Tensor) -> Encode:
    """Return what encodes x where it lies."""
    return captured(model, x) if x.is_cuda else partial(model.encode, x)


@dataclass(frozen=True)
class Replay:
    """A CUDA graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    outputs: tuple[Tensor, Tensor]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Replay it, and wait for it."""
        self.graph.replay()
        torch.cuda.synchronize()
        return self.outputs


def captured(model: VAE, x: Tensor) -> Replay:
    """Return the encoding of x, on a GPU, as one CUDA graph, in float32 as the service has it."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            model.encode(x)
        with torch.cuda.graph(graph, stream=stream):
            outputs = model.encode(x)
    return Replay(graph, x, outputs)


def fastest(encodes: Sequence[Encode]) -> Encode:
    """Return the one whose quickest run, of some in turn, is the quickest."""
    seconds: list[list[float]] = [[] for _ in encodes]
    for _ in range(TRIALS):
        for times, encode in zip(seconds, encodes, strict=True):
            started = time.perf_counter()
            encode()
            times.append(time.perf_counter() - started)
    return encodes[seconds.index(min(seconds, key=min))]


@torch.inference_mode()
def time_loop(encode: Encode, seconds: float) -> dict[str, float]:
    """Encode again and again; a request is one batch."""
    ends = [time.perf_counter()]
    while ends[-1] - ends[0] < seconds:
        encode()
        ends.append(time.perf_counter())
    p50, p99 = np.percentile(np.diff(ends), (50, 99)).tolist()
    return {
        "requests": len(ends) - 1,
        "seconds": ends[-1] - ends[0],
        "p50_seconds": p50,
        "p99_seconds": p99,
    }


@torch.inference_mode()
def answer(encode: Encode) -> dict[str, list[list[float]]]:
    """Encode once."""
    mu, logvar = encode()
    return {"mu": mu.tolist(), "logvar": logvar.tolist()}


def main() -> None:
    """Answer tasks until standard input ends."""
    bundle = load_bundle(bundle_path(sys.argv[1]))
    device = torch.device(sys.argv[2] if sys.argv[2:] else "cpu")
    model = bundle.model.to(device)
    levels = torch.from_numpy(golden_images(bundle)).permute(0, 3, 1, 2).contiguous().to(device)
    images = model.normalise(model.to_levels(levels))
    batches: dict[int, Encode] = {}
    for line in sys.stdin:
        task: dict[str, Any] = json.loads(line)
        batch = task["batch"]
        if batch not in batches:
            batches[batch] = in_faster_layout(model, images[torch.arange(batch) % len(images)])
        encode = batches[batch]
        result = time_loop(encode, task["seconds"]) if "seconds" in task else answer(encode)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
