"""What each operation takes and gives as tensors, and how its tensors become an answer.

`prepare` turns inputs and parameters into what `run` computes from, off the event loop where there is much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request

from app import tasks
from app.errors import Kind, Problem
from app.inference.messages import Signature
from app.inference.tensors import Datatype, Tensor, Value
from app.negotiation import Limits, as_one_array, checked_images, checked_latents, conform, decoded_images
from app.operations import SCORES, Operation
from app.parameters import Index, MaxError, Quality, Samples, Seed, TargetBytes, Temperature
from app.service import Service, Work
from codec.encoding import Effort, Manner
from models.bundle import Bundle
from models.config import Strict
from models.images import Fit
from models.priors import Prior


class NoParameters(Strict):
    """The parameters of a model without any."""


class Fitted(Strict):
    """How images of another size than the model's are brought to it; refused if absent."""

    fit: Fit | None = None


class Scored(Fitted):
    """K, latent samples an image."""

    samples: Samples = 16


class Drawn(Strict):
    """Which samples of which prior; a random seed if absent."""

    seed: Seed | None = None
    offset: Seed = 0
    temperature: Temperature = 1.0
    prior: Prior = "aggregated"


class Compressed(Strict):
    """How to compress, and how much may be lost, said in one way at most."""

    effort: Effort = "best"
    max_error: MaxError = 0
    quality: Quality | None = None
    target_bytes: TargetBytes | None = None


class Decompressed(Strict):
    """The number, from 0, of the one image to read out of a payload."""

    index: Index | None = None


@dataclass(frozen=True)
class Asked:
    """A request whose inputs were read: `given` is what the operation's `prepare` made of them."""

    service: Service
    request: Request
    bundle: Bundle
    given: Any
    parameters: Any
    deadline: float

    @property
    def work(self) -> Work:
        """Rows to compute."""
        return Work(self.given, self.deadline)


@dataclass(frozen=True)
class Outcome:
    """Outputs by name, and where the time went."""

    values: Mapping[str, Value]
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class Call:
    """An operation: its tensors for a bundle, its parameters, and how it is computed.

    A batched one has as many rows in every output as in its input. What is not on the device is the
    codec's. Pixels may come as numbers in JSON, which are many.
    """

    signature: Callable[[Bundle], Signature]
    parameters: type[Strict]
    prepare: Callable[[Mapping[str, Value], Any, Bundle, Limits], Any]
    run: Callable[[Asked], Awaitable[Outcome]]
    is_batched: bool = True
    is_on_device: bool = True
    takes_pixels: bool = True


def _images_in(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return Tensor("images", Datatype.UINT8, shape), Tensor("images", Datatype.BYTES, (-1,))


def _shape(bundle: Bundle) -> tuple[int, ...]:
    channels, height, width = bundle.config.input.shape
    return -1, height, width, channels


ANY_IMAGES = (-1, -1, -1, -1)


def _encode_signature(bundle: Bundle) -> Signature:
    vectors = (-1, bundle.config.latent_dim)
    outputs = (Tensor("mu", Datatype.FP32, vectors), Tensor("logvar", Datatype.FP32, vectors))
    return Signature(_images_in(_shape(bundle)), outputs)


def _decode_signature(bundle: Bundle) -> Signature:
    z = Tensor("z", Datatype.FP32, (-1, bundle.config.latent_dim))
    return Signature((z,), (Tensor("images", Datatype.UINT8, _shape(bundle)),))


def _reconstruct_signature(bundle: Bundle) -> Signature:
    return Signature(_images_in(_shape(bundle)), (Tensor("images", Datatype.UINT8, _shape(bundle)),))


def _score_signature(bundle: Bundle) -> Signature:
    outputs = tuple(Tensor(name, Datatype.FP32, (-1,)) for name in (*SCORES, "bits_per_dim"))
    return Signature(_images_in(_shape(bundle)), outputs)


def _sample_signature(bundle: Bundle) -> Signature:
    outputs = (
        Tensor("images", Datatype.UINT8, _shape(bundle)),
        Tensor("latents", Datatype.FP32, (-1, bundle.config.latent_dim)),
        Tensor("seed", Datatype.UINT64, (1,)),
    )
    return Signature((Tensor("n", Datatype.INT64, (1,)),), outputs)


def _compress_signature(_: Bundle) -> Signature:
    outputs = (
        Tensor("payload", Datatype.BYTES, (1,)),
        Tensor("original_bytes", Datatype.INT64, (1,)),
        Tensor("compressed_bytes", Datatype.INT64, (1,)),
        Tensor("bits_per_dim", Datatype.FP32, (1,)),
    )
    return Signature(_images_in(ANY_IMAGES), outputs)


def _decompress_signature(_: Bundle) -> Signature:
    payload = Tensor("payload", Datatype.BYTES, (1,))
    return Signature((payload,), (Tensor("images", Datatype.UINT8, ANY_IMAGES),))


def _images(inputs: Mapping[str, Value], fitted: Fitted, bundle: Bundle, limits: Limits) -> np.ndarray:
    given, shape = inputs["images"], bundle.config.input.shape
    if isinstance(given, list):
        only = shape[1:] if fitted.fit is None else None
        return conform(decoded_images(given, limits, only=only), shape, fitted.fit)
    return conform(checked_images(given, limits), shape, fitted.fit)


def _pictures(inputs: Mapping[str, Value], _: Compressed, bundle: Bundle, limits: Limits) -> np.ndarray:
    given = inputs["images"]
    if isinstance(given, list):
        return as_one_array(decoded_images(given, limits, keep_alpha=True))
    return checked_images(given, limits, keep_alpha=True)


def _latents(inputs: Mapping[str, Value], _: NoParameters, bundle: Bundle, limits: Limits) -> np.ndarray:
    latents = inputs["z"]
    assert isinstance(latents, np.ndarray)
    return checked_latents(latents, bundle.config.latent_dim, limits)


def _count(inputs: Mapping[str, Value], _: Drawn, bundle: Bundle, limits: Limits) -> int:
    count = _only(inputs["n"], "n")
    if count < 1:
        raise Problem(Kind.INVALID, f"n is {count}; at least 1 is needed", value=int(count), limit=1)
    if count > limits.images:
        detail = f"n is {count}; the limit is {limits.images} a request, and more of GET /sample"
        raise Problem(Kind.TOO_LARGE, detail, value=int(count), limit=limits.images)
    return int(count)


def _payload(inputs: Mapping[str, Value], _: Decompressed, bundle: Bundle, limits: Limits) -> bytes:
    payload: bytes = _only(inputs["payload"], "payload")
    return payload


def _only(value: Value, name: str) -> Any:
    shape = list(value.shape) if isinstance(value, np.ndarray) else [len(value)]
    if shape != [1]:
        detail = f"input {name} has shape {shape}; expected [1]"
        raise Problem(Kind.INVALID, detail, value=shape, limit=[1])
    return value[0]


async def _encode(asked: Asked) -> Outcome:
    answer = await tasks.compute(asked.service, asked.request, asked.bundle, Operation.ENCODE, asked.work)
    mu, logvar = answer.arrays
    return Outcome({"mu": mu, "logvar": logvar}, answer.queue_seconds, answer.compute_seconds)


def _imaging(operation: Operation) -> Callable[[Asked], Awaitable[Outcome]]:
    async def run(asked: Asked) -> Outcome:
        answer = await tasks.compute(asked.service, asked.request, asked.bundle, operation, asked.work)
        return Outcome({"images": answer.arrays[0]}, answer.queue_seconds, answer.compute_seconds)

    return run


async def _score(asked: Asked) -> Outcome:
    samples = asked.parameters.samples
    tasks.check_score_samples(asked.service, samples)
    scores = await tasks.score(asked.service, asked.request, asked.bundle, asked.work, samples)
    return Outcome(scores.figures, scores.queue_seconds, scores.compute_seconds)


async def _sample(asked: Asked) -> Outcome:
    drawn: Drawn = asked.parameters
    seed = tasks.seed_or_random(drawn.seed)
    draw = tasks.Draw(drawn.prior, seed, drawn.offset, asked.given, drawn.temperature)
    found = await tasks.gather_samples(asked.service, asked.request, asked.bundle, draw, asked.deadline)
    values = {"images": found.images, "latents": found.latents, "seed": np.array([seed], np.uint64)}
    return Outcome(values, found.queue_seconds, found.compute_seconds)


async def _compress(asked: Asked) -> Outcome:
    parameters: Compressed = asked.parameters
    manner = Manner(parameters.effort, parameters.max_error, parameters.quality, parameters.target_bytes)
    coded = await tasks.compress(asked.service, asked.request, asked.bundle, asked.work, manner)
    original, compressed = asked.given.size, len(coded.found)
    values: dict[str, Value] = {
        "payload": [coded.found],
        "original_bytes": np.array([original], np.int64),
        "compressed_bytes": np.array([compressed], np.int64),
        "bits_per_dim": np.array([8 * compressed / original], np.float32),
    }
    return Outcome(values, coded.queue_seconds, coded.compute_seconds)


async def _decompress(asked: Asked) -> Outcome:
    index = asked.parameters.index
    payload = await tasks.open_payload(
        asked.service, asked.request, asked.given, index, asked.bundle.id, asked.deadline
    )
    decoded = await tasks.decompress(asked.service, asked.request, payload, asked.deadline)
    return Outcome({"images": decoded.found}, decoded.queue_seconds, decoded.compute_seconds)


_BY_THE_CODEC = {"is_batched": False, "is_on_device": False}
CALLS = {
    "encode": Call(_encode_signature, Fitted, _images, _encode),
    "decode": Call(_decode_signature, NoParameters, _latents, _imaging(Operation.DECODE), takes_pixels=False),
    "reconstruct": Call(_reconstruct_signature, Fitted, _images, _imaging(Operation.RECONSTRUCT)),
    "score": Call(_score_signature, Scored, _images, _score),
    "sample": Call(_sample_signature, Drawn, _count, _sample, is_batched=False, takes_pixels=False),
    "compress": Call(_compress_signature, Compressed, _pictures, _compress, **_BY_THE_CODEC),
    "decompress": Call(
        _decompress_signature, Decompressed, _payload, _decompress, **_BY_THE_CODEC, takes_pixels=False
    ),
}
