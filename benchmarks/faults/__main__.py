"""`python -m benchmarks.faults`: break things around the real service, and hold it to its promises."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.faults import (
    bombs,
    bundles,
    clock,
    disconnects,
    disk_full,
    hang,
    kill,
    memory,
    overload,
    payloads,
    sigterm,
    slow_clients,
)
from benchmarks.faults.found import Row, Setup
from benchmarks.serving.machine import describe_commit, describe_machine, describe_versions
from benchmarks.serving.processes import BenchmarkError

RESULTS = Path(__file__).with_name("results.json")
FAULTS: Mapping[str, Callable[[Setup], list[Row]]] = {
    "sigterm": sigterm.run,
    "kill": kill.run,
    "hang": hang.run,
    "bundles": bundles.run,
    "payloads": payloads.run,
    "bombs": bombs.run,
    "slow_clients": slow_clients.run,
    "overload": overload.run,
    "disk_full": disk_full.run,
    "disconnects": disconnects.run,
    "clock": clock.run,
    "memory": memory.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run faults; return 0, or 1 where a promise was broken or one could not be run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every service is ended
    broken = []
    for name in options.names or FAULTS:
        facts = {
            "command": command_of(options, name),
            "machine": describe_machine(),
            "versions": describe_versions(),
            "commit": describe_commit(),
        }
        try:
            with TemporaryDirectory(prefix="vaeserve-faults-") as folder:
                rows = FAULTS[name](Setup(options.bundle, Path(folder), options.scale))
        except BenchmarkError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            broken.append(name)
            continue
        keep(options.out, name, {**facts, "rows": [row.document() for row in rows]})
        for row in rows:
            print(told(row), flush=True)
            broken += row.broken
    return 1 if broken else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}; all by default")
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--scale", type=float, default=1.0, help="of how often or long each thing is done")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results to put the rows into")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    return options


def command_of(options: argparse.Namespace, name: str) -> str:
    """Return the command that runs one fault as it was run."""
    command = ["python", "-m", "benchmarks.faults", name]
    if options.scale != 1.0:
        command += ["--scale", f"{options.scale:g}"]
    return shlex.join([*command, "--bundle", options.bundle])


def keep(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Put what was found of one fault into the file, beside what it has of others."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[name] = found
    ordered = {name: kept[name] for name in FAULTS if name in kept}
    path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def told(row: Row) -> str:
    """Return a row for a person: each promise with a mark, and the figures."""
    lines = [f"{row.fault} ({row.times} times)"]
    lines += [
        f"  {'kept  ' if is_kept else 'BROKEN'}  {promise}" for promise, is_kept in row.promises.items()
    ]
    lines += [f"          {name}: {value}" for name, value in row.figures.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
