"""The OpenAPI document of a service: what its routes say, and what its settings and loaded models add."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.guard import open_paths
from app.inference import VERSION, models_of
from app.inference.described import InferenceRequest
from app.negotiation import Format
from app.negotiation.media import JSON, PAYLOAD
from app.openapi import ImagesIn, LatentsIn, PayloadIn, ProblemDocument
from app.schemas import NAMED, schemas_of, without_const
from app.service import Service
from app.settings import Settings
from codec.encoding import compress
from models.bundle import BundleConfig
from models.images import encode_png

# Any of them: http's Basic has the key as its password, for browsers.
SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
}


def build_document(app: FastAPI, service: Service) -> dict[str, Any]:
    """Return the OpenAPI document, its examples made for the loaded bundles once there are some."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    bodies = (ImagesIn, LatentsIn, PayloadIn, InferenceRequest, ProblemDocument)
    schemas = document["components"]["schemas"] | schemas_of(bodies)
    del schemas[Format.__name__]  # of which each route says its own
    document["components"]["schemas"] = without_const(schemas)
    settings, keys = service.settings, service.settings.keys()
    if keys:
        document["components"]["securitySchemes"] = SCHEMES
    for path, operation in _operations(document):
        _narrow(operation, settings)
        for answer in operation["responses"].values():
            answer["headers"] = {**answer.get("headers", {}), **NAMED}
        if keys and path not in open_paths(settings.open_metrics):
            operation["security"] = [{name: []} for name in SCHEMES]
        if (default := service.default_config) is not None:
            _add_examples(operation, service, default)
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _narrow(operation: dict[str, Any], settings: Settings) -> None:
    """Have parameters say what is known of them here alone: the formats of a route, the limits set."""
    most = {"n": settings.max_samples, "samples": settings.max_score_samples}
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        if name in most:
            schema["maximum"] = most[name]
        elif name == "format":
            answered = operation["responses"]["200"]["content"]
            offered = [format.value for format in Format if format.media_type in answered]
            schema["anyOf"][0] = {"type": "string", "enum": offered}


def _add_examples(operation: dict[str, Any], service: Service, default: BundleConfig) -> None:
    bundles = list(service.bundles)
    # That of the example of a body first.
    names = sorted(
        (model.name for model in models_of(service)), key=lambda name: not name.endswith(".sample")
    )
    known = {"model": bundles, "id": bundles, "name": names, "version": [VERSION]}
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in known:
            parameter["examples"] = {value: {"value": value} for value in known[parameter["name"]]}
    content = operation.get("requestBody", {}).get("content", {})
    if JSON in content:
        content[JSON]["example"] = _example(content, default)


def _example(content: dict[str, Any], config: BundleConfig) -> dict[str, Any]:
    if "application/octet-stream" in content:
        return {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [2]}]}
    if PAYLOAD in content:
        payload = compress(np.zeros((1, *config.input.shape), np.uint8), None)
        return {"payload": base64.b64encode(payload).decode()}
    if "image/png" not in content:
        return {"latents": [[0.0] * config.latent_dim]}
    channels, height, width = config.input.shape
    ramp = np.linspace(0, 255, height * width, dtype=np.uint8).reshape(height, width, 1)
    png = encode_png(np.repeat(ramp, channels, axis=2))
    return {"images": [base64.b64encode(png).decode()]}
