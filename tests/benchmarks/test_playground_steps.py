"""The benchmark of the playground drags a real slider in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import playground


def test_without_a_browser_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert playground.main([]) == 1
    assert "error: no chromium on this machine" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_drag_is_measured_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(playground, "BUNDLES", ("mnist",))
    assert playground.main(["--events", "20", "--out", str(tmp_path / "playground.json")]) == 0
    written = json.loads((tmp_path / "playground.json").read_text())
    (row,) = written["rows"]
    assert (row["bundle"], row["events"]) == ("mnist", 20)
    assert 1 <= row["painted"] <= 20
    assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert written["versions"].keys() >= {"chromium", "playwright"}
    assert capsys.readouterr().out.startswith(f"mnist: {row['painted']} steps, median ")
