"""Several processes behave as one: the same answers, one sum of figures, and each of them may be killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path

import httpx
import numpy as np
import pytest

from app import cluster
from app.batcher import Batcher
from app.cluster import ENGINE, FRONT_END
from app.engine import CpuEngine
from app.metrics import DeviceMemory, Metrics
from app.service import HOPELESS_TIMES, patience_seconds
from app.settings import Settings
from tests.app.test_routes import NPY, npy
from tests.exposition import documented, exposed
from tests.servers import Running
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SOON = 60.0
IMAGES = npy(np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8))


def command_line(pid: int) -> str:
    """Return the arguments of a process, a null after each; nothing for one that is no more."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


class Cluster:
    """A service of two front ends, and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.port = eventually(self._port, SOON)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def _port(self) -> int | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"listening on 127\.0\.0\.1 port (\d+)", self.log.read_text())
        return int(found[1]) if found else None

    def children(self, role: str) -> list[int]:
        pid = self.process.pid
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sorted(child for child in children if f"app.cluster\0{pid}\0{role}" in command_line(child))

    def is_ready(self) -> bool:
        # Each connection may be another front end's.
        with suppress(httpx.TransportError):
            answers = [httpx.get(f"http://127.0.0.1:{self.port}/health/ready") for _ in range(8)]
            return all(answer.status_code == 200 for answer in answers)
        return False

    def post(self, route: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{route}"
        return httpx.post(url, content=IMAGES, headers={"Content-Type": NPY}, timeout=30)

    def encode(self) -> httpx.Response:
        return self.post("/encode")

    def figure(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def processes(self) -> set[str]:
        figures = self.client.get("/metrics").text
        return set(re.findall(r'^process_resident_memory_bytes{process="(.+)"}', figures, re.MULTILINE))


@contextmanager
def running_cluster(folder: Path, tmp_path: Path, **settings: str) -> Iterator[Cluster]:
    environment = {
        **os.environ,
        "VAE_MODELS": str(folder / "grey"),
        "VAE_PORT": "0",
        "VAE_DEVICE": "cpu",
        "VAE_THREADS": "1",
        "VAE_FRONTENDS": "2",
        **settings,
    }
    log = tmp_path / "cluster.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:
        service = Cluster(process, log)
        with service.client:
            yield service
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(SOON)


@pytest.mark.slow
def test_processes_serve_as_one_and_each_may_be_killed(
    bundle_folder: Path, tmp_path: Path, live: Running
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with running_cluster(bundle_folder, tmp_path, TMPDIR=str(shared)) as service:
        eventually(service.is_ready, SOON)
        [engine], front_ends = service.children(ENGINE), service.children(FRONT_END)
        assert len(front_ends) == 2

        def files_of_figures() -> set[str]:
            return {path.name for path in shared.rglob("*.db")}

        files = files_of_figures()
        assert {"counter_engine.db", "counter_front-end-1.db", "counter_front-end-2.db"} <= files

        expected = live.client.post("/encode", content=IMAGES, headers={"Content-Type": NPY}).json()
        for _ in range(10):
            assert service.encode().json() == expected
        assert service.client.get("/models").json()["models"][0]["device"] == "cpu, 1 thread(s), float32"
        assert service.client.get("/sample?n=300&format=npy&seed=3").content == (
            live.client.get("/sample?n=300&format=npy&seed=3").content
        )
        assert service.figure('vae_requests_total{route="/encode",status="200"}') == 10
        assert service.figure('vae_images_total{model="grey",operation="encode"}') == 30
        assert service.figure("vae_ready") == 1
        eventually(lambda: service.figure("vae_requests_in_flight") == 1)  # the scrape
        for _ in range(10):
            assert service.post("/compress").status_code == 200
        assert service.figure("vae_original_bytes_total") == 10 * 3 * 64
        figures = service.client.get("/metrics").text
        assert exposed(figures) == {
            name: family for name, family in documented().items() if "_device_memory_" not in name
        }
        assert service.processes() == {"supervisor", "engine", "front-end-1", "front-end-2"}
        assert service.figure("vae_process_restarts_total") == 0

        os.kill(engine, signal.SIGKILL)
        eventually(lambda: service.children(ENGINE) not in ([], [engine]), SOON)
        eventually(service.is_ready, SOON)
        assert service.encode().json() == expected

        os.kill(front_ends[0], signal.SIGKILL)
        eventually(lambda: len(set(service.children(FRONT_END)) - set(front_ends)) == 1, SOON)
        eventually(service.is_ready, SOON)
        assert service.encode().json() == expected
        # What the killed ones counted is still there.
        assert service.figure('vae_requests_total{route="/encode",status="200"}') == 12
        assert service.figure('vae_images_total{model="grey",operation="encode"}') == 36
        assert service.figure("vae_original_bytes_total") == 10 * 3 * 64
        # What they held is not.
        eventually(lambda: service.figure("vae_requests_in_flight") == 1)
        assert service.figure('vae_max_queued_images{queue="vae"}') == Settings().max_queued_images
        assert service.processes() == {"supervisor", "engine", "front-end-1", "front-end-2"}
        assert service.figure('vae_process_restarts_total{process="engine"}') == 1
        assert service.figure("vae_process_restarts_total") == 2
        eventually(lambda: files_of_figures() == files, SOON)  # a new process has those of its name

        service.process.terminate()
        assert service.process.wait(SOON) == 0
    log = service.log.read_text()
    assert f"the engine, process {engine}, has ended with -9" in log
    assert f"the front-end, process {front_ends[0]}, has ended with -9" in log


@pytest.mark.slow
def test_all_processes_told_to_stop_at_once_still_answer(bundle_folder: Path, tmp_path: Path) -> None:
    with running_cluster(bundle_folder, tmp_path) as service:
        eventually(service.is_ready, SOON)
        [engine], children = service.children(ENGINE), service.children("")
        os.kill(engine, signal.SIGTERM)
        time.sleep(0.5)
        assert service.encode().status_code == 200
        assert service.children(ENGINE) == [engine]
        with service.client.stream("GET", "/sample?n=100000&format=npy&seed=3") as answer:
            parts = answer.iter_bytes()
            size = len(next(parts))
            for pid in (*children, service.process.pid):
                os.kill(pid, signal.SIGTERM)
            size += sum(map(len, parts))
        assert size == 128 + 100_000 * 64
        assert service.process.wait(SOON) == 0
    assert "has ended with" not in service.log.read_text()


@pytest.mark.slow
def test_a_front_end_told_to_stop_by_itself_leaves_the_port_to_the_others(
    bundle_folder: Path, tmp_path: Path
) -> None:
    with running_cluster(bundle_folder, tmp_path) as service:
        eventually(service.is_ready, SOON)
        told, other = service.children(FRONT_END)
        os.kill(told, signal.SIGTERM)
        eventually(lambda: told not in service.children(FRONT_END), SOON)
        assert service.encode().status_code == 200
        eventually(lambda: len(service.children(FRONT_END)) == 2, SOON)
        assert other in service.children(FRONT_END)


@pytest.mark.slow
def test_a_bundle_at_fault_ends_all_of_them(bundle_folder: Path, tmp_path: Path) -> None:
    with running_cluster(bundle_folder, tmp_path, VAE_MODELS=str(tmp_path / "none")) as service:
        assert service.process.wait(SOON) == 1
    log = service.log.read_text()
    assert log.count("there is no such folder") >= 1


@pytest.mark.slow
def test_children_do_not_outlive_a_supervisor_that_is_killed(bundle_folder: Path, tmp_path: Path) -> None:
    with running_cluster(bundle_folder, tmp_path) as service:
        eventually(service.is_ready, SOON)
        children = service.children("")
        assert len(children) == 3
        service.process.kill()
        service.process.wait()
        eventually(lambda: not any(map(command_line, children)), SOON)


def test_an_engine_whose_last_batch_does_not_end_is_left(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def still_runs(_: Batcher, seconds: float) -> bool:
        return False

    def leave(status: int) -> None:
        raise SystemExit(f"left at once with {status}")

    def stop_once_it_listens() -> None:
        eventually(cluster.engine_socket(tmp_path).exists)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Batcher, "close", still_runs)
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    stopper = threading.Thread(target=stop_once_it_listens)
    stopper.start()
    settings = cluster.Settings(models=(str(bundle_folder / "grey"),), device="cpu", threads=1)
    with pytest.raises(SystemExit, match="left at once with 0"):
        asyncio.run(cluster.run_engine(settings, tmp_path))
    stopper.join()


def test_an_engine_whose_device_is_lost_leaves_with_one(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(status: int) -> None:
        raise SystemExit(f"left at once with {status}")

    monkeypatch.setattr(Batcher, "fault", RuntimeError("CUDA error"))
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    settings = cluster.Settings(models=(str(bundle_folder / "grey"),), device="cpu", threads=1)
    with pytest.raises(SystemExit, match="left at once with 1"):
        asyncio.run(cluster.run_engine(settings, tmp_path))


def test_an_engine_whose_device_hangs_for_good_leaves_with_one(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(status: int) -> None:
        raise SystemExit(f"left at once with {status}")

    settings = cluster.Settings(models=(str(bundle_folder / "grey"),), device="cpu", threads=1)
    hopeless = 1 + HOPELESS_TIMES * patience_seconds(settings)
    monkeypatch.setattr(cluster, "STUCK_SECONDS", 0.01)
    # The first time the process itself was stopped, and goes on.
    stuck_seconds = chain([0.0, hopeless], repeat(0.0, 9), repeat(hopeless))
    monkeypatch.setattr(Batcher, "stuck_seconds", property(lambda _: next(stuck_seconds)))
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    with pytest.raises(SystemExit, match="left at once with 1"):
        asyncio.run(cluster.run_engine(settings, tmp_path))
    assert next(stuck_seconds) == hopeless


def test_an_engine_in_a_process_of_its_own_tells_of_its_device_s_memory(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()

    def used_bytes() -> float | None:
        return metrics.registry.get_sample_value("vae_device_memory_used_bytes", {"device": "cuda:0"})

    def stop_once_it_is_told() -> None:
        eventually(lambda: used_bytes() == 3)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cluster, "Metrics", lambda: metrics)
    monkeypatch.setattr(CpuEngine, "memory", lambda engine: DeviceMemory("cuda:0", 4, 3, 2, 1))
    stopper = threading.Thread(target=stop_once_it_is_told)
    stopper.start()
    settings = cluster.Settings(models=(str(bundle_folder / "grey"),), device="cpu", threads=1)
    assert asyncio.run(cluster.run_engine(settings, tmp_path)) == 0
    stopper.join()


class Sleeper(cluster.Child):
    """A process of another kind, for what a supervisor does with it."""

    code = "import time; time.sleep(60)"

    def start(self) -> None:
        self.started, self.next_start = time.monotonic(), 0.0
        self.starts += 1
        self.process = subprocess.Popen([sys.executable, "-c", self.code])


class Stubborn(Sleeper):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"


class Failing(Sleeper):
    code = "raise SystemExit(1)"


class Unstartable(Sleeper):
    code = f"raise SystemExit({cluster.CANNOT_START})"


@pytest.fixture
def metrics_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(cluster.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_process_that_does_not_end_is_killed(metrics_folder: Path) -> None:
    child = Stubborn(FRONT_END, metrics_folder)
    time.sleep(0.3)
    cluster._end([child], 0.5)
    assert child.process.returncode == -signal.SIGKILL


class Counting(Sleeper):
    """Ends at the third SIGINT."""

    code = (
        "import signal, sys; taken = []; signal.signal(2, lambda *_: taken.append(1) or len(taken) == 3"
        " and sys.exit(7)); print(flush=True)\nwhile True: signal.pause()"
    )


def test_every_signal_is_passed_on(metrics_folder: Path) -> None:
    child = Counting(FRONT_END, metrics_folder)
    time.sleep(0.3)
    signals = [signal.SIGINT]
    timers = [threading.Timer(seconds, lambda: signals.append(signal.SIGINT)) for seconds in (0.2, 0.4)]
    for timer in timers:
        timer.start()
    cluster._end([child], 10, signals)
    assert child.process.returncode == 7


def test_front_ends_know_whether_the_port_is_closed_with_them(metrics_folder: Path) -> None:
    supervisor = cluster.Supervisor.__new__(cluster.Supervisor)
    supervisor._settings, supervisor._folder = Settings(), metrics_folder
    supervisor._signals = [signal.SIGTERM]
    supervisor._engine = Sleeper(ENGINE, metrics_folder)
    supervisor._front_ends = [Sleeper(FRONT_END, metrics_folder)]
    supervisor._listener = socket.create_server(("127.0.0.1", 0))
    assert not cluster.stopping(metrics_folder).exists()
    supervisor._stop()
    assert cluster.stopping(metrics_folder).exists()
    assert supervisor._listener.fileno() == -1


def test_a_process_that_keeps_ending_is_given_up(
    metrics_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MAX_QUICK_ENDS", 2)
    monkeypatch.setattr(cluster, "QUICK_SECONDS", 0.5)
    supervisor = cluster.Supervisor.__new__(cluster.Supervisor)
    supervisor._engine = Sleeper(ENGINE, metrics_folder)
    begun = time.monotonic()
    failing = Failing(FRONT_END, metrics_folder)
    supervisor._front_ends = [failing]
    deadline = time.monotonic() + SOON
    while (status := supervisor._look_after()) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status == 1
    assert (failing.quick_ends, failing.starts) == (3, 3)
    assert time.monotonic() - begun > 0.5  # the third start waited
    cluster._end([supervisor._engine, failing], 10)


@pytest.mark.parametrize(("kind", "starts"), [(Failing, 2), (Unstartable, 1)])
def test_an_engine_that_fails_is_started_anew_and_one_that_cannot_start_is_not(
    kind: type[Sleeper], starts: int, metrics_folder: Path
) -> None:
    supervisor = cluster.Supervisor.__new__(cluster.Supervisor)
    supervisor._engine, supervisor._front_ends = kind(ENGINE, metrics_folder), []
    supervisor._engine.process.wait()
    assert supervisor._look_after() == (1 if starts == 1 else 0)
    assert supervisor._engine.starts == starts
    supervisor._engine.process.wait()


class Rare(Sleeper):
    """Cannot be started anew at first."""

    failures = 1

    def start(self) -> None:
        if hasattr(self, "process") and self.failures:
            self.failures -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        super().start()


def test_a_process_that_cannot_be_started_anew_now_is_later(
    metrics_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "QUICK_SECONDS", 0.1)
    supervisor = cluster.Supervisor.__new__(cluster.Supervisor)
    supervisor._engine, supervisor._front_ends = Rare(ENGINE, metrics_folder), []
    supervisor._engine.process.kill()
    supervisor._engine.process.wait()

    def is_started_anew() -> bool:
        assert supervisor._look_after() == 0
        return supervisor._engine.starts == 2

    eventually(is_started_anew)
    assert "the engine cannot be started now: [Errno 11] Resource temporarily unavailable" in caplog.text
    cluster._end([supervisor._engine], 10)


def test_a_process_that_cannot_be_noted_runs_all_the_same(
    metrics_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster, "note_process", full)
    child = cluster.Child(ENGINE, metrics_folder)
    cluster._end([child], 10)
    assert "the metrics miss the engine" in caplog.text


def test_a_process_whose_supervisor_is_gone_does_not_start() -> None:
    command = [sys.executable, "-m", "app.cluster", "1", ENGINE, "none", ENGINE]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 1


def test_an_ipv6_host_is_listened_on() -> None:
    settings = cluster.Settings(host="::1", port=0)
    with cluster._listener(settings) as listener:
        assert listener.getsockname()[0] == "::1"
