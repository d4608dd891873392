"""The hour that is kept: every target ran for it, and nothing was at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuzzing.running import HANG_SECONDS
from fuzzing.targets import NAMES

RESULTS = Path(__file__).parents[2] / "fuzzing" / "results.json"
SECONDS = 3600
FAULTS = ("crashes", "hangs", "out_of_memory")
KEPT: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))["targets"]


def test_every_target_is_there() -> None:
    assert KEPT.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_hour_found_no_fault(name: str) -> None:
    kept = KEPT[name]
    assert kept["seconds"] >= SECONDS
    assert kept["slowest_seconds"] < HANG_SECONDS
    assert {fault: kept[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0)
