"""The dashboard is one that Grafana can draw, and every panel asks for something that is really scraped."""

from __future__ import annotations

import math
import re
from itertools import combinations
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.conftest import DEPLOY, Prometheus
from tests.deploy.grafana import PANELS, VARIABLES, asked, filled_in

DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in DRAWN for target in panel["targets"]]
WIDTH = 24


def test_panels_have_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_panels_lie_within_the_grid_and_over_no_other() -> None:
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH, panel["title"]
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        is_beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert is_beside or is_below, (one["title"], other["title"])


@pytest.mark.parametrize("panel", DRAWN, ids=[panel["title"] for panel in DRAWN])
def test_a_panel_has_a_title_a_description_a_unit_and_the_data_source_that_is_chosen(
    panel: dict[str, Any],
) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for owner in (panel, *panel["targets"]):
        assert owner["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_every_query_is_of_the_instances_that_are_chosen() -> None:
    for title, target in TARGETS:
        query = target["expr"]
        own = re.findall(r"\b(?:(?:vae|process)_\w+|up)\{([^}]*)\}", query)
        assert own or query.startswith("sum(ALERTS{"), title
        assert all('instance=~"$instance"' in matchers for matchers in own), title
        assert set(re.findall(r"\$(\w+)", query)) <= {*VARIABLES, "__rate_interval"}, title


def test_state_comes_first() -> None:
    top = [panel["title"] for panel in DRAWN if panel["gridPos"]["y"] == 1]
    assert top == ["Ready", "Alerts", "Requests", "Errors", "p99", "In flight", "Queue", "Device memory"]


def test_grafana_is_given_the_data_source_and_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = YAML(typ="safe").load(provisioning / "datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == (VARIABLES["datasource"]["query"], "http://prometheus:9090")
    [provider] = YAML(typ="safe").load(provisioning / "dashboards/vaeserve.yml")["providers"]
    grafana = YAML(typ="safe").load(DEPLOY / "monitoring.yml")["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/vaeserve.json"


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=[f"{title}-{target['refId']}" for title, target in TARGETS]
)
def test_a_panel_shows_what_is_scraped(title: str, target: dict[str, Any], prometheus: Prometheus) -> None:
    values = [value for _, values in asked(target, prometheus) for value in values]
    assert any(map(math.isfinite, values)), (title, target["expr"], values)


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("panel", DRAWN, ids=[panel["title"] for panel in DRAWN])
def test_a_legend_names_labels_that_are_there(panel: dict[str, Any], prometheus: Prometheus) -> None:
    for target in panel["targets"]:
        for labels, _ in asked(target, prometheus):
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(labels)


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("name", ["instance", "model"])
def test_a_variable_has_values(name: str, prometheus: Prometheus) -> None:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
    assert asked
    found = prometheus.query(filled_in(asked[1]))
    assert found
    assert all(labels[asked[2]] for labels, _ in found)
