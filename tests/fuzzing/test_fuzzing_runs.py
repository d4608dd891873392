"""Targets under libFuzzer: sound ones stay so for a minute, and what is planted is found and told."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from fuzzing.running import Run, running
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
    "failing": ("crashes", "app.errors.Problem: planted"),
    "hanging": ("hangs", "hanging.py"),
    "growing": ("out_of_memory", ""),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    modules = [f"tests.fuzzing.planted.{name}" for name in PLANTED]
    options = (f"-max_total_time={SECONDS}", "-timeout=3")
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
