"""`python -m benchmarks.serving.soak`: memory and open files of the service over a million requests.

Requests of every route, and some that are refused, in turn, in closed loops; after each the resident memory,
the open descriptors and the median latency; at the end what the memory is made of, beside the bare torch
loop's. Writes soak.json and soak.png; exits 1 where memory or descriptors grew, or a request was not answered
as it was to be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks.serving.contenders import SERVERS
from benchmarks.serving.machine import describe_run
from benchmarks.serving.material import material_of
from benchmarks.serving.other_workloads import other_workloads
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.running import Setup, started_loop, started_server, write_posts
from benchmarks.serving.workloads import SAMPLE_SEED, SAMPLES
from models.bundle import bundle_path, load_bundle

SETTLE_SECONDS = 0.5  # for the service to notice that the load's connections are closed
WARM_UP_PASSES = 2  # over the workloads: buffers grow, query strings are remembered
METRICS_SECONDS = 60  # for the last requests to be answered first
MOST_GROWTH_BYTES = 20_000_000  # at any time after the warm-up
MOST_DRIFT = 1.5  # of a workload's median latency
LARGEST = 4  # mappings named in the memory's account
RESULTS = Path("benchmarks/serving/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print what they come to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.soak", description=__doc__)
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=5, help="of each workload at a time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to fill")
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.serving.soak", arguments)
    try:
        with TemporaryDirectory(prefix="vaeserve-benchmark-") as folder:
            setup = Setup(options.bundle, 1, None, None, Path(folder))
            bare = bare_loop_memory(setup)
            rows, memory = measure(setup, options.requests, options.seconds)
            found = summary(rows)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = {**found, "resident_bytes_by_mapping": {"vaeserve": memory, "bare torch loop": bare}}
    broken = [promise for promise, is_kept in found["promises"].items() if not is_kept]
    options.out.mkdir(parents=True, exist_ok=True)
    document = {**facts, **found, "rows": rows}
    (options.out / "soak.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(rows, options.out / "soak.png")
    print(json.dumps(found, indent=1))
    if broken:
        print(f"broken: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def measure(setup: Setup, requests: int, seconds: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return a row after each turn of load, until so many requests are answered, and the memory at last."""
    bundle = load_bundle(bundle_path(setup.bundle))
    material = material_of(bundle, SAMPLES, SAMPLE_SEED)
    [server] = (server for server in SERVERS if server.name == "vaeserve")
    server = replace(server, paths={**server.paths, **other_workloads(bundle, material)})
    rows: list[dict[str, Any]] = []
    with started_server(server, setup) as running:
        cases = [running.case(write_posts(workload, material, setup.folder)) for workload in server.paths]
        answered = 0
        for turn, case in enumerate(cycle(cases)):
            if answered >= requests:
                break
            if turn < len(cases):
                case.check()
            try:
                sample = case.measure(seconds)
            except BenchmarkError as error:
                raise BenchmarkError(f"{error}; {refused(running.port)}") from None
            answered += sample.requests  # and some more: see wrk.Load
            time.sleep(SETTLE_SECONDS)
            pid = running.process.popen.pid
            rows.append(
                {
                    "workload": case.name[1],
                    "is_warm_up": turn < WARM_UP_PASSES * len(cases),
                    "requests": answered,
                    "resident_bytes": resident_bytes(pid),
                    "open_files": len(os.listdir(f"/proc/{pid}/fd")),
                    "p50_seconds": sample.p50_seconds,
                }
            )
            print(rows[-1], flush=True)
        for case in cases:
            case.check()
        return rows, memory_by_mapping(running.process.popen.pid)


def refused(port: int) -> str:
    """Return what the service says of itself: which requests it did not answer with 200."""
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=METRICS_SECONDS).text
    counted = [line for line in metrics.splitlines() if line.startswith("vae_requests_total{")]
    found = [line for line in counted if 'status="200"' not in line and not line.endswith(" 0.0")]
    return "\n".join(found) or "it counts none that it refused"


def bare_loop_memory(setup: Setup) -> dict[str, int]:
    """Return the resident memory of the bare torch loop, after a second of batches of 256."""
    posterior = material_of(load_bundle(bundle_path(setup.bundle)), SAMPLES, SAMPLE_SEED).posterior
    with started_loop(setup) as loop:
        loop.case(256, posterior).measure(1)
        return memory_by_mapping(loop.process.popen.pid)


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_by_mapping(pid: int) -> dict[str, int]:
    """Return a process's resident bytes: all, what no file backs, and the code of the largest libraries."""
    resident: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *others = line.split()
        if not first.endswith(":"):
            name = Path(others[4]).name if len(others) > 4 and others[4].startswith("/") else "anonymous"
        elif first == "Rss:":
            resident[name] += int(others[0]) << 10
    named = dict(resident.most_common(LARGEST))
    return {"all": resident.total(), **named, "other files": resident.total() - sum(named.values())}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what grew after the warm-up: memory and open files, and latency by workload.

    Memory is compared with what it was after the same workload in the last pass of the warm-up: from one
    workload to another the heap keeps some 20 MB more or less.
    """
    warm = [row for row in rows if not row["is_warm_up"]]
    if not warm:
        raise BenchmarkError(f"{rows[-1]['requests']} requests were over before the warm-up was")
    before = [row for row in rows if row["is_warm_up"]][-1]
    resident = {row["workload"]: row["resident_bytes"] for row in rows if row["is_warm_up"]}  # the last
    drift = {}
    for workload in dict.fromkeys(row["workload"] for row in warm):
        own = [row["p50_seconds"] for row in warm if row["workload"] == workload]
        drift[workload] = own[-1] / own[0]
    grown = [row["resident_bytes"] - resident[row["workload"]] for row in warm]
    open_files = warm[-1]["open_files"] - before["open_files"]
    return {
        "requests": rows[-1]["requests"],
        "resident_bytes_after_warm_up": before["resident_bytes"],
        "resident_bytes_growth": grown[-1],
        "resident_bytes_most_growth": max(grown),
        "open_files_growth": open_files,
        "p50_last_over_first": drift,
        "promises": {
            f"at most {MOST_GROWTH_BYTES / 1e6:g} MB more after the warm-up": max(grown) <= MOST_GROWTH_BYTES,
            "no descriptor more": open_files <= 0,
            f"at most {MOST_DRIFT:g} times as long in the end": max(drift.values()) <= MOST_DRIFT,
        },
    }


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw resident memory and open files against requests."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    memory = figure.subplots()
    requests = [row["requests"] / 1e6 for row in rows]
    memory.plot(requests, [row["resident_bytes"] / 2**20 for row in rows], label="resident")
    memory.set(xlabel="million requests", ylabel="MiB resident", ylim=(0, None))
    files = memory.twinx()
    files.plot(requests, [row["open_files"] for row in rows], color="C1", label="open files")
    files.set(ylabel="open files", ylim=(0, None))
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
