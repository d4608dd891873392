"""What is made of raw figures: ratios, medians, tables, and what the load generator and the kernel say."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.serving import wrk
from benchmarks.serving.machine import cpu_model, describe_commit
from benchmarks.serving.measurement import Case, Measured, Sample, ratios, run_rounds
from benchmarks.serving.processes import BenchmarkError, cpu_ticks, pinned
from benchmarks.serving.report import table, write_report

STAT = "42 (a (b) c) S 1 40 40 0 -1 4194560 9 0 0 0 250 50 3 4 20 0 8 0 100 1 1"


def sample(images_per_second: int, cpu_seconds: float = 1.0) -> Sample:
    return Sample(
        requests=images_per_second,
        images=images_per_second,
        seconds=1.0,
        p50_seconds=0.001,
        p99_seconds=0.004,
        cpu_seconds=cpu_seconds,
    )


def case(contender: str, *rates: int, journal: list[tuple[str, int]] | None = None) -> Case:
    def measure(seconds: int) -> Sample:
        if journal is not None:
            journal.append((contender, seconds))
        return sample(1)

    return Case((contender, "work"), measure, lambda: None, [sample(rate) for rate in rates])


def test_contenders_take_turns_after_a_warm_up_that_is_not_kept() -> None:
    journal: list[tuple[str, int]] = []
    cases = [case("ours", journal=journal), case("peer", journal=journal)]
    run_rounds(cases, rounds=2, seconds=5, announce=lambda line: None)
    assert journal == [("ours", 5), ("peer", 5)] * 3
    assert [len(case.samples) for case in cases] == [2, 2]


def test_ratios_are_taken_round_by_round() -> None:
    # The machine halves its speed in the second round; the ratio does not notice.
    assert ratios(case("ours", 400, 200), case("peer", 100, 50)) == [4.0, 4.0]


def test_the_table_gives_medians_and_ratios_to_the_references() -> None:
    ours, peer = case("ours", 4000, 2000, 3000), case("peer", 100, 50, 60)
    assert table(Measured("", [ours, peer], [peer])) == [
        "|  | images/s | p50 ms | p99 ms | CPU ms a request | cores busy | × peer: work |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ours: work | 3,000 | 1.00 | 4.00 | 0.333 | 1.00 | 40.00 |",
        "| peer: work | 60 | 1.00 | 4.00 | 16.667 | 1.00 | 1.00 |",
    ]


def test_a_small_ratio_keeps_its_figures() -> None:
    ours, limit = case("ours", 19), case("limit", 1000)
    assert table(Measured("", [ours, limit], [limit]))[2].endswith("| 0.019 |")


def test_the_report_keeps_every_round(tmp_path: Path) -> None:
    facts = {
        "command": "python -m benchmarks.serving",
        "settings": {
            "bundle": "small",
            "threads": 1,
            "rounds": 2,
            "seconds": 1,
            "server_cpus": None,
            "load_cpus": "1",
        },
        "machine": {"cpu": "a CPU", "cores": 2, "load_average_before": 0.123},
        "versions": {"torch": "2.11"},
        "commit": "abc",
    }
    ours, peer = case("ours", 40, 20), case("peer", 10, 10)
    write_report(tmp_path, facts, [Measured("Encoding", [ours, peer], [peer])])
    found = json.loads((tmp_path / "results.json").read_text())["comparisons"][0]["cases"][0]
    assert [one["requests"] for one in found["rounds"]] == [40, 20]
    assert found["median_images_per_second"] == 30
    assert found["ratios"] == {"peer: work": {"median": 3.0, "rounds": [4.0, 2.0]}}
    text = (tmp_path / "results.md").read_text()
    assert "## Encoding" in text
    assert "servers on CPUs any, load on CPUs 1; load average before the start 0.12." in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


SEEN = {
    "requests": 12,
    "seconds": 3.0,
    "loop_requests": 10,
    "loop_seconds": 2.0,
    "p50_seconds": 0.001,
    "p99_seconds": 0.002,
}


def output(**errors: int) -> str:
    return (
        "Running 2s test\n" + json.dumps({**SEEN, "status_errors": 0, "timeout_errors": 0, **errors}) + "\n"
    )


def test_the_last_line_of_wrk_is_read() -> None:
    assert wrk.parse(output(), "npy", 10) == wrk.Load(10, 2.0, 0.001, 0.002)
    assert wrk.parse(output(loop_images=70), "npy", 10).images == 70


def test_failed_requests_fail_the_benchmark() -> None:
    with pytest.raises(BenchmarkError, match=r"^npy: 12 requests answered, 3 status errors$"):
        wrk.parse(output(status_errors=3), "npy", 10)


def test_refusals_that_are_answered_fail_the_benchmark() -> None:
    assert wrk.parse(output(status_errors=12), "damaged", 10, are_refused=True) == wrk.Load(
        10, 2.0, 0.001, 0.002
    )
    with pytest.raises(BenchmarkError, match=r"^damaged: 12 requests answered, 1 status errors$"):
        wrk.parse(output(status_errors=11), "damaged", 10, are_refused=True)


def test_no_answer_at_all_fails_the_benchmark() -> None:
    with pytest.raises(BenchmarkError, match=r"^npy: 0 requests answered, no errors$"):
        wrk.parse(output(requests=0), "npy", 10)


def test_too_few_answers_to_tell_a_rate_fail_the_benchmark() -> None:
    with pytest.raises(BenchmarkError, match=r"^npy: 12 requests answered, fewer than two on each of 11"):
        wrk.parse(output(), "npy", 11)


def test_a_missing_wrk_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        BenchmarkError, match=r"wrk is not installed; on Debian and Ubuntu: apt-get install wrk"
    ):
        wrk.version()


def test_cpu_time_is_that_of_user_and_system() -> None:
    assert cpu_ticks(STAT) == 300


def test_commands_are_pinned_only_where_asked() -> None:
    assert pinned(["python"], None) == ["python"]
    assert pinned(["python"], "0-1") == ["taskset", "--cpu-list", "0-1", "python"]


def test_the_processor_is_named() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n") == "AMD EPYC"


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be in a repository, one folder deep, whose files lie as ours do; return its commit."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        ran = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    for name in ("app/main.py", *MEASURED_FILES, *RUN_FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as it was")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.chdir(tmp_path / "app")
    return git("rev-parse", "HEAD")


MEASURED_FILES = (
    "benchmarks/startup.json",
    "benchmarks/faults/results.json",
    "benchmarks/serving/results/soak.png",
    "benchmarks/compression/results/results.md",
    "deploy/restricted/result.json",
    "fuzzing/results.json",
)
RUN_FILES = (
    "benchmarks/startup.py",
    "benchmarks/serving/wrk.lua",
    "models/bundles/mnist/config.json",
    "pyproject.toml",
)


def test_results_that_were_written_are_no_changes_to_what_was_measured(committed: str) -> None:
    for name in MEASURED_FILES:
        Path("..", name).write_text("anew")
    Path("../benchmarks/new.json").touch()
    assert describe_commit() == committed


@pytest.mark.parametrize("name", ["app/main.py", "app/new.py", *RUN_FILES])
def test_what_is_run_and_is_not_as_committed_is_a_change(committed: str, name: str) -> None:
    Path("..", name).write_text("otherwise")
    assert describe_commit() == f"{committed} with changes"


def test_outside_a_repository_no_commit_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert describe_commit() == "unknown"
