"""What a soak and a profile come to, of figures whose sums are known."""

from __future__ import annotations

import json
import os
import pstats
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.serving.hot_path import OTHER, PARTS, by_part, table
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.soak import memory_by_mapping, plot, refused, resident_bytes, summary
from tests.bundles import save_small_bundle, small_config
from tests.servers import running


def row(requests: int, mebibytes: int, files: int, p50: float, is_warm_up: bool = False) -> dict[str, object]:
    return {
        "workload": "npy",
        "is_warm_up": is_warm_up,
        "requests": requests,
        "resident_bytes": mebibytes << 20,
        "open_files": files,
        "p50_seconds": p50,
    }


def test_growth_is_counted_from_the_end_of_the_warm_up(tmp_path: Path) -> None:
    rows = [
        row(5, 300, 9, 1.0, True),
        row(10, 400, 10, 9.0, True),
        row(20, 420, 12, 1.0),
        row(30, 410, 11, 1.6),
    ]
    assert summary(rows) == {
        "requests": 30,
        "resident_bytes_after_warm_up": 400 << 20,
        "resident_bytes_growth": 10 << 20,
        "resident_bytes_most_growth": 20 << 20,
        "open_files_growth": 1,
        "p50_last_over_first": {"npy": 1.6},
        "promises": {
            "at most 20 MB more after the warm-up": False,
            "no descriptor more": False,
            "at most 1.5 times as long in the end": False,
        },
    }
    plot(rows, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_that_after_the_same_workload() -> None:
    large = {"workload": "256 npy"}
    rows = [row(5, 430, 9, 1.0, True) | large, row(10, 400, 10, 9.0, True)]
    rows += [row(15, 435, 9, 1.0) | large, row(20, 412, 9, 1.0), row(25, 400, 9, 1.0) | large]
    found = summary(rows)
    assert found["resident_bytes_most_growth"] == 12 << 20
    assert found["resident_bytes_growth"] == -30 << 20
    assert all(found["promises"].values())


def test_a_soak_without_growth_keeps_its_promises() -> None:
    rows = [row(10, 400, 10, 9.0, True), row(20, 415, 12, 1.0), row(30, 395, 10, 1.5)]
    assert all(summary(rows)["promises"].values())


def test_a_soak_that_only_warmed_up_has_no_figures() -> None:
    with pytest.raises(BenchmarkError, match="10 requests were over before the warm-up was"):
        summary([row(10, 400, 10, 1.0, True)])


def test_memory_is_read_from_the_kernel() -> None:
    before = resident_bytes(os.getpid())
    held = bytearray(os.urandom(1 << 26))
    assert resident_bytes(os.getpid()) > before + len(held) // 2


def test_memory_is_told_by_what_it_is_mapped_from() -> None:
    before = memory_by_mapping(os.getpid())
    held = bytearray(os.urandom(1 << 26))
    after = memory_by_mapping(os.getpid())
    assert after["anonymous"] > before["anonymous"] + len(held) // 2
    assert after.pop("all") == sum(after.values())
    assert "libtorch_cpu.so" in after


def test_the_service_tells_what_it_refused(tmp_path: Path) -> None:
    save_small_bundle(tmp_path / "grey", small_config((1, 8, 8)))
    with running(tmp_path, models=(str(tmp_path / "grey"),)) as service:
        port = httpx.URL(service.url).port
        assert port is not None
        service.client.get("/sample").raise_for_status()
        assert refused(port) == "it counts none that it refused"
        assert service.client.post("/encode", content=b"{}").status_code == 415
        assert refused(port) == 'vae_requests_total{route="/encode",status="415"} 1.0'


def test_what_c_does_counts_for_its_caller() -> None:
    pillow, batcher, built_in = ("/x/PIL/a.py", 1, "f"), ("/x/app/batcher.py", 1, "g"), ("~", 0, "<decode>")
    functions = {
        pillow: (1, 1, 1.0, 1.0, {}),
        batcher: (1, 1, 0.5, 0.5, {}),
        built_in: (2, 2, 6.0, 6.0, {pillow: (1, 1, 4.0, 4.0), batcher: (1, 1, 2.0, 2.0)}),
        ("/x/os.py", 1, "h"): (1, 1, 0.25, 0.25, {}),
    }
    stats = pstats.Stats()
    stats.stats = functions  # type: ignore[attr-defined]
    assert by_part(stats) == {"image decoding": 5.0, "batcher and event loop": 2.5, OTHER: 0.25}


def test_names_are_columns() -> None:
    parts = dict.fromkeys((*PARTS, OTHER), 1.4)
    kept = {"before": {"microseconds": 20.0, "parts": parts}, "now": {"microseconds": 9.6, "parts": parts}}
    lines = table(json.loads(json.dumps(kept))).splitlines()
    assert lines[0] == "| µs a request | before | now |"
    assert lines[-1] == "| all | 20 | 10 |"
    assert len(lines) == 3 + len(parts)


def test_the_bare_loop_loads_nothing_of_the_service() -> None:
    look = "import sys, benchmarks.serving.torch_loop; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", look], text=True).split())
    assert {"torch", "models.vae"} <= loaded
    assert {"app", "codec", "numba", "fastapi", "PIL"}.isdisjoint(loaded)
