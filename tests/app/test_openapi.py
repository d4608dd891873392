"""The OpenAPI document, held against the running server."""

from typing import Any

import httpx
import jsonschema
import pytest

from app.errors import MEDIA_TYPE, Kind
from app.guard import METRICS, OPEN
from app.negotiation import Format
from app.negotiation.media import PAYLOAD
from app.openapi import problem_example
from app.routes import ROUTERS
from app.routes.common import StrictRoute
from app.server import create_app
from app.settings import Settings

ROUTES = {
    "/encode": {"application/json", "application/x-safetensors", "application/x-npy"},
    "/decode": {
        "application/json",
        "image/png",
        "application/x-npy",
        "application/x-safetensors",
        "application/zip",
    },
    "/score": {"application/json"},
}
ROUTES["/reconstruct"] = ROUTES["/sample"] = ROUTES["/decompress"] = ROUTES["/decode"]
ROUTES["/compress"] = {"application/json", "application/vnd.vaeserve.payload"}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def validate(value: object, schema: dict[str, Any], document: dict[str, Any]) -> None:
    jsonschema.validate(value, {**schema, "components": document["components"]})


def operation(document: dict[str, Any], route: str) -> dict[str, Any]:
    methods: dict[str, Any] = document["paths"][route]
    (found,) = methods.values()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "route", ["/encode", "/reconstruct", "/score", "/decode", "/compress", "/decompress"]
)
def test_a_request_s_example_gets_the_answer_that_is_described(
    client: httpx.Client, document: dict[str, Any], route: str
) -> None:
    described = operation(document, route)
    content = described["requestBody"]["content"]["application/json"]
    validate(content["example"], content["schema"], document)
    response = client.post(route, json=content["example"])
    assert response.status_code == 200
    validate(
        response.json(), described["responses"]["200"]["content"]["application/json"]["schema"], document
    )


def test_the_inference_protocol_s_example_is_answered_as_described(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    route = "/v2/models/{name}/infer"
    described = operation(document, route)
    name = next(iter(described["parameters"][0]["examples"]))
    example = described["requestBody"]["content"]["application/json"]["example"]
    response = client.post(route.format(name=name), json=example)
    assert (name, response.status_code) == ("grey.sample", 200)
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    validate(response.json(), schema, document)


@pytest.mark.parametrize(
    "route",
    [
        "/sample",
        "/models",
        "/models/{id}",
        "/models/{id}/latents",
        "/health/live",
        "/health/ready",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/config",
        "/v2/models/{name}/stats",
        "/v2/models/stats",
    ],
)
def test_a_get_s_answer_is_as_described(client: httpx.Client, document: dict[str, Any], route: str) -> None:
    path = route.format(id="grey", name="grey.sample")
    schema = operation(document, route)["responses"]["200"]["content"]["application/json"]["schema"]
    validate(client.get(path).json(), schema, document)


@pytest.mark.parametrize("route", ROUTES)
def test_every_described_media_type_is_answered(
    client: httpx.Client, document: dict[str, Any], route: str
) -> None:
    described = operation(document, route)
    answers = set(described["responses"]["200"]["content"])
    assert answers == ROUTES[route]
    for media_type in answers:
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        response = client.request("POST" if body else "GET", route, json=body, headers={"Accept": media_type})
        assert response.status_code == 200
        assert response.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "kind"),
    [
        ("POST", "/encode", {"Content-Type": "image/png"}, b"not an image", Kind.MALFORMED),
        ("GET", "/models/nope", {}, None, Kind.UNKNOWN_MODEL),
        ("POST", "/score", {"Accept": "text/html"}, b"x", Kind.NOT_ACCEPTABLE),
        ("POST", "/decode", {"Content-Type": "text/plain"}, b"x", Kind.UNSUPPORTED_MEDIA_TYPE),
        ("POST", "/encode", {"Content-Type": "application/json"}, b"{}", Kind.INVALID),
        ("GET", "/sample?n=0", {}, None, Kind.INVALID),
        ("POST", "/decompress", {"Content-Type": PAYLOAD}, b"V\xc6\x11abcd\x01", Kind.OTHER_MODEL),
        ("POST", "/encode", {"Content-Type": "application/json"}, bytes((32 << 20) + 1), Kind.TOO_LARGE),
    ],
)
def test_a_problem_is_as_its_example(
    client: httpx.Client,
    document: dict[str, Any],
    method: str,
    path: str,
    headers: dict[str, str],
    content: bytes | None,
    kind: Kind,
) -> None:
    response = client.request(method, path, headers=headers, content=content)
    route = path.partition("?")[0].replace("nope", "{id}")
    described = operation(document, route)["responses"][str(response.status_code)]["content"][MEDIA_TYPE]
    example = described["examples"][kind.slug]["value"]
    answered = response.json()
    assert {name: answered[name] for name in ("type", "title", "status")} == {
        name: example[name] for name in ("type", "title", "status")
    }
    assert response.headers["content-type"] == MEDIA_TYPE
    validate(answered, described["schema"], document)


def test_every_problem_example_fits_its_schema(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ProblemDocument"]
    for operations in document["paths"].values():
        for described in operations.values():
            for status, answer in described["responses"].items():
                for slug, example in (
                    answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).items()
                ):
                    validate(example["value"], schema, document)
                    assert str(example["value"]["status"]) == status
                    assert example["value"]["type"].endswith(slug)


def test_no_description_of_another_error_format_is_left(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in str(document)
    assert problem_example(Kind.DEADLINE)["status"] == 504


def test_every_route_that_refuses_unknown_parameters_says_so(document: dict[str, Any]) -> None:
    strict = [route for router in ROUTERS for route in router.routes if isinstance(route, StrictRoute)]
    assert len(strict) == 25
    for route in strict:
        assert "422" in operation(document, route.path)["responses"], route.path


def test_the_playground_is_no_part_of_it(document: dict[str, Any]) -> None:
    assert not [path for path in document["paths"] if path == "/" or path.startswith("/playground")]


def parameter(document: dict[str, Any], route: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in operation(document, route)["parameters"] if each["name"] == name)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("route", ROUTES)
def test_the_formats_of_a_route_are_those_that_it_answers(document: dict[str, Any], route: str) -> None:
    formats = parameter(document, route, "format")["schema"]["anyOf"][0]["enum"]
    assert {Format(name).media_type for name in formats} == ROUTES[route]
    assert "schemas/Format" not in str(document)


def test_the_limits_that_are_set_are_told() -> None:
    document = create_app(Settings(max_samples=70, max_score_samples=80)).openapi()
    assert parameter(document, "/sample", "n")["schema"]["maximum"] == 70
    assert parameter(document, "/score", "samples")["schema"]["maximum"] == 80


def test_loaded_models_are_examples(document: dict[str, Any]) -> None:
    assert list(parameter(document, "/encode", "model")["examples"]) == ["grey", "colour"]
    assert list(parameter(document, "/models/{id}", "id")["examples"]) == ["grey", "colour"]


def test_an_inference_request_takes_no_other_members(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["InferenceRequest"]["additionalProperties"] is False


def secured(document: dict[str, Any]) -> set[str]:
    return {path for path in document["paths"] if "security" in operation(document, path)}


def test_keys_are_told_of_where_they_are_set() -> None:
    keys = ("k" * 16,)
    document = create_app(Settings(api_keys=keys)).openapi()
    schemes = document["components"]["securitySchemes"]
    assert operation(document, "/encode")["security"] == [{name: []} for name in schemes]
    assert document["paths"].keys() - secured(document) == set(OPEN)
    opened = create_app(Settings(api_keys=keys, open_metrics=True)).openapi()
    assert opened["paths"].keys() - secured(opened) == {*OPEN, METRICS}


def test_no_keys_are_told_of_where_there_are_none(document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    assert secured(document) == set()


def test_every_guarded_route_documents_what_the_guard_answers(document: dict[str, Any]) -> None:
    for path in document["paths"].keys() - set(OPEN):
        assert {"401", "421"} <= operation(document, path)["responses"].keys(), path


@pytest.mark.parametrize("route", ["/encode", "/v2/models/{name}/infer"])
def test_headers_of_problems_are_described(document: dict[str, Any], route: str) -> None:
    answers = operation(document, route)["responses"]
    for status, name in {"401": "WWW-Authenticate", "415": "Accept-Encoding", "503": "Retry-After"}.items():
        assert answers[status]["headers"].keys() == {name, "X-Request-Id", "traceresponse"}
