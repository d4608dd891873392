"""Which files a corpus keeps, and what libFuzzer says of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fuzzing import corpora
from fuzzing.corpora import chosen, reached_of, tended
from fuzzing.seeds import seeds_of

CONTROL = """3
0
/a
/b
/c
STARTED 0 7
FT 0 1 2 30
COV 0 5
STARTED 1 8
FT 1
COV 1
STARTED 2 9
"""


def test_a_merges_control_file_tells_what_each_file_reached() -> None:
    assert reached_of(CONTROL) == {Path("/a"): {1, 2, 30}, Path("/b"): set()}  # the last was not ended


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files of 1, 2, 3 and 4 bytes."""
    paths = [tmp_path / name for name in "abcd"]
    for size, path in enumerate(paths, 1):
        path.write_bytes(bytes(size))
    return paths


def test_files_are_kept_that_add_the_most_and_of_those_the_smallest(files: list[Path]) -> None:
    a, b, c, d = files
    assert chosen({a: {1}, b: {1, 2}, c: {2, 3, 4}, d: {3, 4, 1}}, []) == [c, a]
    assert chosen({a: {1, 2}, b: {2, 3}, c: {3, 1}, d: set()}, []) == [a, b]


def test_seeds_are_kept_whatever_they_reach(files: list[Path]) -> None:
    a, b, c, d = files
    assert chosen({a: set(), b: {1}, c: {1, 2}, d: {1}}, [a, b, a]) == [a, b, c]


def test_a_corpus_is_of_few_files(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "MAX_FILES", 2)
    assert chosen({path: {number} for number, path in enumerate(files)}, []) == files[:2]


def test_a_corpus_is_of_few_bytes(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "MAX_CORPUS_BYTES", 6)
    a, b, c, d = files
    assert chosen({a: {1}, b: {2}, c: {3}, d: {4, 5}}, []) == [d, a]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not here")
def test_a_corpus_is_made_of_its_seeds_and_what_reaches_further(tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "same").write_bytes(b'{"images": []}')
    (found / "alike").write_bytes(b'{"images":   []}')
    seeds = list(seeds_of("document"))
    kept = tended("document", [found], tmp_path / "corpora")
    assert kept == [*seeds, b'{"images": []}']
    assert sorted(path.read_bytes() for path in (tmp_path / "corpora" / "document").iterdir()) == sorted(kept)
    assert tended("document", [], tmp_path / "corpora") == kept
