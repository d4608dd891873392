"""The dashboard's row State tells what is so now; nothing of a service that is gone looks well."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.conftest import Prometheus, instance_of, prometheus_of
from tests.deploy.grafana import PANELS, Shown, shown
from tests.servers import running, save_grey_and_colour
from tests.waiting import eventually

STATE = [panel for panel in PANELS if panel["type"] == "stat"]
[READY] = [panel for panel in STATE if panel["title"] == "Ready"]
GREY = "#6e6e6e"
NO_DATA = Shown("no data", GREY)


def test_a_stat_asks_for_this_moment_and_draws_no_past() -> None:
    for panel in STATE:
        for target in panel["targets"]:
            assert (target.get("instant"), target.get("range")) == (True, False), panel["title"]
        assert panel["options"]["graphMode"] == "none", panel["title"]
    assert {panel["gridPos"]["y"] for panel in STATE} == {1}


def state(prometheus: Prometheus) -> dict[str, Shown]:
    return {panel["title"]: shown(panel, prometheus, rate_interval="1s") for panel in STATE}


IDLE = {
    "Ready": Shown("ready", "green"),
    "Alerts": Shown("0", "green"),
    "Requests": Shown("0", "blue"),
    "Errors": Shown("no requests", GREY),
    "p99": Shown("no requests", GREY),
    "In flight": Shown("1", "blue"),  # the scrape
    "Queue": Shown("0", "green"),
    "Device memory": NO_DATA,  # no GPU
}
STOPPED = {
    **dict.fromkeys(IDLE, NO_DATA),
    "Ready": Shown("NOT READY", "red"),
    "Alerts": Shown("1", "red"),
}


@pytest.mark.slow
@pytest.mark.prometheus
def test_a_service_that_stops_is_not_ready_and_its_last_figures_are_gone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with running(save_grey_and_colour(tmp_path)) as server:
            prometheus = stack.enter_context(prometheus_of(tmp_path, server))
            eventually(lambda: state(prometheus) == IDLE)
        eventually(lambda: state(prometheus) == STOPPED)


@pytest.mark.slow
@pytest.mark.prometheus
def test_one_of_two_instances_that_stops_is_not_ready(tmp_path: Path) -> None:
    with ExitStack() as stack:
        living = stack.enter_context(running(save_grey_and_colour(tmp_path)))
        with running(tmp_path) as other:
            prometheus = stack.enter_context(prometheus_of(tmp_path, living, other))
            eventually(lambda: prometheus.query("count(vae_ready) == 2"))
            assert shown(READY, prometheus) == Shown("ready", "green")
        eventually(lambda: shown(READY, prometheus) == Shown("NOT READY", "red"))
        assert shown(READY, prometheus, instance=instance_of(living)) == Shown("ready", "green")
        assert shown(READY, prometheus, instance=instance_of(other)) == Shown("NOT READY", "red")


@pytest.mark.slow
@pytest.mark.prometheus
def test_an_instance_that_is_no_target_is_not_scraped(prometheus: Prometheus) -> None:
    assert shown(READY, prometheus, instance="nowhere") == Shown("not scraped", "red")
