"""What was compiled before is found, where the cache is laid out anew at every start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codec.compiled import lay_out

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from codec import compiled
compiled.lay_out(*map(Path, sys.argv[1:]))
from codec import rans
rans.cost(7)
print(sum(rans.cost.stats.cache_hits.values()))
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "shipped"
    (folder / "codec_1").mkdir(parents=True)
    (folder / "codec_1" / "push.nbi").write_bytes(b"index")
    return folder


def test_what_was_compiled_before_is_copied(shipped: Path, tmp_path: Path) -> None:
    cache = tmp_path / "made" / "too" / "cache"
    lay_out(shipped, cache)
    assert (cache / "codec_1" / "push.nbi").read_bytes() == b"index"
    assert list(cache.parent.iterdir()) == [cache]


def test_a_cache_that_is_there_is_left_alone(shipped: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    lay_out(shipped, cache)
    assert list(cache.iterdir()) == []


def test_without_anything_compiled_before_there_is_no_cache(tmp_path: Path) -> None:
    lay_out(tmp_path / "nowhere", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_process_may_be_first(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, rename = tmp_path / "cache", Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        (target / "of another").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    lay_out(shipped, cache)
    assert [path.name for path in cache.iterdir()] == ["of another"]


def test_a_cache_that_cannot_be_made_is_told(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        lay_out(shipped, tmp_path / "cache")


@pytest.mark.slow
def test_numba_takes_what_was_laid_out(tmp_path: Path) -> None:
    def hits(shipped: Path, cache: Path) -> int:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
        command = [sys.executable, "-c", PROGRAM, shipped, cache]
        return int(
            subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        )

    assert hits(tmp_path / "nowhere", tmp_path / "built") == 0
    assert hits(tmp_path / "built", tmp_path / "started") == 1
