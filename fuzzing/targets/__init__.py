"""One module a target: `check(data)` raises where the service is at fault.

A target may have `MAX_BYTES` of an input, and `mended(data)`, which puts right the sums and lengths in an
input that would otherwise be refused for them alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
ROOM = Path(__file__).parent.parent
CORPORA, FAULTS, DICTIONARIES = (ROOM / name for name in ("corpora", "faults", "dictionaries"))
MAX_BYTES = 4096


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    check: Callable[[bytes], None]
    mended: Callable[[bytes], bytes] | None
    max_bytes: int


def load(module: str) -> Target:
    """Import a target by the name of its module."""
    found = importlib.import_module(module)
    return Target(found.check, getattr(found, "mended", None), getattr(found, "MAX_BYTES", MAX_BYTES))


def inputs(name: str) -> list[Path]:
    """Return the files that a target is to be tried with: its corpus, and what was once a fault."""
    return sorted(path for folder in (CORPORA / name, FAULTS / name) for path in folder.glob("*"))
