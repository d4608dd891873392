"""`python -m benchmarks.serving`: run the serving benchmark."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.serving import wrk
from benchmarks.serving.machine import describe_run
from benchmarks.serving.measurement import Measured, run_rounds
from benchmarks.serving.processes import BenchmarkError
from benchmarks.serving.report import write_report
from benchmarks.serving.running import Setup, started_contenders
from models.bundle import BundleError

BUSY_LOAD_AVERAGE = 0.5


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    parser.add_argument("--seconds", type=_positive, default=10, help="of load in each measurement")
    parser.add_argument("--rounds", type=_positive, default=5, help="measurements of each case, in turn")
    parser.add_argument("--threads", type=_positive, default=1, help="torch threads of each contender")
    parser.add_argument("--server-cpus", help="keep the contenders to these CPUs, such as 0 or 0-3")
    parser.add_argument("--load-cpus", help="keep the load generator to these CPUs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/serving/results"), help="folder to fill")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main() -> int:
    """Run the benchmark; return 0, or 1 where it could not be run or an answer was wrong."""
    options = parse_arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every contender is ended
    try:
        facts = _facts(options)
        with TemporaryDirectory(prefix="vaeserve-benchmark-") as folder:
            results = run(options, Path(folder))
        write_report(options.out, facts, results)
    except (BenchmarkError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((options.out / "results.md").read_text())
    return 0


def run(options: argparse.Namespace, folder: Path) -> list[Measured]:
    """Check and measure every case, and check again: load must not change an answer."""
    setup = Setup(options.bundle, options.threads, options.server_cpus, options.load_cpus, folder)
    with started_contenders(setup) as results:
        cases = [case for measured in results for case in measured.cases]
        for case in cases:
            case.check()
        print(f"the answers of {len(cases)} cases equal torch's")
        run_rounds(cases, options.rounds, options.seconds)
        for case in cases:
            case.check()
        return results


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    wrk_version = wrk.version()
    if (options.server_cpus or options.load_cpus) and shutil.which("taskset") is None:
        raise BenchmarkError("--server-cpus and --load-cpus need taskset, of the package util-linux")
    facts = describe_run("benchmarks.serving", None)
    if (load := facts["machine"]["load_average_before"]) > BUSY_LOAD_AVERAGE:
        print(f"warning: the load average is {load:.2f}; wait for a quiet machine", file=sys.stderr)
    facts["versions"]["wrk"] = wrk_version
    return {**facts, "settings": {name: value for name, value in vars(options).items() if name != "out"}}


if __name__ == "__main__":
    sys.exit(main())
