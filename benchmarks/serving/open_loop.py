"""`python -m benchmarks.serving.open_loop`: latencies at offered loads up to twice the peak, and beside bulk.

The peak is that of a closed loop, by wrk; the loads are parts of it. Below the peak wrk's connections think
for random times; past it those of h2load send by the clock, and a slow client of our own looks whether those
that are refused are told when to come again. That client sends what is measured beside bulk as well. Writes
open_loop.json, open_loop.md and open_loop.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.serving import h2load, wrk
from benchmarks.serving.contenders import SERVERS, Server
from benchmarks.serving.machine import describe_run
from benchmarks.serving.material import Material, material_of
from benchmarks.serving.poisson import Answers, offer, offer_one, request_bytes
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.running import Posts, RunningServer, Setup, started_server, write_posts
from benchmarks.serving.workloads import (
    NPY_16,
    PNG_BASE64,
    SAMPLE_SEED,
    SAMPLES,
    Workload,
    npy_bytes,
)
from models.bundle import bundle_path, load_bundle

LOADS = (0.02, 0.25, 0.5, 0.75, 0.9, 2.0)  # of the peak
BULK_IMAGES = 5000
SMALL_PER_SECOND = 40.0
PROBES_PER_SECOND = 20.0
QUEUED_SECONDS = "0.1"  # of work that may wait, of ours
OK, REFUSALS = 200, (429, 503)
REST_SECONDS = 60.0  # after an overload
QUANTILES = {"p50": "p50", "p99": "p99", "p99_9": "p99.9"}  # as in a row's keys, and as they are called
COLUMNS = (
    *("of peak", "asked/s", "offered/s", "answered/s"),
    *(f"{quantile} ms" for quantile in QUANTILES.values()),
    *("refused", "p99 of it", "failed"),
)
RESULTS = Path("benchmarks/serving/results")
PEERS = ("fastapi", "fastapi, batched", "litserve", "bentoml", "ray serve")
CONTENDERS = {"vaeserve": (PNG_BASE64, NPY_16), **dict.fromkeys(PEERS, (PNG_BASE64,))}


@dataclass(frozen=True)
class Figures:
    """What is kept of a load. As wrk tells it, refusals have any status of 400 or more, and latencies too."""

    offered_per_second: float
    answered_per_second: float  # with 200
    p50_seconds: float | None
    p99_seconds: float | None
    p99_9_seconds: float | None
    refused: int
    refused_p99_seconds: float | None
    failed: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.open_loop", description=__doc__)
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--seconds", type=int, default=10, help="of each load")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to fill")
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.serving.open_loop", arguments)
    try:
        h2load.require()
        with TemporaryDirectory(prefix="vaeserve-benchmark-") as folder:
            found = measure(Setup(options.bundle, 1, None, None, Path(folder)), options.seconds)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "open_loop.json").write_text(json.dumps({**facts, **found}, indent=1) + "\n")
    shown = markdown(found)
    (options.out / "open_loop.md").write_text(f"# Open loop\n\n`{facts['command']}`\n\n{shown}")
    plot(found["loads"], options.out / "open_loop.png")
    print(shown)
    return 0


def measure(setup: Setup, seconds: int) -> dict[str, Any]:
    """Return a row for each contender, workload and load, and what bulk does to small requests."""
    material = material_of(load_bundle(bundle_path(setup.bundle)), SAMPLES, SAMPLE_SEED)
    written = {workload: write_posts(workload, material, setup.folder) for workload in (PNG_BASE64, NPY_16)}
    servers = {server.name: server for server in SERVERS}
    bulky = _with(
        servers["vaeserve"], VAE_MAX_QUEUED_IMAGES=str(4 * BULK_IMAGES), VAE_MAX_IMAGES=str(BULK_IMAGES)
    )
    servers["vaeserve"] = _with(servers["vaeserve"], VAE_MAX_QUEUED_SECONDS=QUEUED_SECONDS)
    rows: list[dict[str, Any]] = []
    for name, workloads in CONTENDERS.items():
        server = replace(servers[name], paths=_paths(servers[name], workloads))
        if server.can_run():
            with started_server(server, setup) as running:
                for workload in workloads:
                    rows += _loads(running, written[workload], seconds)
    with started_server(bulky, setup) as running:
        bulk = _beside_bulk(running, written[PNG_BASE64], material, seconds)
    return {"loads": rows, "beside_bulk": bulk}


def _with(server: Server, **settings: str) -> Server:
    return replace(server, environment={**server.environment, **settings})


def _paths(server: Server, workloads: Sequence[Workload]) -> dict[Workload, str]:
    return {workload: server.paths.get(workload, "/encode") for workload in workloads}


def _loads(running: RunningServer, posts: Posts, seconds: int) -> list[dict[str, Any]]:
    case = running.case(posts)
    case.check()
    case.measure(2)
    closed = [case.measure(seconds) for _ in range(3)]
    peak = statistics.median(sample.requests / sample.seconds for sample in closed)
    rows = []
    for load in LOADS:
        found = (_below_peak if load < 1 else _past_peak)(running, posts, load * peak, seconds)
        asked = {"load": load, "peak_per_second": peak, "asked_per_second": load * peak}
        rows.append({"contender": running.server.name, "workload": posts.workload.name, **asked, **found})
        print(row_of(rows[-1]), flush=True)
    rows[-1]["lone_request_taken_after_seconds"] = taken_after = _seconds_until_taken(running, posts)
    if taken_after is not None:
        case.check()
    return rows


def _below_peak(running: RunningServer, posts: Posts, per_second: float, seconds: int) -> dict[str, Any]:
    cpus = running.setup.load_cpus
    offered = wrk.offer(running.url(posts.workload), posts.workload, posts.files, per_second, seconds, cpus)
    return asdict(of_wrk(offered))


def _past_peak(running: RunningServer, posts: Posts, per_second: float, seconds: int) -> dict[str, Any]:
    workload, setup = posts.workload, running.setup
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(
            h2load.offer,
            running.url(workload),
            workload,
            posts.files[0],
            per_second,
            seconds,
            setup.folder,
            setup.load_cpus,
        )
        time.sleep(h2load.RAMP_SECONDS)
        probes = offer(running.port, _requests(running, posts), PROBES_PER_SECOND, seconds)
        sent = load.result()
    return {**asdict(of_h2load(sent, seconds)), "unanswered": sent.unanswered, "probes": probed(probes)}


def _seconds_until_taken(running: RunningServer, posts: Posts) -> float | None:
    """Wait until a lone request is taken: after too much some peers refuse for a while, or for good."""
    begun = time.monotonic()
    while offer_one(running.port, _requests(running, posts)[0]).status != [OK]:
        if time.monotonic() > begun + REST_SECONDS:
            return None
        time.sleep(0.5)
    return time.monotonic() - begun


def _requests(running: RunningServer, posts: Posts) -> list[bytes]:
    workload = posts.workload
    path = running.server.paths[workload]
    return [
        request_bytes(workload.method, path, workload.content_type, workload.accept, body.content)
        for body in posts.bodies
    ]


def of_wrk(offered: wrk.Offered) -> Figures:
    """Return what wrk found."""
    return Figures(
        offered_per_second=(offered.answered + offered.refused + offered.failed) / offered.seconds,
        answered_per_second=offered.answered / offered.seconds,
        p50_seconds=offered.p50_seconds,
        p99_seconds=offered.p99_seconds,
        p99_9_seconds=offered.p99_9_seconds,
        refused=offered.refused,
        refused_p99_seconds=None,
        failed=offered.failed,
    )


def of_h2load(sent: h2load.Sent, seconds: int) -> Figures:
    """Return what h2load found of what was sent within the seconds, and what was answered within them."""
    begin, end = h2load.RAMP_SECONDS, h2load.RAMP_SECONDS + seconds
    ends = sent.at + sent.seconds
    is_sent, is_ended = (sent.at >= begin) & (sent.at < end), (ends >= begin) & (ends < end)
    found = _figures(sent.status[is_sent], sent.seconds[is_sent], is_sent.sum() / seconds, seconds)
    return replace(found, answered_per_second=(sent.status[is_ended] == OK).sum().item() / seconds)


def of_answers(answers: Answers) -> Figures:
    """Return what our own client found."""
    status, latency = np.array(answers.status), np.array(answers.latency)
    return _figures(status, latency, answers.offered_per_second, answers.seconds)


def _figures(status: np.ndarray, latency: np.ndarray, per_second: float, seconds: float) -> Figures:
    good, refused = latency[status == OK], latency[np.isin(status, REFUSALS)]
    p50, p99, p99_9 = np.percentile(good, (50, 99, 99.9)).tolist() if len(good) else (None,) * 3
    return Figures(
        offered_per_second=float(per_second),
        answered_per_second=len(good) / seconds,
        p50_seconds=p50,
        p99_seconds=p99,
        p99_9_seconds=p99_9,
        refused=len(refused),
        refused_p99_seconds=float(np.percentile(refused, 99)) if len(refused) else None,
        failed=len(status) - len(good) - len(refused),
    )


def probed(answers: Answers) -> dict[str, int]:
    """Return how many requests a slow client sent, and how many of them were refused, with Retry-After."""
    refusals = [
        has for status, has in zip(answers.status, answers.has_retry_after, strict=True) if status in REFUSALS
    ]
    return {"sent": len(answers.status), "refused": len(refusals), "with_retry_after": sum(refusals)}


def _beside_bulk(running: RunningServer, posts: Posts, material: Material, seconds: int) -> dict[str, Any]:
    rows = np.arange(BULK_IMAGES) % len(material.images)
    requests = _requests(running, posts)

    def small() -> dict[str, Any]:
        return asdict(of_answers(offer(running.port, requests, SMALL_PER_SECOND, seconds)))

    alone = small()
    with _bulk(running.port, material.images[rows]) as counted:
        beside = small()
    return {"images": BULK_IMAGES, "alone": alone, "beside": beside, "bulk_requests": len(counted)}


@contextmanager
def _bulk(port: int, images: np.ndarray) -> Iterator[list[int]]:
    """Have one connection send the images again and again."""
    body = npy_bytes(images)
    statuses: list[int] = []
    is_over = threading.Event()
    headers = {"Content-Type": NPY_16.content_type, "Accept": NPY_16.accept}

    def send() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while not is_over.is_set():
            connection.request("POST", "/encode", body, headers)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        thread.join()
    if set(statuses) != {200}:
        raise BenchmarkError(f"bulk requests were answered {sorted(set(statuses))}")


def markdown(found: Mapping[str, Any]) -> str:
    """Return the tables."""
    lines = [
        f"| | {' | '.join(COLUMNS)} |",
        "| --- |" + " ---: |" * len(COLUMNS),
        *(row_of(row) for row in found["loads"]),
        "",
    ]
    bulk = found["beside_bulk"]
    alone, beside = bulk["alone"], bulk["beside"]
    lines += [
        f"One image a request, {SMALL_PER_SECOND:g} a second: p50 {_ms(alone['p50_seconds'])} ms and p99"
        f" {_ms(alone['p99_seconds'])} ms alone, {_ms(beside['p50_seconds'])} and"
        f" {_ms(beside['p99_seconds'])} ms beside a connection that sends {bulk['images']:,} images again"
        f" and again ({bulk['bulk_requests']} times). Not answered with 200:"
        f" {sum(part['refused'] + part['failed'] for part in (alone, beside))}.",
    ]
    for row in found["loads"]:
        if "probes" in row:
            probes = row["probes"]
            lines += [
                "",
                f"{row['contender']}: {row['workload']}, {row['load']:g} of the peak: of {probes['sent']}"
                f" requests of a slow client {probes['refused']} were refused,"
                f" {probes['with_retry_after']} with Retry-After.",
            ]
            if row["lone_request_taken_after_seconds"] is None:
                lines[-1] += f" A lone request is not taken {REST_SECONDS:g} s later."
            if row["unanswered"]:
                lines[-1] += (
                    f" {row['unanswered']:,} of h2load's requests were not answered, or not sent as one"
                    " before them was not."
                )
    return "\n".join(lines) + "\n"


def row_of(row: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    cells = [f"{row['contender']}: {row['workload']}", f"{row['load']:g}"]
    cells += [f"{row[f'{what}_per_second']:,.0f}" for what in ("asked", "offered", "answered")]
    cells += [_ms(row[f"{quantile}_seconds"]) for quantile in QUANTILES]
    cells += [f"{row['refused']:,}", _ms(row["refused_p99_seconds"]), f"{row['failed']:,}"]
    return "| " + " | ".join(cells) + " |"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f}"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw p50, p99 and p99.9 against the offered load, and what is answered of it."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    *latencies, goodput = figure.subplots(2, 2, sharex=True).flat
    for name in dict.fromkeys((row["contender"], row["workload"]) for row in rows):
        own = [row for row in rows if (row["contender"], row["workload"]) == name]
        loads = [row["load"] for row in own]
        for axes, quantile in zip(latencies, QUANTILES, strict=True):
            axes.plot(loads, [1e3 * (row[f"{quantile}_seconds"] or np.nan) for row in own])
        answered = [row["answered_per_second"] / row["peak_per_second"] for row in own]
        goodput.plot(loads, answered, label=": ".join(name))
    for axes, quantile in zip(latencies, QUANTILES.values(), strict=True):
        axes.set(ylabel=f"{quantile}, ms", yscale="log")
    goodput.set(ylabel="answered, of the peak")
    for axes in (latencies[-1], goodput):
        axes.set(xlabel="offered, of the peak")
    goodput.legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
