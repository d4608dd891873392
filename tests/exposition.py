"""What GET /metrics gives, and what docs/metrics.md says of it, in one form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


class Family(NamedTuple):
    """A metric's type and its labels."""

    type: str
    labels: frozenset[str]


def exposed(text: str) -> dict[str, Family]:
    """Return the families of an exposition; one without a sample has no labels."""
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for sample, found in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        name = sample if sample in types else re.sub(r"_(bucket|sum|count)$", "", sample)
        labels[name].update(re.findall(r'(\w+)="', found))
    return {name: Family(type, frozenset(labels[name] - {"le"})) for name, type in types.items()}


def documented() -> dict[str, Family]:
    """Return the families of the document's table."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT, re.MULTILINE)
    return {name: Family(type, frozenset(re.findall(r"`(\w+)`", labels))) for name, type, labels in rows}
