"""`python -m benchmarks.conformance`: the OpenAPI document, held against the service by Schemathesis.

Starts the service, has every operation asked what the document allows and what it does not, in rounds of
a seed each until there are enough cases, and writes results.json after each. The exit status is 1 where an
answer was not as documented.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.conformance.running import Found, conformance, summary
from benchmarks.serving.machine import describe_run
from benchmarks.serving.processes import BenchmarkError, free_port, started, wait_until_ready

RESULTS = Path(__file__).with_name("results.json")
SETTINGS = {
    "VAE_MODELS": "fashion-mnist,cifar10",
    "VAE_MAX_SAMPLES": "64",  # of a request that the document allows, so that none takes minutes
    "VAE_MAX_SCORE_SAMPLES": "32",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write what was found and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="at least, of all operations together")
    parser.add_argument("--examples", type=int, default=200, help="of each operation in a round, at most")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    facts: dict[str, Any] = {
        **describe_run("benchmarks.conformance", arguments, "schemathesis", "hypothesis"),
        "settings": SETTINGS,
    }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **SETTINGS, "VAE_PORT": str(port)}
    try:
        with TemporaryDirectory() as name:
            folder = Path(name)
            command = [sys.executable, "-m", "app"]
            with started(command, log=folder / "service.log", environment=environment) as process:
                wait_until_ready(process, f"{url}/health/ready")
                told: dict[str, Any] = {"cases": 0, "failures": []}
                rounds: list[Found] = []
                while told["cases"] < options.cases and not told["failures"]:
                    seed = len(rounds) + 1
                    rounds.append(conformance(url, folder, examples=options.examples, seed=seed))
                    told = summary(rounds)
                    options.out.write_text(json.dumps({**facts, **told}, indent=2) + "\n", encoding="utf-8")
                    print(rounds[-1].output)
                process.raise_if_ended()
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    line = "{cases} cases, {with_body} with a body; {valid_answered_2xx} of {valid} valid ones answered 2xx"
    print(line.format_map(told))
    return 1 if told["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
