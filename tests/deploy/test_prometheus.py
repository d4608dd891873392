"""Prometheus takes the files, each alert fires when it should, and what they ask for is really scraped."""

from __future__ import annotations

import math
import re
import subprocess
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.metrics import DeviceMemory, Metrics
from tests.deploy.conftest import DEPLOY, Prometheus
from tests.exposition import DOCUMENT
from tests.waiting import eventually

FOLDER = DEPLOY / "prometheus"
ALERTS: list[dict[str, Any]] = [
    rule for group in YAML(typ="safe").load(FOLDER / "alerts.yml")["groups"] for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]
# The others; what is not there, which one asks for, is there.
ASKING = [alert for alert in ALERTS if not alert["expr"].startswith("absent(")]


def promtool(*arguments: str, content: str = "") -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, input=content, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


@pytest.mark.prometheus
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_both_ways() -> None:
    tests = YAML(typ="safe").load(FOLDER / "alerts_test.yml")["tests"]
    looks = [look for test in tests for look in test["alert_rule_test"]]
    for name in NAMES:
        assert {bool(look["exp_alerts"]) for look in looks if look["alertname"] == name} == {True, False}, (
            name
        )


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/metrics.md#{alert['alert'].lower()}"
    section = re.search(rf"^### {alert['alert']}\n\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert section, "docs/metrics.md has no such section"
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section[1]


def test_every_alert_of_the_document_is_one() -> None:
    assert re.findall(r"^### (Vaeserve\w+)$", DOCUMENT, re.MULTILINE) == NAMES


def test_the_limit_of_a_quantile_is_the_edge_of_a_bucket() -> None:
    [slow] = [alert["expr"] for alert in ALERTS if "histogram_quantile(" in alert["expr"]]
    [(metric, edge)] = re.findall(r'(\w+_bucket)\{[^}]*le="([\d.]+)"', slow)
    assert f")) > {edge}\n" in slow
    metrics = Metrics()
    metrics.of_route("/encode")
    assert f'{metric}{{le="{edge}",route="/encode"}}' in metrics.exposition().decode()


@pytest.mark.prometheus
def test_promtool_finds_no_fault_with_the_metrics() -> None:
    metrics = Metrics()
    metrics.show_memory(DeviceMemory("cuda:0", 4, 3, 2, 1))
    promtool("check", "metrics", content=metrics.exposition().decode())


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("alert", ASKING, ids=[alert["alert"] for alert in ASKING])
def test_an_alert_looks_at_what_is_scraped(alert: dict[str, Any], prometheus: Prometheus) -> None:
    # With `bool` a comparison answers 0 or 1, where it would leave out what does not fire.
    compared = re.sub(r"(>|==) (?=[\d.]+\s)", r"\1 bool ", alert["expr"] + "\n")
    assert compared.count(" bool ") == len(re.findall("[<>]|==", alert["expr"])) > 0
    found = prometheus.query(compared)
    assert found, compared
    assert {value for _, value in found} <= {0.0, 1.0}
    for labels, _ in found:
        assert "instance" in labels


@pytest.mark.slow
@pytest.mark.prometheus
def test_the_rules_are_loaded_and_can_be_evaluated(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    assert [rule["name"] for rule in rules()] == NAMES
    eventually(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}


@pytest.mark.slow
@pytest.mark.prometheus
def test_the_first_event_after_a_start_is_seen_by_a_rate(prometheus: Prometheus) -> None:
    for event in (
        'vae_requests_total{route="/encode", status="429"}',
        'vae_dropped_requests_total{cause="overloaded"}',
        'vae_images_total{operation="encode"}',
        'vae_compressed_bytes_total{mode="quality", codec="learned"}',
    ):
        [(_, rate)] = prometheus.query(f"rate({event}[1m])")
        assert rate > 0, event
        assert math.isfinite(rate)
