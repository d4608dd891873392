"""What is asked of every server: bodies made of real images, and how an answer is read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO

import numpy as np
import safetensors.numpy

from benchmarks.serving.material import Material
from benchmarks.serving.processes import BenchmarkError
from codec.chunk import verified
from codec.model import FILE, CodecModel
from codec.payload import PayloadError, decompress, parsed
from models.bundle import bundle_path
from models.images import encode_png

TOLERANCE = 1e-5  # of an output's largest magnitude

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Body:
    """A request's body, and the arrays that its answer must have."""

    content: bytes
    expected: Arrays


@dataclass(frozen=True)
class Workload:
    """One kind of request in a closed loop: every connection sends its next when it has its answer."""

    name: str
    images: float  # a request, on average
    connections: int
    content_type: str
    accept: str
    write: Callable[[Material], list[Body]]
    read: Callable[[bytes], Arrays]
    method: str = "POST"
    tolerance: float = TOLERANCE
    status: int = 200  # that every answer has
    coding: str = ""  # of the bodies: Content-Encoding
    are_counted: bool = False  # whether the answers' images are, in safetensors: requests differ in theirs

    @property
    def headers(self) -> dict[str, str]:
        """Return those of every request."""
        own = {"Content-Type": self.content_type, "Accept": self.accept}
        return {**own, "Content-Encoding": self.coding} if self.coding else own

    def check(
        self, answer: bytes, body: Body, whose: str, read: Callable[[bytes], Arrays] | None = None
    ) -> None:
        """Raise BenchmarkError where an answer is not the expected one within the tolerance."""
        check_answer((read or self.read)(answer), body.expected, whose, self.tolerance)


def check_answer(actual: Arrays, expected: Arrays, whose: str, tolerance: float = TOLERANCE) -> None:
    """Raise BenchmarkError where an answer is not the expected one within the tolerance."""
    for name, wanted in expected.items():
        found = actual[name]
        if found.shape != wanted.shape:
            raise BenchmarkError(f"{whose}: {name} has shape {found.shape}, expected {wanted.shape}")
        difference = float(np.abs(found.astype(np.float64) - wanted).max())
        limit = tolerance * float(np.abs(wanted).max())
        if not difference <= limit:
            raise BenchmarkError(
                f"{whose}: {name} differs from torch by {difference:.2e}; the limit is {limit:.2e}"
            )


def read_json(answer: bytes) -> Arrays:
    """Read {"mu": [[…]], "logvar": [[…]]}."""
    document = json.loads(answer)
    return {name: np.array(document[name], np.float32) for name in ("mu", "logvar")}


def read_rows(answer: bytes) -> Arrays:
    """Read [{"mu": […], "logvar": […]}, …]."""
    rows = json.loads(answer)
    return {name: np.array([row[name] for row in rows], np.float32) for name in ("mu", "logvar")}


def read_safetensors(answer: bytes) -> Arrays:
    """Read the tensors mu and logvar."""
    return safetensors.numpy.load(answer)


def read_images(answer: bytes) -> Arrays:
    """Read the one array of an .npy file."""
    return {"images": np.load(BytesIO(answer))}


def read_payload(answer: bytes) -> Arrays:
    """Decompress a payload, of a shipped bundle where it is of any."""
    try:
        images = decompress(parsed(answer, _codec_of))
    except PayloadError as error:
        raise BenchmarkError(f"not a payload of a shipped bundle: {error}") from error
    return {"images": images.transpose(0, 2, 3, 1)}


def _codec_of(prefix: bytes) -> CodecModel | None:
    codecs = map(_codec, ("cifar10", "fashion-mnist", "mnist"))
    return next((codec for codec in codecs if codec.prefix == prefix), None)


@cache
def _codec(name: str) -> CodecModel:
    return verified(bundle_path(name) / FILE)


def _encoding(write: Callable[[np.ndarray], bytes], *counts: int) -> Callable[[Material], list[Body]]:
    """Make bodies of so many images in turn, each beginning at another image: a mixed-up answer shows."""

    def bodies(material: Material) -> list[Body]:
        size = len(material.images)
        made = []
        for start in range(-(-size // len(counts)) * len(counts)):  # each count as often as the others
            rows = (start + np.arange(counts[start % len(counts)])) % size
            expected = {name: array[rows] for name, array in material.posterior.items()}
            made.append(Body(write(material.images[rows]), expected))
        return made

    return bodies


def _decoding(count: int) -> Callable[[Material], list[Body]]:
    def bodies(material: Material) -> list[Body]:
        size = len(material.images)
        chosen = [(start + np.arange(count)) % size for start in range(size)]
        mu, decoded = material.posterior["mu"], material.decoded
        return [Body(npy_bytes(mu[rows]), {"images": decoded[rows]}) for rows in chosen]

    return bodies


def _sampling(material: Material) -> list[Body]:
    return [Body(b"", {"images": material.samples})]


def _compressing(material: Material) -> list[Body]:
    return [Body(encode_png(image), {"images": image[None]}) for image in material.images]


def _png(images: np.ndarray) -> bytes:
    return encode_png(images[0])


def _base64_json(images: np.ndarray) -> bytes:
    return json.dumps({"images": [base64.b64encode(encode_png(image)).decode() for image in images]}).encode()


def npy_bytes(images: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
PAYLOAD = "application/vnd.vaeserve.payload"
SAMPLES, SAMPLE_SEED = 16, 7
MIXED = (1, 1, 4, 1, 1, 16, 1, 1, 64)
LEVEL = 0.01  # a mean between two levels may be rounded to either

PNG_BASE64 = Workload("base64 PNG", 1, 32, JSON, JSON, _encoding(_base64_json, 1), read_json)
PNG_RAW = Workload("raw PNG", 1, 32, "image/png", JSON, _encoding(_png, 1), read_json)
NPY_1 = Workload("1 npy", 1, 32, NPY, JSON, _encoding(npy_bytes, 1), read_json)
NPY_16 = Workload("16 npy", 16, 8, NPY, SAFETENSORS, _encoding(npy_bytes, 16), read_safetensors)
NPY_64 = Workload("64 npy", 64, 4, NPY, SAFETENSORS, _encoding(npy_bytes, 64), read_safetensors)
NPY_256 = replace(NPY_64, name="256 npy", images=256, write=_encoding(npy_bytes, 256))
NPY_1024 = replace(NPY_64, name="1,024 npy", images=1024, write=_encoding(npy_bytes, 1024))
NPY_MIXED = Workload(
    "1 to 64 npy",
    sum(MIXED) / len(MIXED),
    16,
    NPY,
    SAFETENSORS,
    _encoding(npy_bytes, *MIXED),
    read_safetensors,
    are_counted=True,
)
DECODE_1 = Workload("1 latent npy", 1, 32, NPY, NPY, _decoding(1), read_images, tolerance=LEVEL)
SAMPLE_16 = Workload(
    f"{SAMPLES} samples", SAMPLES, 8, NPY, NPY, _sampling, read_images, method="GET", tolerance=LEVEL
)
COMPRESS_1 = Workload("1 PNG to payload", 1, 8, "image/png", PAYLOAD, _compressing, read_payload, tolerance=0)
