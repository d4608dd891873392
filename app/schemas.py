"""Schemas that the OpenAPI document has under their names, beyond those that FastAPI finds by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.errors import Kind
from app.negotiation import BODY_CODINGS

BINARY = {"schema": {"type": "string", "format": "binary"}}  # of a body or an answer
CODED = {
    "name": "Content-Encoding",
    "in": "header",
    "schema": {"type": "string", "enum": list(BODY_CODINGS)},
    "description": "how the body is coded",
}
_TEMPLATE = "#/components/schemas/{model}"


def header(type: str, description: str) -> dict[str, Any]:
    """Return what describes a header of an answer."""
    return {"schema": {"type": type}, "description": description}


NAMED = {  # every answer
    "X-Request-Id": header("string", "The request's own, or one made up for it; the log has it too."),
    "traceresponse": header("string", "Its trace and span; with a traceparent or tracing alone."),
}
TIMED = {"Server-Timing": header("string", "Milliseconds in the queue and of computing.")}


def problem_headers(kind: Kind) -> dict[str, Any]:
    """Return what describes the headers that problems of a kind have."""
    if kind is Kind.UNAUTHORIZED:
        return {"WWW-Authenticate": header("string", "The schemes by which a key may be sent.")}
    if kind is Kind.UNSUPPORTED_MEDIA_TYPE:
        return {"Accept-Encoding": header("string", "Codings of a body; where its Content-Encoding is none.")}
    return {"Retry-After": header("integer", "In seconds.")} if kind.is_retried else {}


def reference(model: type[BaseModel]) -> dict[str, str]:
    """Return a reference to a model's schema."""
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def schemas_of(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of models, and of those within, by name."""
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_TEMPLATE)
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def without_const(schema: Any) -> Any:
    """Return a schema whose every `const` is an `enum` of one value, of which generators make right code."""
    if isinstance(schema, dict):
        kept = {name: without_const(member) for name, member in schema.items() if name != "const"}
        return {**kept, "enum": [schema["const"]]} if "const" in schema else kept
    return [without_const(member) for member in schema] if isinstance(schema, list) else schema
