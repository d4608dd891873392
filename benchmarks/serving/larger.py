"""`python -m benchmarks.serving.larger`: what a larger machine is for, 1,024 images a request and front ends.

Ours beside the bare loop on the same device, which on a GPU replays CUDA graphs; and single images with 1, 2,
4 front ends and so on, up to the cores. Writes results.json, results.md and results.png.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.serving import wrk
from benchmarks.serving.contenders import SERVERS, Server
from benchmarks.serving.machine import describe_run
from benchmarks.serving.material import Material, material_of
from benchmarks.serving.measurement import Case, Measured, Sample, run_rounds
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.report import write_report
from benchmarks.serving.running import Posts, Setup, alone, started_loop, started_server, write_posts
from benchmarks.serving.workloads import (
    NPY_1024,
    PNG_BASE64,
    SAMPLE_SEED,
    SAMPLES,
    TOLERANCE,
    Workload,
)
from models.bundle import bundle_path, load_bundle

LOOP_BATCHES = (64, 256, 1024)
GPU_TOLERANCE = 1e-4  # its sums are in another order
CONNECTIONS = PNG_BASE64.connections  # a front end
MOST_FRONT_ENDS = 8
NEVER_TOO_MUCH = {"VAE_MAX_QUEUED_SECONDS": "10"}  # four times 1,024 images are 1.5 s of a CPU's work
RESULTS = Path("benchmarks/serving/results")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.larger", description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help=f"here {device} by default")
    parser.add_argument("--frontends", type=int, nargs="+", default=front_ends(), help="how many, in turn")
    parser.add_argument("--seconds", type=int, default=10, help="of load in each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case, in turn")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each contender")
    parser.add_argument("--out", type=Path, help="folder to fill; by default one named like the device")
    options = parser.parse_args(arguments)
    options.tolerance = GPU_TOLERANCE if options.device == "cuda" else TOLERANCE
    options.out = options.out or RESULTS / f"larger_{options.device}"
    return options


def front_ends(cores: int | None = None) -> list[int]:
    """Return 1, 2, 4 and so on, up to the cores, and 8."""
    most = min(cores or len(os.sched_getaffinity(0)), MOST_FRONT_ENDS)
    return [1 << power for power in range(most.bit_length())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print their tables."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every contender is ended
    try:
        facts = describe_run("benchmarks.serving.larger", arguments)
        facts["versions"]["wrk"] = wrk.version()
        if options.device == "cuda":
            facts["machine"]["gpu"] = torch.cuda.get_device_name()
        with TemporaryDirectory(prefix="vaeserve-benchmark-") as folder:
            setup = Setup(options.bundle, options.threads, None, None, Path(folder))
            measured = measure(setup, options)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    facts["settings"] = {**settings, "server_cpus": None, "load_cpus": None}
    write_report(options.out, facts, measured)
    print((options.out / "results.md").read_text())
    return 0


def measure(setup: Setup, options: argparse.Namespace) -> list[Measured]:
    """Measure both parts, each contender's answers checked before and after."""
    material = material_of(load_bundle(bundle_path(setup.bundle)), SAMPLES, SAMPLE_SEED)
    many = write_posts(replace(NPY_1024, tolerance=options.tolerance), material, setup.folder)
    single = write_posts(replace(PNG_BASE64, tolerance=options.tolerance), material, setup.folder)
    with many_images(setup, many, options.device, material) as first:
        for case in first.cases:
            case.check()
        run_rounds(first.cases, options.rounds, options.seconds)
        for case in first.cases:
            case.check()
    second = beside_each_other(setup, single, options.device, options.frontends)
    run_rounds(second.cases, options.rounds, options.seconds)
    return [first, second]


@contextmanager
def many_images(setup: Setup, posts: Posts, device: str, material: Material) -> Iterator[Measured]:
    """Give ours and the loop at some batch sizes, while both are there."""
    tolerance = posts.workload.tolerance
    with (
        started_server(ours(device, posts.workload), setup) as running,
        started_loop(setup, device, tolerance) as loop,
    ):
        running.process.pause()
        cases = [alone(running.case(posts), running.process)]
        cases += [loop.case(batch, material.posterior) for batch in LOOP_BATCHES]
        yield Measured(f"1,024 images a request, npy → safetensors, {device}", cases, cases[1:])


def beside_each_other(setup: Setup, posts: Posts, device: str, counts: Sequence[int]) -> Measured:
    """Return a case for each number of front ends, with as many connections for each front end."""
    cases = [_of_front_ends(setup, posts, device, count) for count in counts]
    return Measured(f"Single images, base64 JSON, {device}", cases, cases[:1])


def _of_front_ends(setup: Setup, posts: Posts, device: str, count: int) -> Case:
    workload = replace(posts.workload, connections=count * CONNECTIONS)
    server = ours(device, workload, {"VAE_FRONTENDS": str(count)})

    def measure(seconds: int) -> Sample:  # in processes of its own: to stop them would look like a fault
        with started_server(server, setup) as running:
            case = running.case(replace(posts, workload=workload))
            case.check()
            case.measure(seconds)
            sample = case.measure(seconds)
            case.check()
            return sample

    name = f"{count} front end{'s' if count > 1 else ''}, {workload.connections} connections"
    return Case((server.name, name), measure, lambda: None)


def ours(device: str, workload: Workload, more: Mapping[str, str] | None = None) -> Server:
    """Return ours on a device."""
    server = next(server for server in SERVERS if server.name == "vaeserve")
    environment = {**server.environment, "VAE_DEVICE": device, **NEVER_TOO_MUCH, **(more or {})}
    return replace(server, environment=environment, paths={workload: "/encode"})


if __name__ == "__main__":
    sys.exit(main())
