"""What was started is awaited, and ended with all it started, whatever happens."""

import os
import select
import sys
import time
from pathlib import Path

import pytest

from benchmarks.serving import processes
from benchmarks.serving.processes import BenchmarkError, free_port, marked, started, wait_until_ready
from tests.waiting import eventually

# Refuses to go when asked, and has a child in a session of its own; it says the child's number and waits.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
while True:
    signal.pause()
"""
SERVER = """
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", {port}), SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_failure_in_the_block_ends_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serving.processes.STOP_SECONDS", 0.1)
    command = [sys.executable, "-c", STUBBORN]
    ends = []

    def fail_while_it_runs() -> None:
        with started(command, log=tmp_path / "log", environment=os.environ, has_pipes=True) as process:
            assert process.popen.stdout is not None
            child = int(process.popen.stdout.readline())
            ends.extend([os.pidfd_open(process.popen.pid), os.pidfd_open(child)])
            raise RuntimeError("wrong answer")

    with pytest.raises(RuntimeError, match="wrong answer"):
        fail_while_it_runs()
    for end in ends:
        assert select.select([end], [], [], 30)[0] == [end]  # readable once the process is no more
        os.close(end)


def test_a_server_is_awaited_until_it_answers(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVER.format(port=port)]
    with started(command, log=tmp_path / "server.log", environment=os.environ) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/")
        assert process.cpu_seconds() > 0


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such bundle')"]
    with started(command, log=tmp_path / "peer.log", environment=os.environ) as process:
        process.popen.wait()
        with pytest.raises(BenchmarkError, match=r"peer ended with status 1; .*\nno such bundle"):
            wait_until_ready(process, "http://127.0.0.1:9/")


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input()"]
    with (
        started(command, log=tmp_path / "peer.log", environment=os.environ, has_pipes=True) as process,
        pytest.raises(BenchmarkError, match=r"^peer was not ready after 0\.1 s at http://127\.0\.0\.1"),
    ):
        wait_until_ready(process, f"http://127.0.0.1:{free_port()}/", timeout_seconds=0.1)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_paused_process_runs_within_a_block_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUBBORN.replace("SIG_IGN", "SIG_DFL")]
    with started(command, log=tmp_path / "log", environment=os.environ, has_pipes=True) as process:
        assert process.popen.stdout is not None
        pids = [process.popen.pid, int(process.popen.stdout.readline())]
        assert sorted(marked(process.mark)) == sorted(pids)
        process.pause()
        eventually(lambda: {state(pid) for pid in pids} == {"T"})
        with process.awake():
            eventually(lambda: "T" not in {state(pid) for pid in pids})
        eventually(lambda: {state(pid) for pid in pids} == {"T"})


LATE = """
import time
input()
until = time.process_time() + 1
while time.process_time() < until:
    pass
print("done", flush=True)
input()
"""


def test_what_a_process_has_still_to_do_is_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LATE]
    with started(command, log=tmp_path / "log", environment=os.environ, has_pipes=True) as process:
        assert process.popen.stdin is not None
        with process.awake():
            print(file=process.popen.stdin, flush=True)
        assert select.select([process.popen.stdout], [], [], 0)[0]


def test_a_process_that_never_rests_fails_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MOST_UNREST_SECONDS", 0.1)
    command = [sys.executable, "-c", "while True: pass"]
    with (
        started(command, log=tmp_path / "busy", environment=os.environ) as process,
        pytest.raises(BenchmarkError, match=r"^busy still computes 0.1 s after its load$"),
        process.awake(),
    ):
        time.sleep(0.5)
