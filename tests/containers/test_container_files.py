"""What Dockerfile, .dockerignore and the compose files promise those who deploy the image."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.settings import Settings, unknown_variables
from codec.compiled import SHIPPED

ROOT = Path(__file__).parent.parent.parent
FILES = ("Dockerfile", "docker-compose.yml", "docker-compose.cpu.yml")
GPU, CPU = "docker-compose.yml", "docker-compose.cpu.yml"

Instructions = list[tuple[str, str]]


@cache
def stages() -> list[Instructions]:
    """The (instruction, rest of the line) pairs of every stage of the Dockerfile, the last one shipped."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    found: list[Instructions] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest.strip()))
    return found


def only(name: str) -> str:
    """The rest of the one instruction of this name in the stage that is shipped."""
    [rest] = [rest for instruction, rest in stages()[-1] if instruction == name]
    return rest


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in only("ENV").split())


def health_check() -> list[str]:
    command: list[str] = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    return command


@cache
def service(file: str) -> dict[str, Any]:
    """The service of a compose file, with what it extends merged in."""
    [own] = YAML(typ="safe").load(ROOT / file)["services"].values()
    if "extends" not in own:
        return dict(own)
    base = service(own["extends"]["file"])
    return {**base, **own, "environment": {**base["environment"], **own["environment"]}}


def gpus(file: str) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = (
        service(file).get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    )
    return devices


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that answers /health/ready with a status and anything else with 404; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def exit_status_of_health_check(port: int, **environment: str) -> int:
    python, *arguments = health_check()
    assert python == "python"
    return subprocess.run(
        [sys.executable, *arguments], env={"VAE_PORT": str(port), **environment}, stderr=subprocess.DEVNULL
    ).returncode


def test_the_image_runs_as_a_numbered_user_other_than_root() -> None:
    assert only("USER") == "10001:10001"


def test_the_command_needs_no_shell_that_would_swallow_sigterm() -> None:
    assert json.loads(only("CMD")) == ["python", "-m", "app"]
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_health_check_passes_when_the_service_is_ready() -> None:
    with answering(200) as port:
        assert exit_status_of_health_check(port) == 0


def test_the_health_check_fails_when_the_service_is_not_ready() -> None:
    with answering(503) as port:
        assert exit_status_of_health_check(port) == 1


def test_the_health_check_fails_when_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert exit_status_of_health_check(port) == 1


def test_the_health_check_does_not_ask_a_proxy() -> None:
    with answering(200) as proxy, answering(503) as port:
        assert exit_status_of_health_check(port, http_proxy=f"http://127.0.0.1:{proxy}") == 1


def test_the_image_listens_on_every_address_at_the_port_that_it_exposes() -> None:
    assert image_environment()["VAE_HOST"] == "0.0.0.0"
    assert image_environment()["VAE_PORT"] == only("EXPOSE") == str(Settings.model_fields["port"].default)


def test_the_image_answers_for_no_other_names_than_the_service_does_by_itself() -> None:
    assert not image_environment().keys() & {"VAE_ALLOWED_HOSTS", "VAE_CORS_ORIGINS"}


def test_the_bill_of_materials_is_made_of_what_was_installed() -> None:
    installing, building, *_ = (rest for name, rest in stages()[0] if name == "RUN")
    reports = re.findall(r"--report (\S+)", installing)
    assert set(reports) == {"packages.json", "torch.json"}
    assert "deploy/sbom.py packages.json torch.json > /srv/vaeserve/sbom.cdx.json" in building


def test_the_loops_are_compiled_where_the_service_looks_for_them() -> None:
    *_, compiling = (rest for name, rest in stages()[0] if name == "RUN")
    assert f"NUMBA_CACHE_DIR={only('WORKDIR')}/{SHIPPED.name} " in compiling
    assert SHIPPED.parent == ROOT, "beside the rooms, which lie in the image's WORKDIR"
    assert f"{only('WORKDIR')} {only('WORKDIR')}" in [
        rest.removeprefix("--from=builder ") for name, rest in stages()[-1] if name == "COPY"
    ]


def test_the_bundles_lie_where_the_service_looks_for_shipped_ones() -> None:
    copied = [rest.split()[-1] for name, rest in stages()[-1] if name == "COPY"]
    assert f"{only('WORKDIR')}/models/bundles" in copied


def test_the_dependencies_are_installed_before_the_code_is_there_to_change() -> None:
    steps = [rest for name, rest in stages()[0] if name in {"COPY", "RUN"}]
    assert steps[0] == "requirements.lock torch.lock ./"
    assert "-r requirements.lock" in steps[1]
    assert steps[2] == ". ."


def test_only_the_service_enters_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert set(patterns[1:]) == {
        *("!pyproject.toml", "!requirements.lock", "!torch.lock", "!README.md", "!LICENSE"),
        *("!app", "!codec", "!models", "!deploy/sbom.py", "**/__pycache__"),
    }


@pytest.mark.parametrize("file", FILES)
def test_every_setting_named_is_one(file: str) -> None:
    named = set(re.findall(r"\bVAE_[A-Z_]+", (ROOT / file).read_text(encoding="utf-8")))
    assert named
    assert unknown_variables(dict.fromkeys(named, "")) == []


@pytest.mark.parametrize("file", [GPU, CPU])
class TestEveryComposeFile:
    def test_mounts_the_root_read_only_and_tmp_writable(self, file: str) -> None:
        assert service(file)["read_only"] is True
        assert [mount.partition(":")[0] for mount in service(file)["tmpfs"]] == ["/tmp"]

    def test_lets_nothing_in_tmp_be_run(self, file: str) -> None:
        [mount] = service(file)["tmpfs"]
        assert {"noexec", "nosuid", "nodev"} <= set(mount.partition(":")[2].split(","))

    def test_bounds_memory_processes_and_the_log(self, file: str) -> None:
        assert service(file)["mem_limit"] == {CPU: "4g", GPU: "8g"}[file]
        assert service(file)["pids_limit"] == 1024
        assert service(file)["logging"]["options"].keys() == {"max-size", "max-file"}

    def test_names_the_hosts_that_it_answers_for(self, file: str) -> None:
        assert service(file)["environment"]["VAE_ALLOWED_HOSTS"] == "localhost,127.0.0.1,vaeserve"

    def test_takes_every_privilege_away(self, file: str) -> None:
        assert service(file)["cap_drop"] == ["ALL"]
        assert service(file)["security_opt"] == ["no-new-privileges:true"]
        assert not service(file).keys() & {"privileged", "cap_add", "user"}

    def test_does_not_kill_before_the_service_has_ended_by_itself(self, file: str) -> None:
        fields = Settings.model_fields
        period = re.fullmatch(r"(\d+)s", service(file)["stop_grace_period"])
        assert period
        assert int(period[1]) > fields["drain_delay_seconds"].default + fields["grace_seconds"].default

    def test_does_not_run_python_as_process_1_where_an_early_sigterm_is_lost(self, file: str) -> None:
        assert service(file)["init"] is True

    def test_restarts_and_watches_the_service(self, file: str) -> None:
        assert service(file)["restart"] == "unless-stopped"
        assert "test" not in service(file)["healthcheck"], "the image knows what to ask"

    def test_publishes_the_port_of_the_image_to_this_machine_alone(self, file: str) -> None:
        assert service(file)["ports"] == [f"127.0.0.1:8000:{only('EXPOSE')}"]


def test_the_gpu_file_reserves_one_nvidia_gpu_and_insists_on_it() -> None:
    assert gpus(GPU) == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert service(GPU)["environment"]["VAE_DEVICE"] == "cuda"


def test_the_cpu_file_asks_for_no_gpu() -> None:
    assert gpus(CPU) == []
    assert service(CPU)["environment"]["VAE_DEVICE"] == "cpu"
