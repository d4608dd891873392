"""Who takes part, where each takes which workload, and what is compared: edit here to add a peer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.serving.measurement import Name
from benchmarks.serving.workloads import NPY_256, PNG_BASE64, PNG_RAW, Workload

LOOP = "torch loop"


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


@dataclass(frozen=True)
class Comparison:
    """Workloads measured side by side, with the bare loop at some batch sizes."""

    title: str
    workloads: tuple[Workload, ...]
    loop_batches: tuple[int, ...]
    references: tuple[Name, ...]  # the cases that all others are divided by


PLAIN_FASTAPI = Server(
    name="fastapi",
    command=(
        *("-m", "uvicorn", "benchmarks.serving.plain_fastapi:app"),
        *("--port", "{port}", "--no-access-log"),
    ),
    environment={"BUNDLE": "{bundle}"},
    ready="/health",
    paths={PNG_BASE64: "/encode", NPY_256: "/encode-npy"},
)

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
        paths={PNG_BASE64: "/encode", PNG_RAW: "/encode", NPY_256: "/encode"},
    ),
    PLAIN_FASTAPI,
    replace(PLAIN_FASTAPI, name="fastapi, def", paths={PNG_BASE64: "/encode-in-thread"}),
)

COMPARISONS = (
    Comparison(
        "One image a request, answered in JSON; closed loop of 32 connections",
        workloads=(PNG_BASE64, PNG_RAW),
        loop_batches=(1, 32),
        references=(("fastapi", PNG_BASE64.name), ("fastapi, def", PNG_BASE64.name), (LOOP, "batch 32")),
    ),
    Comparison(
        "256 images a request, npy to safetensors; closed loop of 4 connections",
        workloads=(NPY_256,),
        loop_batches=(256,),
        references=(("fastapi", NPY_256.name), (LOOP, "batch 256")),
    ),
)
