"""Bodies of all requests together are bounded."""

from __future__ import annotations

from contextlib import suppress

import pytest

from app.errors import Kind, Problem
from app.intake import Intake
from app.metrics import Metrics


def dropped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("vae_dropped_requests_total", {"cause": "overloaded"})


def test_bodies_are_refused_beyond_the_limit_and_counted() -> None:
    metrics = Metrics()
    intake = Intake(10, metrics)
    with intake.body() as first, intake.body() as second:
        first(6)
        second(4)
        with pytest.raises(Problem, match="11 bytes of bodies would be held; the limit is 10") as caught:
            second(1)
    assert caught.value.kind is Kind.OVERLOADED
    assert dropped(metrics) == 1


def test_a_body_that_is_gone_makes_room() -> None:
    intake = Intake(10, Metrics())
    with suppress(RuntimeError), intake.body() as first:
        first(10)
        raise RuntimeError("the client left")
    with intake.body() as second:
        second(5)
        second(5)


def test_a_body_that_is_alone_always_has_room() -> None:
    intake = Intake(10, Metrics())
    with intake.body() as admit:
        admit(8)
        admit(8)
