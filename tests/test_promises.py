"""What SECURITY.md and docs/operations.md name as a test, a record or a command is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.documents import made_targets, make_targets

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/operations.md"])
def test_every_promise_names_files_that_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    named = [path for row in rows for path in re.findall(r"`(tests/[^`:]+)", row)]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def is_there(test: str) -> bool:
    """Tell whether a test, as pytest writes it, is in its file: in its class, where it names one."""
    file, *of_class, name = test.split("::")
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for of in of_class:
        body = next((each.body for each in body if isinstance(each, ast.ClassDef) and each.name == of), [])
    return name in {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_of_operations_names_the_tests_that_hold_it() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    promises = text.partition("## Promises")[2].partition("## ")[0]
    _, _, *rows = [line for line in promises.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row)
        assert named, row
        assert [test for test in named if "::" not in test or not is_there(test)] == []


def test_a_test_that_is_not_there_is_told_from_one_that_is() -> None:
    here = "tests/test_promises.py"
    assert is_there(f"{here}::test_a_test_that_is_not_there_is_told_from_one_that_is")
    assert is_there("tests/app/test_batcher.py::test_a_full_queue_refuses_at_once")
    assert is_there("tests/models/test_images.py::TestDecompressionBombs::test_huge_header")
    assert not is_there(f"{here}::test_a_test")
    assert not is_there("tests/models/test_images.py::test_huge_header")
    assert not is_there("tests/models/test_images.py::TestBombs::test_huge_header")


@pytest.mark.parametrize(
    "document", ["SECURITY.md", "docs/operations.md", "docs/deploy.md", "docs/extend.md"]
)
def test_every_command_of_make_is_a_target(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert made_targets(text)
    assert made_targets(text) <= make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))


def test_every_linked_record_is_there() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
