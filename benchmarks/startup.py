"""`python -m benchmarks.startup`: from start to ready, against what `import torch` alone costs.

The two are measured in turn, so that a machine that is slow for a while is slow for both. Writes
startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving.machine import describe_run
from benchmarks.serving.processes import BenchmarkError, free_port, started, wait_until_ready

RESULTS = Path(__file__).with_name("startup.json")


def seconds_to_import_torch() -> float:
    """Return the wall time of a process that imports torch and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begun


def seconds_to_ready(folder: Path, bundle: str) -> float:
    """Return the wall time from starting the service to its first 200 from /health/ready."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    environment = {**inherited, "VAE_PORT": str(port), "VAE_MODELS": bundle, "VAE_DEVICE": "cpu"}
    begun = time.perf_counter()
    with started([sys.executable, "-m", "app"], log=folder / "app.log", environment=environment) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health/ready")
        return time.perf_counter() - begun


def main() -> int:
    """Measure in turn, write the rounds and print the medians; return 1 where the service did not start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="1-100", default=5)
    parser.add_argument("--bundle", default="fashion-mnist", help="id of a shipped bundle, or a path")
    options = parser.parse_args()
    facts = describe_run("benchmarks.startup", None)
    try:
        with TemporaryDirectory() as folder:
            seconds_to_ready(Path(folder), options.bundle)  # the first reads everything from the disk
            rounds = [
                {
                    "import_seconds": seconds_to_import_torch(),
                    "ready_seconds": seconds_to_ready(Path(folder), options.bundle),
                }
                for _ in range(options.rounds)
            ]
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    RESULTS.write_text(json.dumps({**facts, "rounds": rounds}, indent=2) + "\n")
    imports, readies = ([found[name] for found in rounds] for name in ("import_seconds", "ready_seconds"))
    beyond = statistics.median(ready - imported for imported, ready in zip(imports, readies, strict=True))
    print(f"import torch       {statistics.median(imports):.2f} s")
    print(f"start to ready     {statistics.median(readies):.2f} s")
    print(f"beyond the import  {beyond:.2f} s (medians of {options.rounds} rounds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
