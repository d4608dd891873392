"""Processes that share a folder, as whichever is scraped tells of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.processes import FOLDER_VARIABLE, Processes, keep_figures_as, note_process


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
    with subprocess.Popen(
        [sys.executable, "-c", "input('started')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.read(7) == b"started"  # the kernel counts no resident page at once after the exec
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


def test_a_process_that_is_started_anew_goes_on_with_the_figures_of_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # is put back afterwards
    files = {"counter_front-end-1.db", "gauge_livesum_front-end-1.db"}
    for count in (1, 2, 3):
        keep_figures_as("front-end-1")
        own = CollectorRegistry()
        Counter("taken", "", registry=own).inc()
        Gauge("held", "", registry=own, multiprocess_mode="livesum").inc()
        assert {path.name for path in folder.iterdir()} == files
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all)
        assert of_all.get_sample_value("taken_total") == count
        assert of_all.get_sample_value("held") == 1  # what an ended one held is gone
        mark_process_dead("front-end-1", str(folder))
