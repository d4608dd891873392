"""Where and with what the figures were measured."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What recorded runs write, as git's pathspecs, whose * is of any depth.
MEASURED = (
    *("benchmarks/*.json", "benchmarks/*.md", "benchmarks/*.png"),
    *("deploy/restricted/result.json", "fuzzing/results.json"),
)
PACKAGES = ("torch", "numpy", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic", "orjson")


def describe_run(program: str, arguments: Sequence[str] | None, *packages: str) -> dict[str, Any]:
    """Return what a record tells of its run, which `python -m PROGRAM ARGUMENTS` makes again."""
    given = sys.argv[1:] if arguments is None else arguments
    return {
        "command": shlex.join(["python", "-m", program, *given]),
        "machine": describe_machine(),
        "versions": describe_versions(*packages),
        "commit": describe_commit(),
    }


def describe_machine() -> dict[str, Any]:
    """Return the processor, how many cores we may use, and how busy they are before we begin."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_before": os.getloadavg()[0],
    }


def cpu_model(cpuinfo: str) -> str:
    """Return the first processor's name in the text of /proc/cpuinfo."""
    names = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def describe_versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of what serves, and of more packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in (*PACKAGES, *more)}}


def describe_commit() -> str:
    """Return the git commit, marked where files differ from it that were not measured; or "unknown".

    A run of several benchmarks writes one's results before the next begins: they change nothing that is run.
    """
    try:
        commit, root = _git("rev-parse", "HEAD"), _git("rev-parse", "--show-toplevel")
        changed = _git("-C", root, "status", "--porcelain", "--", ".", *(f":!{path}" for path in MEASURED))
        return f"{commit} with changes" if changed else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    shown = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return shown.stdout.strip()
