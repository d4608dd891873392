"""Targets run side by side, each in a process of its own, and what libFuzzer's log says of each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fuzzing.targets import CORPORA, DICTIONARIES, FAULTS, ROOM

HANG_SECONDS = 60  # all targets run at once, on few cores
MAX_MEMORY_MB = 2048
# libFuzzer judges by the most that a process had, which begins with what its parent had when it forked.
FROM_A_SMALL_PROCESS = ("sh", "-c", '"$@"; exit $?', "sh")
START_SECONDS = 600  # where numba has yet to compile, on a machine that is busy
FAULT_KINDS = {"crash": "crashes", "timeout": "hangs", "oom": "out_of_memory"}  # by the files' first word
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.M)
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_DONE = re.compile(r"^Done \d+ runs in (\d+) second", re.M)
_INITED = re.compile(r"\tINITED .*rss: (\d+)Mb")
_TRACED = re.compile(r"\n === (?:Uncaught|Timeout).*", re.S)


class FuzzingError(Exception):
    """A run that did not end as runs do, whether at fault or not."""


@dataclass(frozen=True)
class Outcome:
    """What came of a target's run: `seconds` of a whole one, 0 of one that a fault ended.

    `features` are edges with how often they were taken; memory has grown since the corpus was read. An input
    that took longer than the limit and came to its end is a hang too: libFuzzer looks now and then.
    """

    executions: int
    seconds: int
    edges: int
    features: int
    corpus_files: int
    slowest_seconds: int
    peak_memory_mb: int
    grown_memory_mb: int
    crashes: int
    hangs: int
    out_of_memory: int

    @property
    def faults(self) -> int:
        """Everything that is the service's fault."""
        return self.crashes + self.hangs + self.out_of_memory


@dataclass(frozen=True)
class Run:
    """A target's process, and its folder: `log`, `found` with inputs that reach further, and faults."""

    process: subprocess.Popen[bytes]
    folder: Path
    begun: float

    def outcome(self, seconds: float) -> Outcome:
        """Wait for the end and return what came of it; raise FuzzingError where there is nothing to tell."""
        try:
            self.process.wait(self.begun + seconds + START_SECONDS - time.monotonic())
        except subprocess.TimeoutExpired as error:
            raise FuzzingError(f"{self.folder.name}: still runs long after its end") from error
        faults = _faults_in(self.folder)
        text = self.log
        told = {name: int(value) for name, value in _STATISTIC.findall(text)}
        if not told or (self.process.returncode != 0) != any(faults.values()):
            raise FuzzingError(f"{self.folder.name}: exit status {self.process.returncode}\n{text[-2000:]}")
        slowest = told["slowest_unit_time_sec"]
        if slowest >= HANG_SECONDS:
            faults["hangs"] = max(1, faults["hangs"])
        edges, features, files = map(int, (_COVERAGE.findall(text) or [(0, 0, 0)])[-1])
        return Outcome(
            executions=told["number_of_executed_units"],
            seconds=int(ended[1]) if (ended := _DONE.search(text)) else 0,
            edges=edges,
            features=features,
            corpus_files=files,
            slowest_seconds=slowest,
            peak_memory_mb=told["peak_rss_mb"],
            grown_memory_mb=told["peak_rss_mb"] - int(begun[1]) if (begun := _INITED.search(text)) else 0,
            **faults,
        )

    @property
    def log(self) -> str:
        """What the process wrote."""
        return (self.folder / "log").read_text("utf-8", "replace")

    @property
    def fault(self) -> str:
        """What the log says of a fault, empty where there was none."""
        found = _TRACED.search(self.log)
        return found.group() if found else ""


@contextmanager
def running(modules: Sequence[str], folder: Path, *options: str) -> Iterator[dict[str, Run]]:
    """Start modules of targets with libFuzzer's options; what still runs at the end of the block is ended."""
    runs: dict[str, Run] = {}
    try:
        for module in modules:
            runs[module] = _started(module, folder / module.rpartition(".")[2], options)
        yield runs
    finally:
        for run in runs.values():
            with suppress(ProcessLookupError):
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def _started(module: str, folder: Path, options: Sequence[str]) -> Run:
    name, found = folder.name, folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    if any(_faults_in(folder).values()):
        raise FuzzingError(f"{folder} has faults of an earlier run: mend them, or take them away")
    seeds = [str(path) for path in (CORPORA / name, FAULTS / name) if path.is_dir()]
    dictionary = DICTIONARIES / f"{name}.dict"
    limits = [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MAX_MEMORY_MB}", f"-artifact_prefix={folder}/"]
    words = [f"-dict={dictionary}"] if dictionary.is_file() else []
    arguments = [*limits, *words, "-print_final_stats=1", *options, str(found), *seeds]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*FROM_A_SMALL_PROCESS, sys.executable, "-m", "fuzzing.driver", module, *arguments],
            stdout=log,
            stderr=log,
            cwd=ROOM.parent,
            env=environment(),
            start_new_session=True,
        )
    return Run(process, folder, time.monotonic())


def _faults_in(folder: Path) -> dict[str, int]:
    return {field: len(list(folder.glob(f"{kind}-*"))) for kind, field in FAULT_KINDS.items()}


def environment() -> dict[str, str]:
    """Return ours without what would measure coverage, which is slow, or change the service's settings."""
    left_out = ("COVERAGE_", "COV_", "VAE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "OMP_NUM_THREADS": "1"}
