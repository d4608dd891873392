"""The OpenAPI document against the running service: a short run of what `make conformance` does at length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from app.errors import Kind, Problem
from app.negotiation import IMAGES_IN, PAYLOADS_IN
from benchmarks.conformance.running import CONFIG, Found, conformance, summary, tabulated
from benchmarks.serving.processes import BenchmarkError
from tests.servers import Running, running

SEED = 1
LIMITS = {"max_samples": 40, "max_score_samples": 20}
KEY = "a key of some length"
RESULTS = CONFIG.with_name("results.json")


@pytest.fixture(scope="module")
def service(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder, **LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def found(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return conformance(service.url, tmp_path_factory.mktemp("conformance"), examples=20, seed=SEED)


def test_no_answer_is_other_than_the_document_says(found: Found) -> None:
    assert not found.failures, found.output
    told = summary([found])
    assert told["server_errors"] == 0
    assert told["cases"] > 1000
    assert told["cases"] > told["with_body"] > 500
    assert told["phases"] == {name: ["success"] for name in ("examples", "coverage", "fuzzing", "stateful")}


def test_every_operation_is_asked_and_most_valid_cases_are_answered(found: Found, service: Running) -> None:
    document = service.client.get("/openapi.json").json()
    labels = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    operations = tabulated(found.counts)
    assert operations.keys() == labels
    for label, row in operations.items():
        assert row["valid_answered_2xx"] >= 0.7 * row["valid"] > 0, label


def test_every_type_of_body_is_answered_and_refused(found: Found) -> None:
    statuses: dict[str, set[str]] = {}
    for row in tabulated(found.counts).values():
        for media_type, answered in row["bodies"].items():
            statuses.setdefault(media_type, set()).update(answered)
    assert statuses.keys() == {*IMAGES_IN, *PAYLOADS_IN, "application/octet-stream"}
    for media_type, answered in statuses.items():
        assert "200" in answered, media_type
        assert answered & {"400", "422"}, media_type


def test_with_keys(bundle_folder: Path, tmp_path: Path) -> None:
    with running(bundle_folder, api_keys=(KEY,), **LIMITS) as service:
        found = conformance(service.url, tmp_path, examples=2, seed=SEED, headers={"X-API-Key": KEY})
        refused = service.client.get("/metrics", headers={"X-API-Key": KEY}).text
    assert not found.failures, found.output
    counted = [line for line in refused.splitlines() if line.startswith("vae_requests_total")]
    (line,) = (line for line in counted if '"401"' in line)
    assert float(line.split()[-1]) >= 24  # each guarded operation was asked without a key


def only_of_old(value: Any, name: str) -> Any:
    """Take the element of an input as it was once taken: a scalar was a fault of the service."""
    if len(value) != 1:
        raise Problem(Kind.INVALID, f"input {name} has {len(value)} elements")
    return value[0]


def test_an_input_of_a_rank_that_was_not_thought_of_is_found(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.inference.calls._only", only_of_old)
    with running(bundle_folder, **LIMITS) as service:
        found = conformance(service.url, tmp_path, examples=20, seed=SEED)
    infer = {f"POST /v2/models/{{name}}{of}/infer" for of in ("", "/versions/{version}")}
    failures = [failure for failure in found.failures if failure["type"] == "ServerError"]
    assert failures
    assert {operation for failure in failures for operation in failure["operations"]} <= infer


def lie(document: dict[str, Any]) -> None:
    paths, schemas = document["paths"], document["components"]["schemas"]
    sample = paths["/sample"]["get"]
    drawn = {each["name"]: each["schema"] for each in sample["parameters"]}
    del sample["responses"]["422"]
    del sample["responses"]["200"]["headers"]["X-Seed"]
    drawn["n"]["minimum"] = 0
    drawn["temperature"]["maximum"] = 1
    del paths["/encode"]["post"]["responses"]["200"]["content"]["application/x-npy"]
    schemas["Scores"]["properties"]["samples"]["type"] = "string"
    compressed = paths["/compress"]["post"]["responses"]["200"]["headers"]
    compressed["X-Original-Bytes"]["schema"]["type"] = "boolean"
    paths["/models"]["post"] = paths["/models"].pop("get")
    paths["/v2/models/stats"]["get"]["security"] = [{"key": []}]
    document["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}


FAULTS = {
    ("ServerError", "GET /v2"),
    ("CustomFailure", "POST /decode"),  # of readable_answers
}
LIES = {
    ("UndefinedStatusCode", "GET /sample"),
    ("CustomFailure", "GET /sample"),  # of documented_headers
    ("RejectedPositiveData", "GET /sample"),
    ("AcceptedNegativeData", "GET /sample"),
    ("UndefinedContentType", "POST /encode"),
    ("JsonSchemaError", "POST /score"),
    ("JsonSchemaError", "POST /compress"),
    ("AllowHeaderMismatch", "OPTIONS /models"),
    ("UnsupportedMethodResponse", "GET /models"),
    ("IgnoredAuth", "GET /v2/models/stats"),
    ("MissingHeaderNotRejected", "GET /v2/models/stats"),
}


def test_every_lie_of_a_document_is_found_and_every_fault_of_the_service(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> str:
        raise PackageNotFoundError(name)

    with running(bundle_folder, **LIMITS) as service:
        document = service.client.get("/openapi.json").json()
        lie(document)
        monkeypatch.setattr(service.server.app, "openapi", lambda: document)
        monkeypatch.setattr("app.routes.inference.version_of", fail)
        monkeypatch.setattr("app.negotiation.answers.encode_png", lambda image: b"no PNG")
        found = conformance(service.url, tmp_path, examples=2, seed=SEED)
    failures = found.report["failures"]
    seen = {(failure["type"], operation) for failure in failures for operation in failure["operations"]}
    missed = (LIES | FAULTS) - seen
    assert not missed, " ".join(map(str, sorted(seen)))


def test_a_document_that_cannot_be_read_is_no_success(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.server.app, "openapi", lambda: {"openapi": "3.1.0"})
    with pytest.raises(BenchmarkError, match="schemathesis ended with status"):
        conformance(service.url, tmp_path, examples=1, seed=SEED)


def test_answers_are_tabulated() -> None:
    counts = {"GET /a|fuzzing|positive||200": 3, "GET /a|coverage|negative|image/png|422": 2}
    assert tabulated(counts) == {
        "GET /a": {
            "cases": 5,
            "valid": 3,
            "valid_answered_2xx": 3,
            "phases": {"fuzzing": 3, "coverage": 2},
            "statuses": {"200": 3, "422": 2},
            "bodies": {"image/png": {"422": 2}},
        }
    }


def test_the_long_run_that_is_kept_found_nothing() -> None:
    kept = json.loads(RESULTS.read_text())
    assert (kept["failures"], kept["server_errors"]) == ([], 0)
    assert kept["cases"] >= 20_000
