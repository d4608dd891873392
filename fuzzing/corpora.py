"""`python -m fuzzing.corpora`: make and tend the corpora, few files that reach together what many did.

A corpus has the target's seeds, as nothing tells what they reach in native code. Of what it had besides and
of what runs found (`--from`, the folder of `python -m fuzzing --folder`) those are kept, one by one, that
reach the most that is new, until there are enough or none adds anything.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fuzzing.running import environment
from fuzzing.seeds import seeds_of
from fuzzing.targets import CORPORA, NAMES, ROOM

MAX_FILES, MAX_CORPUS_BYTES = 80, 64 << 10


def main() -> None:
    """Tend the corpora of targets."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing.corpora", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument(
        "--from", type=Path, action="append", default=[], dest="folders", help="folder of a run"
    )
    parser.add_argument("--to", type=Path, default=CORPORA, help="folder of the corpora")
    options = parser.parse_args()
    for name in options.targets or NAMES:
        found = [folder.resolve() / name / "found" for folder in options.folders]
        files = tended(name, found, options.to)
        print(f"{name}: {len(files)} files, {sum(map(len, files))} bytes", flush=True)


def tended(name: str, found: Sequence[Path], to: Path = CORPORA) -> list[bytes]:
    """Write a target's corpus anew, from its seeds, what it was and what was found; return it."""
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder) / "everything"
        everything.mkdir()
        before = [path.read_bytes() for source in (to / name, *found) for path in source.glob("*")]
        seeds = [_named(everything, data) for data in seeds_of(name)]
        for data in before:
            _named(everything, data)
        kept = [path.read_bytes() for path in chosen(_reached(name, everything), seeds)]
    (to / name).mkdir(parents=True, exist_ok=True)
    for path in (to / name).iterdir():
        path.unlink()
    for data in kept:
        _named(to / name, data)
    return kept


def chosen(reached: Mapping[Path, set[int]], seeds: Sequence[Path]) -> list[Path]:
    """Return the seeds, and files that add the most features, one after the other, within a corpus's limits.

    Of files that add as many, the smallest.
    """
    kept = list(dict.fromkeys(seeds))
    left = {path: features for path, features in reached.items() if path not in kept}
    have = set[int]().union(*(reached.get(path, ()) for path in kept))
    room = MAX_CORPUS_BYTES - sum(path.stat().st_size for path in kept)
    while len(kept) < MAX_FILES:
        adds = {path: len(features - have) for path, features in left.items() if path.stat().st_size <= room}
        best = max(adds, key=lambda path: (adds[path], -path.stat().st_size, path), default=None)
        if best is None or adds[best] == 0:
            break
        have |= left.pop(best)
        room -= best.stat().st_size
        kept.append(best)
    return kept


def _named(folder: Path, data: bytes) -> Path:
    """Write a file by the name that libFuzzer would give it."""
    path = folder / hashlib.sha1(data).hexdigest()
    path.write_bytes(data)
    return path


def _reached(name: str, folder: Path) -> dict[Path, set[int]]:
    """Return the features that each file of a folder reaches, as libFuzzer counts them."""
    control, paths = folder.parent / "control", sorted(folder.iterdir())
    control.write_text("\n".join([str(len(paths)), "0", *map(str, paths), ""]))
    # The inner part of libFuzzer's merge: the outer one starts processes of its own, by a program's path.
    options = ("-merge_inner=2", f"-merge_control_file={control}")
    command = [sys.executable, "-m", "fuzzing.driver", f"fuzzing.targets.{name}", *options]
    subprocess.run(command, cwd=ROOM.parent, env=environment(), check=True, capture_output=True)
    return reached_of(control.read_text())


def reached_of(control: str) -> dict[Path, set[int]]:
    """Read a merge's control file: how many files, how many of a first corpus, names; then

    STARTED number size, FT number features …, COV number edges ….
    """
    lines = control.splitlines()
    paths = [Path(line) for line in lines[2 : 2 + int(lines[0])]]
    words = [line.split() for line in lines[2 + len(paths) :]]
    return {paths[int(number)]: set(map(int, features)) for kind, number, *features in words if kind == "FT"}


if __name__ == "__main__":
    main()
