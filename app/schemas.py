"""Schemas that the OpenAPI document has under their names, beyond those that FastAPI finds by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

BINARY = {"schema": {"type": "string", "format": "binary"}}  # of a body or an answer
_TEMPLATE = "#/components/schemas/{model}"


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
