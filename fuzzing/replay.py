"""`python -m fuzzing.replay`: inputs tried once each, without atheris: the corpora and what was once a fault.

`python -m fuzzing.replay NAME FILE …` tries files with one target, and shows where one is at fault.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fuzzing.targets import NAMES, inputs, load


def replayed(name: str, files: Sequence[Path]) -> None:
    """Try files with a target; raise what it raises, with the file's path."""
    check = load(f"fuzzing.targets.{name}").check
    for path in files:
        try:
            check(path.read_bytes())
        except BaseException as error:
            error.add_note(f"of {path}")
            raise


def main() -> None:
    """Try what the arguments name, or everything."""
    name, *files = sys.argv[1:] or [""]
    for each in [name] if name else NAMES:
        paths = [Path(file) for file in files] or inputs(each)
        replayed(each, paths)
        print(f"{each}: {len(paths)} inputs", flush=True)


if __name__ == "__main__":
    main()
