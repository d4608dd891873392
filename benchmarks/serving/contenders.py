"""Who takes part, where each takes which workload, and what is compared: edit here to add a peer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.serving.measurement import Name
from benchmarks.serving.workloads import (
    COMPRESS_1,
    DECODE_1,
    NPY_1,
    NPY_64,
    NPY_256,
    NPY_MIXED,
    PNG_BASE64,
    PNG_RAW,
    SAMPLE_16,
    SAMPLE_SEED,
    SAMPLES,
    Arrays,
    Workload,
    read_rows,
)

LOOP = "torch loop"
PEERS_PYTHON = Path(
    ".venv-peers/bin/python"
)  # made by `make peers`: theirs are other versions of what we use


@dataclass(frozen=True, eq=False)
class Server:
    """An HTTP contender; {bundle}, {port} and {threads} are filled into its command and environment.

    All are given OMP_NUM_THREADS and MKL_NUM_THREADS besides, from which torch takes its threads.
    """

    name: str
    command: tuple[str, ...]  # after the Python interpreter
    environment: Mapping[str, str]
    ready: str  # a path that answers 200 then
    paths: Mapping[Workload, str]
    reads: Mapping[Workload, Callable[[bytes], Arrays]] = field(default_factory=dict)  # where not as the rest
    python: str = sys.executable
    can_pause: bool = True  # while others are measured

    def can_run(self) -> bool:
        """Return whether its interpreter is there, and say so where it is not."""
        is_there = Path(self.python).exists()
        if not is_there:
            print(f"{self.name} takes no part: there is no {self.python}; make peers installs it")
        return is_there


@dataclass(frozen=True)
class Comparison:
    """Workloads measured side by side, with the bare loop at some batch sizes."""

    title: str
    workloads: tuple[Workload, ...]
    loop_batches: tuple[int, ...]
    references: tuple[Name, ...]  # the cases that all others are divided by


UVICORN = ("-m", "uvicorn", "--port", "{port}", "--no-access-log")
PLAIN_FASTAPI = Server(
    name="fastapi",
    command=(*UVICORN, "benchmarks.serving.peers.plain_fastapi:app"),
    environment={"BUNDLE": "{bundle}"},
    ready="/health",
    paths={PNG_BASE64: "/encode", NPY_256: "/encode-npy"},
)
OF_PEERS = {"BUNDLE": "{bundle}", "PORT": "{port}", "PYTHONPATH": "."}

SERVERS = (
    Server(
        name="vaeserve",
        command=("-m", "app"),
        environment={
            "VAE_MODELS": "{bundle}",
            "VAE_PORT": "{port}",
            "VAE_THREADS": "{threads}",
            "VAE_DEVICE": "cpu",
        },
        ready="/health/ready",
        paths={
            **dict.fromkeys((PNG_BASE64, PNG_RAW, NPY_1, NPY_64, NPY_256, NPY_MIXED), "/encode"),
            DECODE_1: "/decode",
            SAMPLE_16: f"/sample?n={SAMPLES}&seed={SAMPLE_SEED}",
            COMPRESS_1: "/compress",
        },
    ),
    PLAIN_FASTAPI,
    replace(PLAIN_FASTAPI, name="fastapi, def", paths={PNG_BASE64: "/encode-in-thread"}),
    replace(
        PLAIN_FASTAPI,
        name="fastapi, batched",
        command=(*UVICORN, "benchmarks.serving.peers.batched_fastapi:app"),
        paths={PNG_BASE64: "/encode"},
    ),
    Server(
        name="litserve",
        command=("-m", "benchmarks.serving.peers.litserve_server"),
        environment=OF_PEERS,
        ready="/health",
        paths={PNG_BASE64: "/predict"},
        python=str(PEERS_PYTHON),
    ),
    Server(
        name="bentoml",
        command=(
            *("-m", "bentoml", "serve", "benchmarks.serving.peers.bento_service:Encode"),
            *("--port", "{port}"),
        ),
        environment=OF_PEERS,
        ready="/readyz",
        paths={PNG_BASE64: "/encode"},
        reads={PNG_BASE64: read_rows},
        python=str(PEERS_PYTHON),
        # Its batcher takes a pause for what a batch takes, and refuses requests as too late from then on.
        can_pause=False,
    ),
    Server(
        name="ray serve",
        command=("-m", "benchmarks.serving.peers.ray_app"),
        environment=OF_PEERS,
        ready="/",
        paths={PNG_BASE64: "/"},
        python=str(PEERS_PYTHON),
    ),
)

COMPARISONS = (
    Comparison(
        "One image a request, answered in JSON; closed loop of 32 connections",
        workloads=(PNG_BASE64, PNG_RAW, NPY_1),
        loop_batches=(1, 32),
        references=(("fastapi", PNG_BASE64.name), ("litserve", PNG_BASE64.name), (LOOP, "batch 32")),
    ),
    Comparison(
        "Many images a request, npy to safetensors; closed loop of 4 connections, 16 of mixed sizes",
        workloads=(NPY_64, NPY_256, NPY_MIXED),
        loop_batches=(64, 256),
        references=(("fastapi", NPY_256.name), (LOOP, "batch 64"), (LOOP, "batch 256")),
    ),
    Comparison(
        "The other routes; closed loops of 32, 8 and 8 connections",
        workloads=(DECODE_1, SAMPLE_16, COMPRESS_1),
        loop_batches=(),
        references=(),
    ),
)
