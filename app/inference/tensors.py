"""Tensors of the protocol: declared, and read from or written to JSON and raw bytes."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from app.errors import Kind, Problem, echo

Value = np.ndarray | list[bytes]  # a list for BYTES
_LENGTH_BYTES = 4  # before each element of a BYTES tensor
_MAX_AXES, _MAX_SIDE = 8, (1 << 31) - 1  # products of more take time that grows with their square


class Datatype(Enum):
    """The datatypes that occur here: name, numpy's type as it is on the wire, name in a Triton config."""

    UINT8 = "UINT8", np.dtype("u1"), "TYPE_UINT8"
    INT64 = "INT64", np.dtype("<i8"), "TYPE_INT64"
    UINT64 = "UINT64", np.dtype("<u8"), "TYPE_UINT64"
    FP32 = "FP32", np.dtype("<f4"), "TYPE_FP32"
    BYTES = "BYTES", np.dtype(object), "TYPE_STRING"

    def __init__(self, label: str, dtype: np.dtype[Any], config: str):
        self.label = label
        self.dtype = dtype
        self.config = config


@dataclass(frozen=True)
class Tensor:
    """A declared input or output; -1 in its shape is any length."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """Return what a model's metadata says of it."""
        return {"name": self.name, "datatype": self.datatype.label, "shape": self.shape}


def tensor_of_bytes(data: memoryview, datatype: Datatype, shape: tuple[int, ...], name: str) -> Value:
    """Read a tensor from its raw bytes, a view of them but for BYTES; raise Problem where they do not fit."""
    if datatype is Datatype.BYTES:
        return _elements(data, _count_of(shape, name), name)
    expected = math.prod(shape) * datatype.dtype.itemsize
    if len(data) != expected:
        detail = f"input {name}: {len(data)} bytes; shape {echo(shape)} of {datatype.label} has {expected}"
        raise Problem(Kind.INVALID, detail, value=len(data), limit=expected)
    return _viewed(data, datatype, shape, name)


def tensor_of_json(data: object, datatype: Datatype, shape: tuple[int, ...], name: str) -> Value:
    """Read a tensor from a list, flat or nested; elements of BYTES are base64.

    Raises Problem for other elements than the datatype's, and for more or less of them than the shape's.
    """
    elements = _flat(data, len(shape))
    if len(elements) != (expected := math.prod(shape)):
        detail = f"input {name}: {len(elements)} elements; shape {echo(shape)} has {expected}"
        raise Problem(Kind.INVALID, detail, value=len(elements), limit=expected)
    if datatype is Datatype.BYTES:
        _count_of(shape, name)
        return [_decoded(element, index, name) for index, element in enumerate(elements)]
    takes = {int, float} if datatype is Datatype.FP32 else {int}
    if not set(map(type, elements)) <= takes:
        index, element = next(each for each in enumerate(elements) if type(each[1]) not in takes)
        detail = f"input {name}: element {index} is {echo(element)}; expected {datatype.label}"
        raise Problem(Kind.INVALID, detail, value=element, limit=datatype.label)
    try:
        with np.errstate(over="ignore"):  # beyond float32 becomes inf, which no model takes
            return np.array(elements, datatype.dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise Problem(Kind.INVALID, f"input {name}: {error}", limit=datatype.label) from error


def bytes_of_tensor(value: Value) -> bytes:
    """Write a tensor as raw bytes."""
    if isinstance(value, list):
        return b"".join(struct.pack("<I", len(element)) + element for element in value)
    return value.tobytes()


def json_of_tensor(value: Value) -> Any:
    """Return a tensor as JSON can carry it: flat; elements of BYTES in base64."""
    if isinstance(value, list):
        return [base64.b64encode(element).decode() for element in value]
    return np.ascontiguousarray(value).ravel()


def size_of(value: Value) -> int:
    """Return the bytes of a tensor."""
    return sum(map(len, value)) if isinstance(value, list) else value.nbytes


def shape_of(value: Value) -> tuple[int, ...]:
    """Return the shape of a tensor."""
    return (len(value),) if isinstance(value, list) else value.shape


def declared_shape(declared: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return the `shape` of an input; raise Problem where it is no short list of whole numbers."""
    shape = declared.get("shape")
    is_short = isinstance(shape, list) and len(shape) <= _MAX_AXES
    if not (is_short and all(type(side) is int and 0 <= side <= _MAX_SIDE for side in shape or ())):
        expected = f"at most {_MAX_AXES} whole numbers up to {_MAX_SIDE}"
        detail = f"input {name}: shape is {echo(shape)}; expected a list of {expected}"
        raise Problem(Kind.INVALID, detail, value=shape, limit=expected)
    return tuple(shape or ())


def _count_of(shape: tuple[int, ...], name: str) -> int:
    if len(shape) != 1:
        detail = f"input {name} has shape {echo(shape)}; BYTES have one axis"
        raise Problem(Kind.INVALID, detail, value=shape, limit=1)
    return shape[0]


def _viewed(data: memoryview, datatype: Datatype, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        return np.ndarray(shape, datatype.dtype, data)
    except (ValueError, OverflowError) as error:  # a shape with a 0 whose other sides are beyond numpy
        raise Problem(Kind.INVALID, f"input {name}: shape {echo(shape)}: {error}", value=shape) from error


def _elements(data: memoryview, count: int, name: str) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(data) and len(found) < count:
        length = int.from_bytes(data[place : place + _LENGTH_BYTES], "little")
        place += _LENGTH_BYTES
        if place + length > len(data):
            break
        found.append(bytes(data[place : place + length]))
        place += length
    if len(found) != count or place != len(data):
        detail = f"input {name}: its {len(data)} bytes are not {count} elements, each after its length"
        raise Problem(Kind.MALFORMED, detail, value=len(found), limit=count)
    return found


def _flat(data: object, rank: int) -> Sequence[Any]:
    elements: Any = data if isinstance(data, list) else [data]
    for _ in range(rank - 1):
        if not elements or not all(isinstance(element, list) for element in elements):
            break
        elements = [inner for element in elements for inner in element]
    return elements


def _decoded(element: object, index: int, name: str) -> bytes:
    try:
        if isinstance(element, str):
            return base64.b64decode(element, validate=True)
    except ValueError:
        pass
    detail = f"input {name}: element {index} is {echo(element)}; BYTES are base64 in JSON"
    raise Problem(Kind.INVALID, detail, value=element)
