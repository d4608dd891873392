"""The Open Inference Protocol, version 2, with the binary tensor extension: what Triton's clients speak.

JSON, then raw tensors ─► arrays and parameters ─► app.tasks ─► arrays ─► JSON, then raw tensors

A model of the protocol is an operation of a bundle, such as `fashion-mnist.encode`.
"""

from app.inference.calls import Asked, Outcome
from app.inference.messages import LENGTH_HEADER, Inference, check_form, written
from app.inference.models import VERSION, InferenceModel, find_model, models_of
from app.inference.tensors import size_of

__all__ = [
    "LENGTH_HEADER",
    "VERSION",
    "Asked",
    "Inference",
    "InferenceModel",
    "Outcome",
    "check_form",
    "find_model",
    "models_of",
    "size_of",
    "written",
]
