"""The models of the protocol: each operation of each bundle, `fashion-mnist.encode`, `mnist.sample`, …

The operation alone, `encode`, names that of the default bundle. Every model has the one version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.errors import Kind, Problem, invalid
from app.inference.calls import CALLS, Call
from app.inference.messages import Inference, Signature, parse_inference
from app.inference.tensors import Tensor
from app.negotiation import Limits
from app.service import Service
from models.bundle import Bundle

VERSION = "1"


@dataclass(frozen=True)
class InferenceModel:
    """An operation of a bundle."""

    name: str  # as it was asked for
    operation: str
    bundle: Bundle
    call: Call

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return self.call.signature(self.bundle)

    def parsed(self, body: bytes, header_length: str | None, limits: Limits) -> tuple[Inference, Any, Any]:
        """Parse a body; return the request, its parameters, and what its inputs were prepared as."""
        inference = parse_inference(body, header_length, self.signature, limits)
        try:
            parameters = self.call.parameters(**inference.parameters)
        except ValidationError as error:
            raise invalid("inference", error) from error
        return inference, parameters, self.call.prepare(inference.inputs, parameters, self.bundle, limits)

    def metadata(self) -> dict[str, Any]:
        """Return what GET /v2/models/{name} answers: of inputs with several datatypes, the first."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "vaeserve",
            "inputs": [tensor.metadata() for tensor in self.signature.first_inputs],
            "outputs": [tensor.metadata() for tensor in self.signature.outputs],
        }

    def config(self, service: Service) -> dict[str, Any]:
        """Return what GET /v2/models/{name}/config answers: Triton's model configuration."""
        kind = "KIND_GPU" if service.device.startswith("cuda") else "KIND_CPU"
        return {
            "name": self.name,
            "platform": "vaeserve",
            "backend": "vaeserve",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": service.settings.max_images if self.call.is_batched else 0,
            "input": [self._configured(tensor) for tensor in self.signature.first_inputs],
            "output": [self._configured(tensor) for tensor in self.signature.outputs],
            "instance_group": [{"name": self.name, "kind": kind, "count": 1}],
            "dynamic_batching": {"preferred_batch_size": [service.batcher.max_batch]},
            "parameters": {
                name: {"string_value": "" if field.default is None else str(field.default)}
                for name, field in self.call.parameters.model_fields.items()
            },
        }

    def _configured(self, tensor: Tensor) -> dict[str, Any]:
        dims = tensor.shape[1:] if self.call.is_batched else tensor.shape
        configured = {"name": tensor.name, "data_type": tensor.datatype.config, "dims": dims or (1,)}
        return configured if dims else {**configured, "reshape": {"shape": ()}}  # Triton has no empty dims


def models_of(service: Service) -> Iterator[InferenceModel]:
    """Yield every model of the loaded bundles; raise Problem while there are none."""
    for bundle in service.bundles.values():
        for operation, call in CALLS.items():
            yield InferenceModel(f"{bundle.id}.{operation}", operation, bundle, call)


def find_model(service: Service, name: str, version: str | None = None) -> InferenceModel:
    """Return a model by its name; raise Problem for one that is not loaded, or for another version."""
    id, dot, operation = name.rpartition(".")
    if operation not in CALLS or (dot and id not in service.bundles):
        loaded = ", ".join(model.name for model in models_of(service))
        detail = f"model {name!r} is not loaded; loaded are {loaded}"
        raise Problem(Kind.UNKNOWN_MODEL, detail, value=name, limit=loaded)
    if version not in (None, VERSION):
        detail = f"model {name!r} has no version {version!r}; its only version is {VERSION}"
        raise Problem(Kind.UNKNOWN_MODEL, detail, value=version, limit=VERSION)
    return InferenceModel(name, operation, service.bundle(id or None), CALLS[operation])
