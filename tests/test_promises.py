"""What SECURITY.md and docs/operations.md name as a test, a record or a command is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/operations.md"])
def test_every_promise_names_a_test_that_is_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    named = [path for row in rows for path in re.findall(r"`(tests/[^`]+)`", row)]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "document", ["SECURITY.md", "docs/operations.md", "docs/deploy.md", "docs/extend.md"]
)
def test_every_command_of_make_is_a_target(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for line in re.findall(r"(?:`|\$ )make ([a-z -]+)", text) for name in line.split()}
    assert named
    assert named <= targets


def test_every_linked_record_is_there() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
