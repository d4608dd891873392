"""What a run was trained with, as far as its weights may depend on it: code, versions, device, processes."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from training.distributed import Place

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "scikit-learn", "safetensors", "numba")


def environment(place: Place) -> dict[str, Any]:
    """Return the commit, the versions and the devices of this process, as JSON types."""
    return {
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "device": _device_name(place.device),
        "processes": place.world_size,
    }


def _git_commit() -> str | None:
    root = _git("rev-parse", "--show-toplevel")
    if root is None or Path(root) != PROJECT:
        return None  # a copy without its history, perhaps below somebody else's repository
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str | None:
    try:
        finished = subprocess.run(
            ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # an image without git
        return None
    return finished.stdout.strip() if finished.returncode == 0 else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread(s)"
