"""Schemathesis, run against a service, and what it found."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.negotiation.media import NPY, PAYLOAD
from benchmarks.conformance.bodies import npy
from benchmarks.serving.processes import BenchmarkError

CONFIG = Path(__file__).with_name("schemathesis.toml")
LOG_CHARACTERS = 6000


@dataclass(frozen=True)
class Found:
    """How many cases were answered how, and what Schemathesis reports and prints."""

    counts: Counter[str]
    report: dict[str, Any]
    output: str

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Answers that were not as documented, each kind once, and what could not be tested."""
        return [*self.report["failures"], *self.report["errors"]]


def summary(rounds: Sequence[Found]) -> dict[str, Any]:
    """Return what is to be kept of all rounds together."""
    operations = tabulated(sum((found.counts for found in rounds), Counter()))
    rows = operations.values()
    return {
        "seeds": [found.report["seed"] for found in rounds],
        "seconds": round(sum(found.report["running_time"] for found in rounds)),
        "cases": sum(row["cases"] for row in rows),
        "with_body": sum(
            count for row in rows for statuses in row["bodies"].values() for count in statuses.values()
        ),
        "valid": sum(row["valid"] for row in rows),
        "valid_answered_2xx": sum(row["valid_answered_2xx"] for row in rows),
        "server_errors": sum(
            count for row in rows for status, count in row["statuses"].items() if status.startswith("5")
        ),
        "phases": {
            name: sorted({found.report["phases"][name]["status"] for found in rounds})
            for name in ("examples", "coverage", "fuzzing", "stateful")
        },
        "failures": [failure for found in rounds for failure in found.failures],
        "operations": operations,
    }


def conformance(
    url: str, folder: Path, *, examples: int, seed: int, headers: Mapping[str, str] | None = None
) -> Found:
    """Hold a service against its document, with so many examples an operation; files go to a folder.

    Raises BenchmarkError where Schemathesis itself could not run.
    """
    facts, counts, report = (folder / name for name in ("facts.json", "counts.json", "report.json"))
    facts.write_text(json.dumps(learn(url, headers or {})))
    given = [part for name, value in (headers or {}).items() for part in ("--header", f"{name}: {value}")]
    options = ["--max-examples", str(examples), "--seed", str(seed), "--no-color"]
    reports = ["--report", "json", "--report-json-path", str(report)]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    ran = subprocess.run(
        [*command, f"{url}/openapi.json", *given, *options, *reports],
        env={**os.environ, "CONFORMANCE_FACTS": str(facts), "CONFORMANCE_COUNTS": str(counts)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = ran.stdout + ran.stderr
    if ran.returncode not in (0, 1) or not (report.is_file() and counts.is_file()):
        raise BenchmarkError(f"schemathesis ended with status {ran.returncode}:\n{output[-LOG_CHARACTERS:]}")
    return Found(Counter(json.loads(counts.read_text())), json.loads(report.read_text()), output)


def learn(url: str, headers: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what bodies are made from, by model: shape, latents, payloads of two images and of three."""
    with httpx.Client(base_url=url, headers=dict(headers), timeout=60) as client:
        models = client.get("/models").raise_for_status().json()["models"]
        return {
            model["id"]: {
                "shape": model["config"]["input"]["shape"],
                "latent_dim": model["config"]["latent_dim"],
                "has_codec": model["codec"] is not None,
                "payloads": {count: _payload(client, model, count) for count in (2, 3)},
            }
            for model in models
        }


def tabulated(counts: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return a row for each operation: cases by phase, status and body, and how valid ones were answered."""
    rows: dict[str, dict[str, Any]] = {}
    for key, count in sorted(counts.items()):
        label, phase, mode, body, status = key.split("|")
        row = rows.setdefault(
            label,
            {"cases": 0, "valid": 0, "valid_answered_2xx": 0, "phases": {}, "statuses": {}, "bodies": {}},
        )
        row["cases"] += count
        if mode == "positive":
            row["valid"] += count
            row["valid_answered_2xx"] += count if status.startswith("2") else 0
        for table, value in ((row["phases"], phase), (row["statuses"], status)):
            table[value] = table.get(value, 0) + count
        if body:
            table = row["bodies"].setdefault(body, {})
            table[status] = table.get(status, 0) + count
    return rows


def _payload(client: httpx.Client, model: Mapping[str, Any], count: int) -> str:
    channels, height, width = model["config"]["input"]["shape"]
    images = np.zeros((count, height, width, channels), np.uint8)
    response = client.post(
        "/compress",
        params={"model": model["id"]},
        content=npy(images),
        headers={"Content-Type": NPY, "Accept": PAYLOAD},
    )
    return base64.b64encode(response.raise_for_status().content).decode()
