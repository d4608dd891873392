"""The benchmark of the routes asks a real service, and shows every figure that it took."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.compression import service
from benchmarks.serving.processes import BenchmarkError
from models.bundle import SHIPPED


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BUNDLES", ("mnist",))

    def images(bundle: str, count: int) -> np.ndarray:
        return load_file(SHIPPED / bundle / "golden.safetensors")["levels"][:count]

    monkeypatch.setattr(service, "test_images", images)


def test_every_manner_is_asked_of_a_real_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service.main(["--images", "2", "--out", str(tmp_path / "service.json")]) == 0
    rows = json.loads((tmp_path / "service.json").read_text())["rows"]
    assert [row["manner"] for row in rows] == list(service.MANNERS)
    figures = {f"{route}_{name}_ms" for route in ("compress", "decompress") for name in ("p50", "p99")}
    assert all(row.keys() == {"bundle", "manner", *figures} for row in rows)
    assert capsys.readouterr().out.count("\n| `") == len(service.MANNERS)


def test_an_answer_that_is_none_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "MANNERS", ("quality=0",))
    assert service.main(["--images", "1"]) == 1
    assert "error: POST /compress?model=mnist&format=payload&quality=0: 422" in capsys.readouterr().err


def test_another_image_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "decode_image", lambda data, limit: np.zeros((28, 28, 1), np.uint8))
    with pytest.raises(BenchmarkError, match="mnist, effort=best: another image came back"):
        service.measure(1)


def test_a_table_has_the_median_and_the_99th_percentile_of_both_routes() -> None:
    figures = {
        "compress_p50_ms": 1.04,
        "compress_p99_ms": 2,
        "decompress_p50_ms": 3,
        "decompress_p99_ms": 4.06,
    }
    shown = service.table(
        [{"bundle": "a", "manner": "x"} | figures, {"bundle": "b", "manner": "x"} | figures]
    )
    assert shown == "| | a | b |\n| --- | ---: | ---: |\n" + (
        "| `x` | 1.0 (2.0), 3.0 (4.1) | 1.0 (2.0), 3.0 (4.1) |\n"
    )
    assert service.percentiles([1.0, 3.0, 2.0])["p50_ms"] == 2
