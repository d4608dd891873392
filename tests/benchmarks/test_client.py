"""The client's benchmark asks a real service, and shows every figure that it took."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy

from benchmarks.client import __main__ as benchmark
from benchmarks.serving.processes import BenchmarkError
from vaeserve_client import Encoded


@pytest.mark.slow
def test_both_classes_are_measured_against_a_real_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    assert benchmark.main(["--rounds", "1", "--calls", "2", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["command"] == f"python -m benchmarks.client --rounds 1 --calls 2 --out {out}"
    assert written["batch"] == 64
    assert [found["class"] for found in written["rounds"]] == ["Client", "AsyncClient"]
    for found in written["rounds"]:
        assert found["ratio"] == found["client_ms"] / found["bare_ms"]
        assert found["cpu_ratio"] == found["client_cpu_ms"] / found["bare_cpu_ms"]
        assert written["medians"][found["class"]].items() <= found.items()
    assert capsys.readouterr().out.count("\n| `") == 2


def test_a_service_that_does_not_start_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "BUNDLE", "none-such")
    assert benchmark.main(["--out", str(tmp_path / "results.json")]) == 1
    assert "error: app ended with status 1" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_medians_leave_the_first_calls_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "WARM_UP_CALLS", 1)
    clock = iter([0, 9, 0, 9, 0, 2, 0, 3])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    processor = iter([0, 9, 0, 9, 0, 4, 0, 5])
    monkeypatch.setattr("time.thread_time", lambda: next(processor))
    pair = benchmark.Pair()
    for name in ("bare", "client", "bare", "client"):
        with pair.timed(name):
            pass
    medians = pair.medians()
    assert (medians["bare_ms"], medians["client_ms"], medians["ratio"]) == (2000, 3000, 1.5)
    assert (medians["bare_cpu_ms"], medians["client_cpu_ms"], medians["cpu_ratio"]) == (4000, 5000, 1.25)


def test_each_goes_first_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "WARM_UP_CALLS", 1)
    assert list(benchmark.in_turns(1)) == ["client", "bare", "bare", "client"]


def test_another_answer_ends_it() -> None:
    mu = np.ones((2, 3), np.float32)
    answer = httpx.Response(
        200, content=safetensors.numpy.save({"mu": mu}), request=httpx.Request("POST", "http://x")
    )
    benchmark.check(answer, Encoded(mu, mu))
    with pytest.raises(BenchmarkError, match="another than bare httpx's"):
        benchmark.check(answer, Encoded(2 * mu, mu))
