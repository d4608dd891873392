"""What is asked of every server: bodies made of real images, and how an answer is read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import safetensors.numpy

from benchmarks.serving.processes import BenchmarkError
from models.images import encode_png

TOLERANCE = 1e-5  # of an output's largest magnitude

Posterior = Mapping[str, np.ndarray]  # mu and logvar, float32 (N, D)


@dataclass(frozen=True)
class Body:
    """A request's body, and which of the images it has in it."""

    content: bytes
    rows: np.ndarray


@dataclass(frozen=True)
class Workload:
    """One kind of request in a closed loop: every connection sends its next when it has its answer."""

    name: str
    images: int  # a request
    connections: int
    content_type: str
    accept: str
    write: Callable[[np.ndarray], bytes]  # uint8 (images, H, W, C) → body
    read: Callable[[bytes], Posterior]

    def bodies(self, images: np.ndarray) -> list[Body]:
        """Return a body beginning at each of `images` in turn, so that a mixed-up answer shows."""
        starts = range(len(images))
        rows = [(start + np.arange(self.images)) % len(images) for start in starts]
        return [Body(self.write(images[chosen]), chosen) for chosen in rows]


def check_answer(actual: Posterior, expected: Posterior, whose: str) -> None:
    """Raise BenchmarkError where an answer is not the expected one within the tolerance."""
    for name, wanted in expected.items():
        found = actual[name]
        if found.shape != wanted.shape:
            raise BenchmarkError(f"{whose}: {name} has shape {found.shape}, expected {wanted.shape}")
        difference = float(np.abs(found - wanted).max())
        limit = TOLERANCE * float(np.abs(wanted).max())
        if not difference <= limit:
            raise BenchmarkError(
                f"{whose}: {name} differs from torch by {difference:.2e}; the limit is {limit:.2e}"
            )


def read_json(answer: bytes) -> Posterior:
    """Read {"mu": [[…]], "logvar": [[…]]}."""
    document = json.loads(answer)
    return {name: np.array(document[name], np.float32) for name in ("mu", "logvar")}


def read_safetensors(answer: bytes) -> Posterior:
    """Read the tensors mu and logvar."""
    return safetensors.numpy.load(answer)


def _png(images: np.ndarray) -> bytes:
    return encode_png(images[0])


def _base64_json(images: np.ndarray) -> bytes:
    return json.dumps({"images": [base64.b64encode(encode_png(image)).decode() for image in images]}).encode()


def _npy(images: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


JSON, SAFETENSORS = "application/json", "application/x-safetensors"

PNG_BASE64 = Workload("base64 PNG", 1, 32, JSON, JSON, _base64_json, read_json)
PNG_RAW = Workload("raw PNG", 1, 32, "image/png", JSON, _png, read_json)
NPY_256 = Workload("256 npy", 256, 4, "application/x-npy", SAFETENSORS, _npy, read_safetensors)
