"""Inference requests and answers: a JSON document, then the raw bytes of the tensors it calls binary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from app.errors import Kind, Problem, echo
from app.inference.tensors import (
    Datatype,
    Tensor,
    Value,
    bytes_of_tensor,
    declared_shape,
    json_of_tensor,
    shape_of,
    tensor_of_bytes,
    tensor_of_json,
)
from app.negotiation import Limits, json_of
from app.negotiation.media import JSON

LENGTH_HEADER = "Inference-Header-Content-Length"
_LENGTH_DIGITS = 20
_MEMBERS = ("id", "parameters", "inputs", "outputs")
# Parameters that Triton's clients set of their own accord; they mean nothing to models without sequences.
_IGNORED = ("sequence_id", "sequence_start", "sequence_end", "priority", "binary_data_output", "timeout")
_IGNORED_PREFIX = "triton_"
_DATATYPES = {datatype.dtype: datatype for datatype in Datatype}


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for, and whether as raw bytes."""

    name: str
    is_binary: bool


@dataclass(frozen=True)
class Inference:
    """A request: its inputs by name, its parameters for the model, and what it wants back."""

    id: str | None
    inputs: Mapping[str, Value]
    parameters: Mapping[str, Any]
    outputs: Sequence[Wanted]
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives. An input listed once for each of several datatypes has one of them."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor] = field(default=())

    def datatypes(self, name: str) -> list[Datatype]:
        """Return the datatypes that an input may have; none for a name that is no input."""
        return [tensor.datatype for tensor in self.inputs if tensor.name == name]

    @property
    def input_names(self) -> list[str]:
        """Every input's name once."""
        return [tensor.name for tensor in self.first_inputs]

    @property
    def first_inputs(self) -> list[Tensor]:
        """Every input once, of several datatypes with the first."""
        return list({tensor.name: tensor for tensor in reversed(self.inputs)}.values())[::-1]


def check_form(content_type: str | None, header_length: str | None) -> None:
    """Raise Problem for a body that is JSON by one header and has none by the other."""
    if header_length == "0" and (content_type or "").partition(";")[0].strip().lower() == JSON:
        detail = f"{LENGTH_HEADER} is 0, which leaves no JSON; Content-Type is {echo(content_type)}"
        raise Problem(Kind.MALFORMED, detail, value=content_type)


def parse_inference(
    body: bytes, header_length: str | None, signature: Signature, limits: Limits
) -> Inference:
    """Parse a body, whose JSON document has `header_length` bytes where raw tensors follow it.

    Without a document, `header_length` is 0, it is the only input, and its answer is raw too, as Triton's.

    Raises Problem for a body that is not what it says, and for inputs and outputs that the model has not.
    """
    is_raw = header_length == "0"
    document, raw = _of_raw(body, signature) if is_raw else _split(body, header_length, limits)
    for member in document:
        if member not in _MEMBERS:
            detail = f"the request has {echo(member)}; its members are {', '.join(_MEMBERS)}"
            raise Problem(Kind.INVALID, detail, value=member)
    parameters = _object(document, "parameters", "the request")
    inputs = _inputs(_objects(document, "inputs"), raw, signature, limits.images)
    is_binary = is_raw or parameters.get("binary_data_output") is True
    return Inference(
        _id(document),
        inputs,
        {name: value for name, value in parameters.items() if not _is_ignored(name)},
        _outputs(document, is_binary, signature),
        _timeout_seconds(parameters),
    )


def written(model: str, version: str, inference: Inference, values: Mapping[str, Value]) -> Response:
    """Answer the outputs that are wanted."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for wanted in inference.outputs:
        value = values[wanted.name]
        datatype = Datatype.BYTES if isinstance(value, list) else _DATATYPES[value.dtype]
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype.label, "shape": shape_of(value)}
        if wanted.is_binary:
            raw.append(bytes_of_tensor(value))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = json_of_tensor(value)
        outputs.append(output)
    document = {"model_name": model, "model_version": version, "outputs": outputs}
    if inference.id is not None:
        document["id"] = inference.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Response(header, media_type=JSON)
    headers = {LENGTH_HEADER: str(len(header))}
    return Response(b"".join([header, *raw]), headers=headers, media_type="application/octet-stream")


def _split(body: bytes, header_length: str | None, limits: Limits) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if header_length is not None:
        is_number = (
            header_length.isascii() and header_length.isdigit() and len(header_length) <= _LENGTH_DIGITS
        )
        if not is_number or int(header_length) > len(body):
            detail = f"{LENGTH_HEADER} is {echo(header_length)}; the body has {length} bytes"
            raise Problem(Kind.MALFORMED, detail, value=header_length, limit=length)
        length = int(header_length)
    document = json_of(memoryview(body)[:length], limits)
    if not isinstance(document, dict):
        raise Problem(Kind.INVALID, f"the request is {echo(document)}; expected an object", value=document)
    return document, memoryview(body)[length:]


def _of_raw(body: bytes, signature: Signature) -> tuple[dict[str, Any], memoryview]:
    """Return the document that a body is without, and the body: its first axis has the length that fits."""
    first = signature.inputs[0]
    raw = memoryview(body)
    if first.datatype is Datatype.BYTES and first.shape == (1,):
        raw = memoryview(bytes_of_tensor([body]))
        shape = [1]
    elif first.datatype is Datatype.BYTES or first.shape.count(-1) > 1:
        detail = f"a body without JSON says no shape; input {first.name} needs one"
        raise Problem(Kind.INVALID, detail, value=0)
    else:
        row_bytes = math.prod(abs(side) for side in first.shape) * first.datatype.dtype.itemsize
        shape = [len(body) // row_bytes if side == -1 else side for side in first.shape]
    tensor = {**first.metadata(), "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    return {"inputs": [tensor]}, raw


def _inputs(
    declared: list[dict[str, Any]], raw: memoryview, signature: Signature, max_elements: int
) -> dict[str, Value]:
    inputs: dict[str, Value] = {}
    for tensor in declared:
        name = tensor.get("name")
        takes = signature.datatypes(name) if isinstance(name, str) else []
        if not isinstance(name, str) or not takes or name in inputs:
            listed = ", ".join(signature.input_names)
            detail = f"input {echo(name)} is not one of the model's, each once: {listed}"
            raise Problem(Kind.INVALID, detail, value=name, limit=listed)
        parameters = _object(tensor, "parameters", f"input {name}")
        datatype, shape = _datatype(tensor.get("datatype"), takes, name), declared_shape(tensor, name)
        if datatype is Datatype.BYTES and shape and shape[0] > max_elements:  # before any is looked at
            detail = f"{shape[0]} {name}; the limit is {max_elements} a request"
            raise Problem(Kind.TOO_LARGE, detail, value=shape[0], limit=max_elements)
        if (size := parameters.get("binary_data_size")) is None:
            if "data" not in tensor:
                detail = f"input {name} has neither data nor binary_data_size"
                raise Problem(Kind.INVALID, detail, value=sorted(parameters) or None)
            inputs[name] = tensor_of_json(tensor["data"], datatype, shape, name)
            continue
        if type(size) is not int or not 0 <= size <= len(raw):
            detail = f"input {name}: binary_data_size is {echo(size)}; {len(raw)} bytes are left in the body"
            raise Problem(Kind.MALFORMED, detail, value=size, limit=len(raw))
        inputs[name] = tensor_of_bytes(raw[:size], datatype, shape, name)
        raw = raw[size:]
    if raw:
        detail = f"{len(raw)} bytes are left in the body after the inputs"
        raise Problem(Kind.MALFORMED, detail, value=len(raw), limit=0)
    for name in signature.input_names:
        if name not in inputs:
            raise Problem(Kind.INVALID, f"input {name} is missing", limit=name)
    return inputs


def _datatype(label: object, takes: Sequence[Datatype], name: str) -> Datatype:
    for datatype in takes:
        if datatype.label == label:
            return datatype
    listed = " or ".join(datatype.label for datatype in takes)
    raise Problem(
        Kind.INVALID, f"input {name} is {echo(label)}; expected {listed}", value=label, limit=listed
    )


def _outputs(document: Mapping[str, Any], is_binary: bool, signature: Signature) -> list[Wanted]:
    has = [tensor.name for tensor in signature.outputs]
    if document.get("outputs") in (None, []):
        return [Wanted(name, is_binary) for name in has]
    wanted: list[Wanted] = []
    for output in _objects(document, "outputs"):
        name = output.get("name")
        if name not in has or name in [each.name for each in wanted]:
            listed = ", ".join(has)
            detail = f"output {echo(name)} is not one of the model's, each once: {listed}"
            raise Problem(Kind.INVALID, detail, value=name, limit=listed)
        parameters = _object(output, "parameters", f"output {name}")
        for parameter in parameters:
            if parameter != "binary_data":
                detail = f"output {name}: parameter {echo(parameter)} is not known here; binary_data is"
                raise Problem(Kind.INVALID, detail, value=parameter, limit="binary_data")
        wanted.append(Wanted(name, parameters.get("binary_data", is_binary) is True))
    return wanted


def _is_ignored(parameter: str) -> bool:
    return parameter in _IGNORED or parameter.startswith(_IGNORED_PREFIX)


def _timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    timeout = parameters.get("timeout")  # microseconds
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        detail = f"timeout is {echo(timeout)}; expected whole microseconds"
        raise Problem(Kind.INVALID, detail, value=timeout)
    return timeout / 1e6 if timeout else None


def _id(document: Mapping[str, Any]) -> str | None:
    id = document.get("id")
    if id is not None and not isinstance(id, str):
        raise Problem(Kind.INVALID, f"id is {echo(id)}; expected a string", value=id)
    return id


def _objects(document: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    members = document.get(member)
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        detail = f"{member} is {echo(members)}; expected a list of tensors"
        raise Problem(Kind.INVALID, detail, value=members)
    return members


def _object(document: Mapping[str, Any], member: str, whose: str) -> dict[str, Any]:
    found = document.get(member, {})
    if not isinstance(found, dict):
        raise Problem(Kind.INVALID, f"{whose}: {member} is {echo(found)}; expected an object", value=found)
    return found
