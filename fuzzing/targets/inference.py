"""Inference requests below /v2: after a line of the model's name and the length header, the body."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.inference import Inference, InferenceModel, find_model
from app.inference.tensors import Datatype, Value, bytes_of_tensor, shape_of, tensor_of_bytes
from fuzzing import sums
from fuzzing.expected import LIMITS, accepted, check_images
from fuzzing.serving import SERVICE

mended = sums.mended_inference
PATH = "/v2/models/encode/infer"


def check(data: bytes) -> None:
    """Read a request of a model; its tensors are written and read again, and what is made of them checked."""
    head, _, body = data.partition(b"\n")
    name, _, length = head.decode("latin-1").partition(" ")
    model = accepted(lambda: find_model(SERVICE, name), PATH)
    if model is None or not body:  # which is refused before
        return
    found = accepted(lambda: model.parsed(body, length or None, LIMITS), PATH)
    if found is None:
        return
    inference, _, given = found
    _check_inference(inference, model)
    _check_given(given, model)


def _check_inference(inference: Inference, model: InferenceModel) -> None:
    assert set(inference.inputs) == set(model.signature.input_names)
    assert {wanted.name for wanted in inference.outputs} <= {each.name for each in model.signature.outputs}
    assert inference.timeout_seconds is None or inference.timeout_seconds > 0
    for name, value in inference.inputs.items():
        datatype = _datatype(value)
        assert datatype in model.signature.datatypes(name)
        again = tensor_of_bytes(memoryview(bytes_of_tensor(value)), datatype, shape_of(value), name)
        if isinstance(value, list):
            assert again == value
        else:
            assert bytes_of_tensor(again) == value.tobytes()  # NaN differs from itself


def _datatype(value: Value) -> Datatype:
    if isinstance(value, list):
        return Datatype.BYTES
    return next(datatype for datatype in Datatype if datatype.dtype == value.dtype)


def _check_given(given: Any, model: InferenceModel) -> None:
    if model.operation == "sample":
        assert 1 <= given <= LIMITS.images
    elif model.operation == "decompress":
        assert isinstance(given, bytes)
    elif model.operation == "decode":
        assert given.dtype == np.float32
        assert given.shape[1:] == (model.bundle.config.latent_dim,)
        assert np.isfinite(given).all()
    elif model.operation == "compress":
        check_images(given, (1, 3, 4))
    else:
        check_images(given, (model.bundle.config.input.shape[0],))
