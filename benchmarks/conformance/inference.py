"""Requests of the Open Inference Protocol that a model takes."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.conformance.bodies import MAX_ROWS, Model, Rng, Size, file_of, pixels

OUTPUTS = {
    "encode": ["mu", "logvar"],
    "decode": ["images"],
    "reconstruct": ["images"],
    "score": ["elbo", "nll", "kl", "distortion", "bits_per_dim"],
    "sample": ["images", "latents", "seed"],
    "compress": ["payload", "original_bytes", "compressed_bytes", "bits_per_dim"],
    "decompress": ["images"],
}
TAKEN_RANKS = {"z": {2}, "n": {1}, "images": {3, 4}}  # of BYTES, whatever their name, one axis alone
MAX_RANK = 3  # of what is misshapen
IGNORED = {"sequence_id": 3, "sequence_start": True, "priority": 1, "triton_x": "y", "timeout": 20_000_000}
Value = np.ndarray | list[bytes]


@dataclass(frozen=True)
class Asked:
    """An input's value and the model's parameters for it."""

    name: str
    datatype: str
    value: Value
    parameters: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None  # as it is declared, where it is not the value's own


def asked(rng: Rng, operation: str, model: Model) -> Asked:
    """Return what an operation of a model may be asked."""
    count = int(rng.integers(1, MAX_ROWS))
    if operation == "decode":
        return Asked("z", "FP32", rng.standard_normal((count, model.latent_dim), np.float32))
    if operation == "sample":
        drawn = {"seed": 7, "offset": 3, "temperature": 0.5, "prior": "standard"}
        return Asked("n", "INT64", np.array([count], np.int64), _some(rng, drawn))
    if operation == "decompress":
        of = int(rng.choice(list(model.payloads)))
        index = {"index": int(rng.integers(of))}
        return Asked("payload", "BYTES", [model.payloads[of]], _some(rng, index))
    parameters: dict[str, Any] = {}
    if operation == "score":
        parameters = _some(rng, {"samples": 2})
    if operation == "compress":
        parameters = _some(rng, {"effort": "fast", "max_error": 2})
    is_fixed = operation == "compress" or bool(rng.integers(2))
    if not is_fixed:
        parameters["fit"] = str(rng.choice(["resize", "crop", "pad"]))
    images = pixels(rng, count, model, Size(is_fixed), (1, 3))
    if rng.integers(2):
        files = [file_of(image, "image/png") for image in images]
        return Asked("images", "BYTES", files, parameters)
    if images.shape[3] == 1 and rng.integers(2):
        images = images[..., 0]
    return Asked("images", "UINT8", images, parameters)


def misshapen(rng: Rng, given: Asked) -> Asked:
    """Return an input of a rank that no model takes, with as many elements as its shape has."""
    taken = {1} if isinstance(given.value, list) else TAKEN_RANKS[given.name]
    rank = rng.choice([rank for rank in range(MAX_RANK + 1) if rank not in taken])
    shape = tuple(rng.integers(1, MAX_ROWS, rank).tolist())
    if isinstance(given.value, list):
        elements = list(islice(cycle(given.value), math.prod(shape)))
        return replace(given, value=elements, shape=shape)
    return replace(given, value=np.resize(given.value, shape))


def request(
    rng: Rng, operation: str, model: Model, is_binary: bool, is_misshapen: bool = False
) -> tuple[bytes, int | None]:
    """Return a body, and the bytes of its JSON document where raw tensors follow it."""
    given = asked(rng, operation, model)
    if is_misshapen:
        given = misshapen(rng, given)
    raw = _raw(given.value)
    is_alone = not is_misshapen and (given.datatype == "FP32" or operation in ("sample", "decompress"))
    if is_binary and is_alone and rng.integers(4) == 0:  # the protocol's form without a document
        return (given.value[0] if isinstance(given.value, list) else raw), 0
    tensor: dict[str, Any] = {
        "name": given.name,
        "datatype": given.datatype,
        "shape": list(_own_shape(given.value) if given.shape is None else given.shape),
    }
    if is_binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = _json(rng, given.value)
    document: dict[str, Any] = {"inputs": [tensor]}
    parameters = {**given.parameters, **_some(rng, {**IGNORED, "binary_data_output": True})}
    if parameters:
        document["parameters"] = parameters
    if rng.integers(2):
        document["id"] = "é"
    if rng.integers(2):
        names = rng.permutation(OUTPUTS[operation])[: rng.integers(1, 6)]
        document["outputs"] = [
            {"name": str(name), "parameters": _some(rng, {"binary_data": bool(rng.integers(2))})}
            for name in names
        ]
    header = json.dumps(document).encode()
    return header + (raw if is_binary else b""), len(header) if is_binary or rng.integers(2) else None


def damaged(rng: Rng, body: bytes, length: int | None) -> tuple[bytes, int | None]:
    """Return a request with a fault in its form."""
    ways = [
        (body[:-1], length),
        (body + b"more", length),
        (body, len(body) + 1),
        (b"{}" + rng.bytes(5), 2),
        (b'{"inputs": [], "more": 1}', None),
        (b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [-1, 1], "data": []}]}', None),
        (b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [9, 9], "data": [1, "a"]}]}', None),
        (b"", None),
    ]
    return ways[rng.integers(len(ways))]


def _some(rng: Rng, members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if rng.integers(3) == 0}


def _own_shape(value: Value) -> tuple[int, ...]:
    return (len(value),) if isinstance(value, list) else value.shape


def _raw(value: Value) -> bytes:
    if isinstance(value, list):
        return b"".join(len(element).to_bytes(4, "little") + element for element in value)
    return value.tobytes()


def _json(rng: Rng, value: Value) -> Any:
    if isinstance(value, list):
        return [base64.b64encode(element).decode() for element in value]
    return value.tolist() if rng.integers(2) else value.ravel().tolist()
