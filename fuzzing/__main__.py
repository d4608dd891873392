"""`python -m fuzzing`: every target at once, for a time each; faults are written to a folder and told."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.serving.machine import describe_run
from fuzzing.running import HANG_SECONDS, MAX_MEMORY_MB, Outcome, running
from fuzzing.targets import NAMES

PACKAGE = "fuzzing.targets"
VERSIONS = ("atheris", "pillow", "safetensors")


def main() -> int:
    """Run targets, print what came of each and keep it if asked to; return 1 where one was at fault."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, help="for logs, faults and inputs that were found")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    facts = {
        **describe_run("fuzzing", None, *VERSIONS),
        "limits": {"hang_seconds": HANG_SECONDS, "memory_mb": MAX_MEMORY_MB},
    }
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzzing-"))
    outcomes = fuzzed(options.targets or NAMES, options.seconds, folder.resolve())
    if options.results:
        document = {**facts, "targets": {name: asdict(outcome) for name, outcome in outcomes.items()}}
        options.results.write_text(json.dumps(document, indent=2) + "\n")
    return int(any(outcome.faults for outcome in outcomes.values()))


def fuzzed(names: Sequence[str], seconds: int, folder: Path) -> dict[str, Outcome]:
    """Run targets at once and print what came of each."""
    outcomes: dict[str, Outcome] = {}
    modules = [f"{PACKAGE}.{name}" for name in names]
    with running(modules, folder, f"-max_total_time={seconds}") as runs:
        for name, run in zip(names, runs.values(), strict=True):
            outcomes[name] = outcome = run.outcome(seconds)
            told = f"{outcome.executions} executions, {outcome.features} features"
            print(f"{name}: {told}, {outcome.peak_memory_mb} MB, {outcome.faults} faults", flush=True)
            if outcome.faults:
                print(f"{run.fault}\nsee {run.folder}", flush=True)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
