"""What the OpenAPI document says beyond the query parameters: bodies, answers, problems, with examples.

Each constant is the keyword arguments of one route's decorator.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.errors import GUARDED, MEDIA_TYPE, Kind
from app.inference.described import InferenceRequest
from app.negotiation import (
    COMPRESSED_FORMATS,
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    IMAGES_IN,
    LATENTS_IN,
    PAYLOADS_IN,
    Format,
)
from app.negotiation.media import JSON, PAYLOAD
from app.schemas import BINARY, reference, schemas_of, without_const
from codec.encoding import compress
from models.bundle import BundleConfig, Metrics
from models.images import encode_png

Vectors = list[list[float]]


class ImagesIn(BaseModel):
    """Encoded images, PNG, JPEG or WebP, in base64."""

    images: list[str] = Field(min_length=1)


class LatentsIn(BaseModel):
    """Latents, one row an image."""

    latents: Vectors = Field(min_length=1)


class Encoded(BaseModel):
    """mu and logvar of q(z given x), one row an image."""

    model: str
    mu: Vectors
    logvar: Vectors


class Images(BaseModel):
    """PNG images in base64."""

    model: str
    images: list[str]


class Samples(Images):
    """Samples, with what brings them back."""

    seed: int
    latents: Vectors


class Scores(BaseModel):
    """Bounds on log p(x) in nats, one an image; bits_per_dim is of −elbo."""

    model: str
    elbo: list[float]
    nll: list[float]
    kl: list[float]
    distortion: list[float]
    bits_per_dim: list[float]
    samples: int


class PayloadIn(BaseModel):
    """A payload in base64."""

    payload: str


class Compressed(BaseModel):
    """A payload in base64; the id of its model, null where none was used; bytes of the pixels and of it."""

    model: str | None
    payload: str
    original_bytes: int
    compressed_bytes: int
    bits_per_dim: float
    png_bytes: int | None = Field(default=None, description="of PNG files, one an image; with compare alone")
    webp_bytes: int | None = Field(default=None, description="of lossless WebP files; with compare alone")


class Decompressed(BaseModel):
    """PNG images in base64; the id of the payload's model, null where it has none."""

    model: str | None
    images: list[str]


class RequestLimits(BaseModel):
    """What one request may ask for."""

    max_body_bytes: int
    max_images: int
    max_pixels: int
    max_samples: int
    max_score_samples: int


class LoadedModel(BaseModel):
    """A loaded bundle."""

    id: str
    digest: str
    codec: str | None = Field(description="digest of codec.safetensors, whose first 4 bytes payloads name")
    device: str
    config: BundleConfig
    metrics: Metrics
    limits: RequestLimits


class LoadedModels(BaseModel):
    """Every loaded bundle, the default first."""

    default: str
    models: list[LoadedModel]


class LatentsOfModel(BaseModel):
    """Moments of mu over the training images, a latent each."""

    model: str
    latent_dim: int
    mean: list[float]
    std: list[float] = Field(description="standard deviation")
    active: list[bool] = Field(description="whether mu varies by more than 0.01, as a variance")


class Status(BaseModel):
    """The state of the process."""

    status: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem: `value` is what was sent, `limit` what is allowed."""

    type: str
    title: str
    status: int
    detail: str
    value: Any = None
    limit: Any = None
    errors: list[dict[str, Any]] | None = None


DETAILS = {
    Kind.MALFORMED: "the body: not a PNG, JPEG or WebP file; it starts with 6e 6f 74 20 61 6e 20 69",
    Kind.UNAUTHORIZED: "a key is needed: Authorization: Bearer …, or X-API-Key",
    Kind.MISDIRECTED: "the Host is 'evil.example'; VAE_ALLOWED_HOSTS are localhost, 127.0.0.1",
    Kind.UNKNOWN_MODEL: "model 'nope' is not loaded; loaded are fashion-mnist",
    Kind.NOT_ACCEPTABLE: "Accept is text/html; offered are application/json",
    Kind.OTHER_MODEL: "the payload was made with model 0123abcd, …; loaded are fashion-mnist (89abcdef)",
    Kind.TOO_LARGE: "the body has 33554433 bytes; the limit is 33554432",
    Kind.UNSUPPORTED_MEDIA_TYPE: "Content-Type is text/plain; supported are image/png, …",
    Kind.INVALID: "images[0] is 32×32; the model takes 28×28 (height × width) unless fit=… is given",
    Kind.OVERLOADED: "8200 images would be queued; the limit is 8192",
    Kind.INTERNAL: "an unexpected error; the service's log has it",
    Kind.NOT_READY: "the service is loading",
    Kind.DEVICE_FAULT: "the batch failed: CUDA out of memory",
    Kind.DEADLINE: "no answer within 30 seconds; the request waited in the queue or on the device",
}


def problem_example(kind: Kind) -> dict[str, Any]:
    """Return a problem document of a kind, less the value and limit that some carry."""
    return {
        "type": f"urn:vaeserve:problem:{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": DETAILS[kind],
    }


def _problems(kinds: Sequence[Kind]) -> dict[int | str, dict[str, Any]]:
    answers: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        answer = answers.setdefault(
            kind.status,
            {
                "description": kind.title,
                "content": {MEDIA_TYPE: {"schema": reference(ProblemDocument), "examples": {}}},
            },
        )
        answer["content"][MEDIA_TYPE]["examples"][kind.slug] = {"value": problem_example(kind)}
        if kind.is_retried:
            answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "in seconds"}}
    return answers


def _route(
    answer: type[BaseModel],
    formats: Sequence[Format],
    kinds: Sequence[Kind],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    binary = {name.media_type: BINARY for name in formats if name is not Format.json}
    # JSON first: clients that are generated from the document read the first that they can.
    route: dict[str, Any] = {
        "response_class": Response,
        "responses": {200: {"model": answer, "content": {JSON: {}, **binary}}, **_problems(kinds)},
    }
    if body is not None:
        route["openapi_extra"] = {"requestBody": {"required": True, "content": body}}
    return route


def _body(document: type[BaseModel], media_types: Sequence[str]) -> dict[str, Any]:
    # Backwards: such clients send a file as the last that is no JSON, an image as PNG.
    binary = {media_type: BINARY for media_type in reversed(media_types) if media_type != JSON}
    return {JSON: {"schema": reference(document)}, **binary}


_COMMON = (*GUARDED, Kind.UNKNOWN_MODEL, Kind.NOT_ACCEPTABLE, Kind.INVALID)
_WORK = (Kind.OVERLOADED, Kind.INTERNAL, Kind.NOT_READY, Kind.DEVICE_FAULT, Kind.DEADLINE)
_POSTED = (Kind.MALFORMED, *_COMMON, Kind.TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE, *_WORK)
_IMAGES_BODY, _LATENTS_BODY = _body(ImagesIn, IMAGES_IN), _body(LatentsIn, LATENTS_IN)
_PAYLOAD_BODY = _body(PayloadIn, PAYLOADS_IN)
_FIGURES = {
    "X-Original-Bytes": {"schema": {"type": "integer"}, "description": "Bytes of the pixels, one a channel."},
    "X-Compressed-Bytes": {"schema": {"type": "integer"}, "description": "Bytes of the payload."},
    "X-Bits-Per-Dim": {"schema": {"type": "number"}, "description": "Bits of the payload a pixel's channel."},
    "X-Png-Bytes": {"schema": {"type": "integer"}, "description": "Bytes of PNG files; with compare alone."},
    "X-Webp-Bytes": {"schema": {"type": "integer"}, "description": "Of lossless WebP; with compare alone."},
}

ENCODE = _route(Encoded, ENCODED_FORMATS, _POSTED, _IMAGES_BODY)
DECODE = _route(Images, IMAGE_FORMATS, _POSTED, _LATENTS_BODY)
RECONSTRUCT = _route(Images, IMAGE_FORMATS, _POSTED, _IMAGES_BODY)
SCORE = _route(Scores, (Format.json,), _POSTED, _IMAGES_BODY)
SAMPLE = _route(Samples, IMAGE_FORMATS, (*_COMMON, *_WORK))
COMPRESS = _route(Compressed, COMPRESSED_FORMATS, _POSTED, _IMAGES_BODY)
COMPRESS["responses"][200]["headers"] = _FIGURES
DECOMPRESS = _route(Decompressed, IMAGE_FORMATS, (*_POSTED, Kind.OTHER_MODEL), _PAYLOAD_BODY)
MODELS = _route(LoadedModels, (), (*GUARDED, Kind.INVALID, Kind.NOT_READY))
MODEL = _route(LoadedModel, (), (*GUARDED, Kind.UNKNOWN_MODEL, Kind.INVALID, Kind.NOT_READY))
LATENTS = _route(LatentsOfModel, (), (*GUARDED, Kind.UNKNOWN_MODEL, Kind.INVALID, Kind.NOT_READY))
LIVE = _route(Status, (), (Kind.DEVICE_FAULT,))
READY = _route(Status, (), (Kind.NOT_READY,))
METRICS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "Prometheus text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
}


def build_document(app: FastAPI, default: BundleConfig | None) -> dict[str, Any]:
    """Return the OpenAPI document, its request examples made for the default model once it is loaded."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    bodies = (ImagesIn, LatentsIn, PayloadIn, InferenceRequest, ProblemDocument)
    schemas = document["components"]["schemas"] | schemas_of(bodies)
    document["components"]["schemas"] = without_const(schemas)
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            if default is not None and JSON in content:
                content[JSON]["example"] = _example(content, default)
    return document


def _example(content: dict[str, Any], config: BundleConfig) -> dict[str, Any]:
    if PAYLOAD in content:
        payload = compress(np.zeros((1, *config.input.shape), np.uint8), None)
        return {"payload": base64.b64encode(payload).decode()}
    if "image/png" not in content:
        return {"latents": [[0.0] * config.latent_dim]}
    channels, height, width = config.input.shape
    ramp = np.linspace(0, 255, height * width, dtype=np.uint8).reshape(height, width, 1)
    png = encode_png(np.repeat(ramp, channels, axis=2))
    return {"images": [base64.b64encode(png).decode()]}
