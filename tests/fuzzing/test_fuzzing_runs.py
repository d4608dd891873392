"""Targets under libFuzzer: sound ones stay so for a minute, and what is planted is found and told."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzzing import __main__ as command
from fuzzing.running import HANG_SECONDS, FuzzingError, Run, environment, running
from fuzzing.targets import NAMES, inputs

SECONDS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Every target, all at once: on two cores they take as long as one alone would four times."""
    modules = [f"fuzzing.targets.{name}" for name in NAMES]
    with running(modules, tmp_path_factory.mktemp("fuzzing"), f"-max_total_time={SECONDS}") as started:
        yield started


@pytest.mark.parametrize("name", NAMES)
def test_a_minute_finds_no_fault(runs: dict[str, Run], name: str) -> None:
    run = runs[f"fuzzing.targets.{name}"]
    outcome = run.outcome(SECONDS)
    assert outcome.faults == 0, run.fault
    assert outcome.executions > len(inputs(name))
    assert outcome.features > outcome.edges > 0


PLANTED = {
    "raising": ("crashes", "RecursionError: planted"),
    "failing": ("crashes", "AssertionError: planted"),
    "hanging": ("hangs", "hanging.py"),
    "growing": ("out_of_memory", ""),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    modules = [f"tests.fuzzing.planted.{name}" for name in PLANTED]
    options = (f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=1024")
    with running(modules, tmp_path_factory.mktemp("planted"), *options) as started:
        yield started


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(planted: dict[str, Run], name: str) -> None:
    field, told = PLANTED[name]
    run = planted[f"tests.fuzzing.planted.{name}"]
    outcome = run.outcome(SECONDS)
    assert {kind: getattr(outcome, kind) for kind in ("crashes", "hangs", "out_of_memory")} == {
        "crashes": 0,
        "hangs": 0,
        "out_of_memory": 0,
        field: 1,
    }
    assert told in run.fault
    assert len(list(run.folder.glob("[cto]*-*"))) == 1


@pytest.mark.parametrize(("slowest", "hangs"), [(HANG_SECONDS - 1, 0), (HANG_SECONDS, 1)])
def test_an_input_that_ends_too_late_is_a_hang_too(tmp_path: Path, slowest: int, hangs: int) -> None:
    statistics = {"number_of_executed_units": 5, "slowest_unit_time_sec": slowest, "peak_rss_mb": 70}
    lines = [f"stat::{name}: {number}\n" for name, number in statistics.items()]
    (tmp_path / "log").write_text("".join(lines))
    outcome = Run(subprocess.Popen(["true"]), tmp_path, time.monotonic()).outcome(0)
    assert (outcome.slowest_seconds, outcome.hangs, outcome.faults) == (slowest, hangs, hangs)


def test_the_command_runs_targets_and_keeps_what_came_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    arguments = ["document", "--seconds", "2", "--folder", str(tmp_path), "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["fuzzing", *arguments])
    assert command.main() == 0
    document = json.loads(results.read_text())
    assert document.keys() == {"command", "machine", "versions", "commit", "limits", "targets"}
    assert "atheris" in document["versions"]
    found = document["targets"]["document"]
    assert (found["crashes"], found["hangs"], found["out_of_memory"]) == (0, 0, 0)
    assert capsys.readouterr().out.startswith(f"document: {found['executions']} executions, ")


def test_the_command_fails_where_a_target_is_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PACKAGE", "tests.fuzzing.planted")
    monkeypatch.setattr("sys.argv", ["fuzzing", "raising", "--folder", str(tmp_path)])
    monkeypatch.setattr(command, "NAMES", ("raising",))
    assert command.main() == 1
    told = capsys.readouterr().out
    assert "1 faults" in told
    assert "RecursionError: planted" in told
    assert str(tmp_path / "raising") in told


def test_a_target_that_does_not_run_is_no_success(tmp_path: Path) -> None:
    module = "tests.fuzzing.planted.missing"
    with running([module], tmp_path) as runs, pytest.raises(FuzzingError, match="ModuleNotFoundError"):
        runs[module].outcome(1)


def test_faults_of_an_earlier_run_are_not_counted_again(tmp_path: Path) -> None:
    (tmp_path / "raising").mkdir()
    (tmp_path / "raising" / "crash-abc").write_bytes(b"abc")
    module = "tests.fuzzing.planted.raising"
    with pytest.raises(FuzzingError, match="has faults of an earlier run"), running([module], tmp_path):
        pass


def test_coverage_and_the_services_settings_do_not_reach_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COVERAGE_PROCESS_START", "VAE_MAX_IMAGES"):
        monkeypatch.setenv(name, "1")
    assert environment().keys() == {
        name for name in (*os.environ, "OMP_NUM_THREADS") if not name.startswith(("COV", "VAE_"))
    }


def test_a_target_that_does_not_end_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.running.START_SECONDS", 0)
    module = "tests.fuzzing.planted.hanging"
    with running([module], tmp_path) as runs, pytest.raises(FuzzingError, match="hanging: still runs"):
        runs[module].outcome(0)
    assert runs[module].process.returncode != 0
