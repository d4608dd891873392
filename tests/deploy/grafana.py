"""The dashboard as Grafana reads it: what a panel asks Prometheus, and what a stat shows of the answer."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from tests.deploy.conftest import DEPLOY, Prometheus

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/vaeserve.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


class Shown(NamedTuple):
    """What stands in a stat and the colour behind it."""

    text: str
    color: str


def filled_in(query: str, instance: str = ".+", rate_interval: str = "1m") -> str:
    """Return a query as Grafana sends it, with every model chosen."""
    query = query.replace("$model", VARIABLES["model"]["allValue"]).replace("$instance", instance)
    return query.replace("$__rate_interval", rate_interval)


def asked(
    target: dict[str, Any], prometheus: Prometheus, **filling: str
) -> list[tuple[dict[str, str], list[float]]]:
    """Return what Grafana is answered for a target: labels and values of now, or of all that is drawn."""
    query = filled_in(target["expr"], **filling)
    if target.get("instant", False):
        return [(labels, [value]) for labels, value in prometheus.query(query)]
    return prometheus.query_range(query)


def shown(panel: dict[str, Any], prometheus: Prometheus, **filling: str) -> Shown:
    """Return what a stat shows, by the rules of Grafana's displayProcessor.ts."""
    [target] = panel["targets"]
    [calculation] = panel["options"]["reduceOptions"]["calcs"]
    assert calculation in {"last", "lastNotNull"}
    series = asked(target, prometheus, **filling)
    assert len(series) <= 1, "it would show several values"
    value = series[0][1][-1] if series else None
    defaults = panel["fieldConfig"]["defaults"]
    mapped = _mapped(defaults.get("mappings", []), value)
    # What is no number has the lowest step's colour, green in most panels, unless a mapping has one for it.
    rank = -math.inf if value is None or math.isnan(value) else value
    steps = defaults["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or rank >= step["value"]]
    written = defaults.get("noValue", "No data") if rank == -math.inf else f"{rank:g}"
    return Shown(mapped.get("text", written), mapped.get("color", reached[-1]))


def _mapped(mappings: list[dict[str, Any]], value: float | None) -> dict[str, Any]:
    kind = "null" if value is None else "nan" if math.isnan(value) else f"{value:g}"
    for mapping in mappings:
        options = mapping["options"]
        if mapping["type"] == "special" and kind in options["match"].split("+"):
            return dict(options["result"])
        if mapping["type"] == "value" and kind in options:
            return dict(options[kind])
    return {}
