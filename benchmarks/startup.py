"""`python -m benchmarks.startup`: from start to ready, against what `import torch` alone costs.

The two are measured in turn, so that a machine that is slow for a while is slow for both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving.processes import free_port, started, wait_until_ready


def seconds_to_import_torch() -> float:
    """Return the wall time of a process that imports torch and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begun


def seconds_to_ready(folder: Path, bundle: str) -> float:
    """Return the wall time from starting the service to its first 200 from /health/ready."""
    port = free_port()
    environment = {**os.environ, "VAE_PORT": str(port), "VAE_MODELS": bundle, "VAE_DEVICE": "cpu"}
    begun = time.perf_counter()
    with started([sys.executable, "-m", "app"], log=folder / "app.log", environment=environment) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health/ready")
        return time.perf_counter() - begun


def main() -> None:
    """Measure in turn and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bundle", default="fashion-mnist")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        seconds_to_ready(Path(folder), options.bundle)  # the first reads everything from the disk
        rounds = [
            (seconds_to_import_torch(), seconds_to_ready(Path(folder), options.bundle))
            for _ in range(options.rounds)
        ]
    imports, readies = zip(*rounds, strict=True)
    beyond = statistics.median(ready - imported for imported, ready in rounds)
    print(f"import torch       {statistics.median(imports):.2f} s")
    print(f"start to ready     {statistics.median(readies):.2f} s")
    print(f"beyond the import  {beyond:.2f} s (medians of {options.rounds} rounds)")


if __name__ == "__main__":
    main()
