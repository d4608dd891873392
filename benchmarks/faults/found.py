"""What a fault run found: figures, and the promises that they keep or break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setup:
    """What every fault is given."""

    bundle: str  # id of a shipped bundle, or a path
    folder: Path  # for logs and damaged copies
    scale: float = 1.0  # of how often, or for how long, each thing is done

    def times(self, count: float) -> int:
        """Return how often to do what the full run does so many times."""
        return max(1, round(self.scale * count))

    def seconds(self, seconds: float) -> int:
        """Return for how long to do what the full run does for so many seconds."""
        return max(2, round(self.scale * seconds))


@dataclass
class Row:
    """One fault, done some times."""

    fault: str
    times: int
    settings: Mapping[str, str] = field(default_factory=dict)  # of the service, beside the defaults
    figures: dict[str, Any] = field(default_factory=dict)
    promises: dict[str, bool] = field(default_factory=dict)  # in words, and whether they were kept

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept."""
        return [promise for promise, is_kept in self.promises.items() if not is_kept]

    def document(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        return {
            "fault": self.fault,
            "times": self.times,
            "settings": dict(self.settings),
            **self.figures,
            "promises": self.promises,
        }
