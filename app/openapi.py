"""What the OpenAPI document says beyond the query parameters: bodies, answers, problems, with examples.

Each constant is the keyword arguments of one route's decorator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from app.errors import GUARDED, MEDIA_TYPE, Kind
from app.negotiation import (
    COMPRESSED_FORMATS,
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    IMAGES_IN,
    LATENTS_IN,
    PAYLOADS_IN,
    Format,
)
from app.negotiation.media import JSON
from app.schemas import BINARY, CODED, TIMED, header, problem_headers, reference
from models.bundle import BundleConfig, Metrics

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
        answer.setdefault("headers", {}).update(problem_headers(kind))
    return answers


def _route(
    answer: type[BaseModel],
    formats: Sequence[Format],
    kinds: Sequence[Kind],
    body: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    binary = {name.media_type: BINARY for name in formats if name is not Format.json}
    # JSON first: clients that are generated from the document read the first that they can.
    route: dict[str, Any] = {
        "response_class": Response,
        "responses": {
            200: {"model": answer, "content": {JSON: {}, **binary}, "headers": headers or {}},
            **_problems(kinds),
        },
    }
    if body is not None:
        route["openapi_extra"] = {"parameters": [CODED], "requestBody": {"required": True, "content": body}}
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
    "X-Original-Bytes": header("integer", "Bytes of the pixels, one a channel."),
    "X-Compressed-Bytes": header("integer", "Bytes of the payload."),
    "X-Bits-Per-Dim": header("number", "Bits of the payload a pixel's channel."),
    "X-Png-Bytes": header("integer", "Bytes of PNG files; with compare alone."),
    "X-Webp-Bytes": header("integer", "Of lossless WebP; with compare alone."),
}
_SEED = {"X-Seed": header("integer", "The seed, also where it was a random one.")}

ENCODE = _route(Encoded, ENCODED_FORMATS, _POSTED, _IMAGES_BODY, TIMED)
DECODE = _route(Images, IMAGE_FORMATS, _POSTED, _LATENTS_BODY, TIMED)
RECONSTRUCT = _route(Images, IMAGE_FORMATS, _POSTED, _IMAGES_BODY, TIMED)
SCORE = _route(Scores, (Format.json,), _POSTED, _IMAGES_BODY, TIMED)
SAMPLE = _route(Samples, IMAGE_FORMATS, (*_COMMON, *_WORK), headers=_SEED)
COMPRESS = _route(Compressed, COMPRESSED_FORMATS, _POSTED, _IMAGES_BODY, {**_FIGURES, **TIMED})
DECOMPRESS = _route(Decompressed, IMAGE_FORMATS, (*_POSTED, Kind.OTHER_MODEL), _PAYLOAD_BODY, TIMED)
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
        },
        **_problems(GUARDED),
    },
}
