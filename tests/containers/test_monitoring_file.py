"""Prometheus and Grafana in compose: not there unless asked for, with no more rights than they need."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
FILE = "deploy/monitoring.yml"
DOCUMENT = YAML(typ="safe").load(ROOT / FILE)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.cpu.yml"])
def test_both_compose_files_include_them_with_paths_from_the_root(file: str) -> None:
    included = YAML(typ="safe").load(ROOT / file)["include"]
    assert included == [{"path": FILE, "project_directory": "."}]


def test_they_are_prometheus_and_grafana() -> None:
    assert set(SERVICES) == {"prometheus", "grafana"}


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [mount.split(":") for mount in service["volumes"]]


@pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
class TestEveryService:
    def test_is_started_by_the_profile_alone(self, service: dict[str, Any]) -> None:
        assert service["profiles"] == ["monitoring"]

    def test_is_of_a_version(self, service: dict[str, Any]) -> None:
        assert re.fullmatch(r"(prom/prometheus:v|grafana/grafana:)\d+\.\d+\.\d+", service["image"])

    def test_runs_as_a_numbered_user_other_than_root(self, service: dict[str, Any]) -> None:
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])

    def test_has_no_privileges_and_a_root_that_is_read_only(self, service: dict[str, Any]) -> None:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid"}

    def test_publishes_its_port_to_this_machine_alone(self, service: dict[str, Any]) -> None:
        [port] = service["ports"]
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)

    def test_is_watched_and_restarted(self, service: dict[str, Any]) -> None:
        assert service["restart"] == "unless-stopped"
        assert service["ports"][0].split(":")[1] in service["healthcheck"]["test"][-1]

    def test_reads_the_files_that_are_here_and_cannot_change_them(self, service: dict[str, Any]) -> None:
        bound = [mount for mount in mounts(service) if mount[0].startswith(".")]
        assert bound
        for source, _, mode in bound:
            assert (ROOT / source).exists()
            assert mode == "ro"


def test_prometheus_finds_its_configuration_and_keeps_its_data() -> None:
    service = SERVICES["prometheus"]
    options = dict(option.removeprefix("--").split("=", 1) for option in service["command"])
    places = {source: target for source, target, *_ in mounts(service)}
    assert places["./deploy/prometheus/prometheus.yml"] == options["config.file"]
    configuration = YAML(typ="safe").load(ROOT / "deploy/prometheus/prometheus.yml")
    for rules in configuration["rule_files"]:
        folder = options["config.file"].rpartition("/")[0]
        assert places[f"./deploy/prometheus/{rules}"] == f"{folder}/{rules}"
    [named] = DOCUMENT["volumes"]
    assert places[named] == options["storage.tsdb.path"]
    assert "storage.tsdb.retention.size" in options


def test_prometheus_scrapes_the_service_that_the_compose_files_start() -> None:
    [scrape] = YAML(typ="safe").load(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
    [target] = scrape["static_configs"][0]["targets"]
    name, port = target.split(":")
    own = YAML(typ="safe").load(ROOT / "docker-compose.cpu.yml")["services"][name]
    assert own["ports"][0].endswith(f":{port}")


def test_nobody_can_log_in_to_grafana_or_change_anything() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert not any("PASSWORD" in name for name in environment)
