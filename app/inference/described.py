"""What the OpenAPI document says of /v2. Each constant is the keyword arguments of a route's decorator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.errors import GUARDED, Kind
from app.inference.messages import LENGTH_HEADER
from app.schemas import BINARY, CODED, TIMED, header, problem_headers, reference

Scalar = bool | int | float | str


class InferenceError(BaseModel):
    """What went wrong, in words."""

    error: str


class ServerMetadata(BaseModel):
    """The server and the extensions of the protocol that it has."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: Literal[True]


class Ready(BaseModel):
    """Requests are taken, of one model where it has a name."""

    ready: Literal[True]
    name: str | None = None


class TensorMetadata(BaseModel):
    """A tensor; -1 in its shape is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """A tensor in Triton's model configuration: without the axis of a batch where there is one."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """Triton's model configuration, as far as it has a meaning here."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[dict[str, Any]]
    dynamic_batching: dict[str, Any]
    parameters: dict[str, dict[str, str]]


class RepositoryEntry(BaseModel):
    """A model that is loaded."""

    name: str
    version: str
    state: str
    reason: str


class Spent(BaseModel):
    """How often, and in how many nanoseconds together."""

    count: int
    ns: int


class ModelStatistics(BaseModel):
    """How often a model was asked; `inference_count` counts images, `execution_count` batches."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970")
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Spent]
    batch_stats: list[dict[str, Any]]
    memory_usage: list[dict[str, Any]]


class AllStatistics(BaseModel):
    """The statistics of one model or of all."""

    model_stats: list[ModelStatistics]


class RequestTensor(BaseModel):
    """An input: with its elements, or the number of its bytes after the JSON document."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = Field(default=None, description="flat or nested; BYTES in base64")
    parameters: dict[str, Scalar] | None = None


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Scalar] | None = None


class InferenceRequest(BaseModel):
    """Inputs, parameters of the model, and the outputs that are wanted: all if absent."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    parameters: dict[str, Scalar] | None = None
    inputs: list[RequestTensor]
    outputs: list[RequestedOutput] | None = None


class ResponseTensor(RequestTensor):
    """An output: with its elements, or the number of its bytes after the JSON document."""


class InferenceResponse(BaseModel):
    """A model's outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseTensor]


_UNKNOWN = (*GUARDED, Kind.UNKNOWN_MODEL, Kind.INVALID, Kind.NOT_READY)
_INFER = (
    Kind.MALFORMED,
    *_UNKNOWN,
    Kind.OTHER_MODEL,
    Kind.TOO_LARGE,
    Kind.UNSUPPORTED_MEDIA_TYPE,
    Kind.OVERLOADED,
    Kind.INTERNAL,
    Kind.DEVICE_FAULT,
    Kind.DEADLINE,
)
_BINARY = {"application/octet-stream": BINARY}


def _route(answer: Any, kinds: Sequence[Kind]) -> dict[str, Any]:
    problems: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        found = problems.setdefault(kind.status, {"model": InferenceError, "description": "", "headers": {}})
        found["description"] += (", or " if found["description"] else "") + kind.title
        found["headers"].update(problem_headers(kind))
    return {"response_class": Response, "responses": {200: {"model": answer}, **problems}}


SERVER = _route(ServerMetadata, (*GUARDED, Kind.INVALID))
LIVE = _route(Live, (Kind.INVALID, Kind.DEVICE_FAULT))
READY = _route(Ready, (Kind.INVALID, Kind.NOT_READY))
MODEL_READY = _route(Ready, _UNKNOWN)
INDEX = _route(list[RepositoryEntry], (*GUARDED, Kind.INVALID, Kind.NOT_READY))
METADATA = _route(ModelMetadata, _UNKNOWN)
CONFIG = _route(ModelConfig, _UNKNOWN)
STATISTICS = _route(AllStatistics, _UNKNOWN)
INFER = _route(InferenceResponse, _INFER)
INFER["responses"][200] |= {
    "content": {"application/json": {}, **_BINARY},
    "headers": {
        LENGTH_HEADER: header("integer", "Bytes of the JSON document, where raw tensors follow it."),
        "Content-Encoding": header("string", "Where it is coded, as Accept-Encoding allows."),
        "Vary": header("string", "Where it is coded."),
        **TIMED,
    },
}
INFER["openapi_extra"] = {
    "parameters": [
        CODED,
        {
            "name": LENGTH_HEADER,
            "in": "header",
            "schema": {"type": "integer", "minimum": 0},
            "description": "bytes of the JSON document, where raw tensors follow it; 0 where it is left out",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": reference(InferenceRequest)}, **_BINARY},
    },
}
