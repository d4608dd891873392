"""What the lock files say."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVICE, DEVELOPMENT, TORCH = "requirements.lock", "requirements-dev.lock", "torch.lock"


def locked(file: str) -> dict[str, set[str]]:
    """The hashes of each requirement of a lock file."""
    hashes: dict[str, set[str]] = defaultdict(set)
    requirement = ""
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r" +--hash=(sha256:[0-9a-f]{64})(?: \\)?", line):
            hashes[requirement].add(found[1])
        elif not line.startswith("#"):
            requirement = line.removesuffix("\\").strip()
            hashes[requirement] = set()
    return dict(hashes)
