"""Processes that share a folder, as whichever is scraped tells of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.processes import FOLDER_VARIABLE, Processes, note_process


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def figures() -> dict[str, float]:
    registry = CollectorRegistry()
    Processes(registry)
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(number) for name, number in (line.split() for line in lines if line[0] != "#")}


def test_each_process_has_its_own_series(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        note_process(folder, "engine", other.pid, restarts=2)
        note_process(folder, "front-end-1", os.getpid())
        found = figures()
        other.communicate(b"\n")
    assert (
        found['process_start_time_seconds{process="engine"}']
        >= (found['process_start_time_seconds{process="front-end-1"}'])
    )
    assert found['process_resident_memory_bytes{process="engine"}'] > 0
    assert found['process_open_fds{process="engine"}'] >= 3
    assert found['vae_process_restarts_total{process="engine"}'] == 2
    assert found['vae_process_restarts_total{process="front-end-1"}'] == 0


def test_a_process_that_has_ended_leaves_its_restarts_alone(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        note_process(folder, "engine", other.pid, restarts=1)
    assert figures() == {'vae_process_restarts_total{process="engine"}': 1}


def test_a_name_is_passed_on(folder: Path) -> None:
    note_process(folder, "engine", 0, restarts=0)
    note_process(folder, "engine", os.getpid(), restarts=1)
    found = figures()
    assert found['vae_process_restarts_total{process="engine"}'] == 1
    assert found['process_resident_memory_bytes{process="engine"}'] > 0
