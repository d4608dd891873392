"""The service's routes as values: what to send, and how to read what comes back. Nothing is sent here.

Arrays come back as safetensors: one call into its library reads them, several arrays in one body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import quote

from numpy.typing import ArrayLike

from vaeserve_client import answers
from vaeserve_client.answers import UNREADABLE, Answer
from vaeserve_client.bodies import (
    JSON,
    PAYLOAD,
    Body,
    Images,
    Payload,
    images_body,
    latents_body,
    payload_body,
)
from vaeserve_client.errors import AnswerError
from vaeserve_client.results import Compressed, Encoded, Model, Models, Pictures, Samples, Scores

SAFETENSORS = "application/x-safetensors"
Effort: TypeAlias = Literal["best", "fast"]
Fit: TypeAlias = Literal["resize", "crop", "pad"]
Prior: TypeAlias = Literal["aggregated", "standard"]
Status: TypeAlias = Literal["live", "ready"]
T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request; a parameter of None is left out."""

    path: str
    parse: Callable[[Answer], T]
    accept: str = JSON
    body: Body | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """GET, or POST with a body."""
        return "GET" if self.body is None else "POST"

    @property
    def query(self) -> dict[str, Any] | None:
        """The parameters that are given; None for none."""
        return {name: value for name, value in self.parameters.items() if value is not None} or None

    @property
    def headers(self) -> dict[str, str]:
        """What this request has beside the client's own headers."""
        if self.body is None:
            return {"Accept": self.accept}
        length = str(len(self.body.content))
        return {"Accept": self.accept, "Content-Type": self.body.media_type, "Content-Length": length}

    def read(self, answer: Answer) -> T:
        """Return the result; raise AnswerError for an answer that is not the service's."""
        try:
            return self.parse(answer)
        except UNREADABLE as error:
            raise AnswerError(f"{self.path} answered something else than it should: {error!r}") from error


def encode(images: Images, *, model: str | None, fit: Fit | None) -> Call[Encoded]:
    """POST /encode."""
    parameters = {"model": model, "fit": fit}
    return Call("/encode", answers.read_encoded, SAFETENSORS, images_body(images), parameters)


def decode(latents: ArrayLike, *, model: str | None) -> Call[Pictures]:
    """POST /decode."""
    return Call("/decode", answers.read_pictures, SAFETENSORS, latents_body(latents), {"model": model})


def reconstruct(images: Images, *, model: str | None, fit: Fit | None) -> Call[Pictures]:
    """POST /reconstruct."""
    parameters = {"model": model, "fit": fit}
    return Call("/reconstruct", answers.read_pictures, SAFETENSORS, images_body(images), parameters)


def score(images: Images, *, samples: int | None, model: str | None, fit: Fit | None) -> Call[Scores]:
    """POST /score."""
    parameters = {"model": model, "fit": fit, "samples": samples}
    return Call("/score", answers.read_scores, JSON, images_body(images), parameters)


def sample(
    n: int,
    *,
    seed: int | None,
    offset: int,
    temperature: float,
    prior: Prior,
    has_latents: bool,
    model: str | None,
) -> Call[Samples]:
    """GET /sample."""
    parameters = {
        "n": n,
        "seed": seed,
        "offset": offset,
        "temperature": temperature,
        "prior": prior,
        "model": model,
    }
    parse = answers.read_samples_with_latents if has_latents else answers.read_samples
    accept = JSON if has_latents else SAFETENSORS
    return Call("/sample", partial(parse, offset=offset), accept, parameters=parameters)


def sample_page(
    page: range, *, seed: int, temperature: float, prior: Prior, model: str | None
) -> Call[Samples]:
    """GET /sample, for the images of a range."""
    return sample(
        len(page),
        seed=seed,
        offset=page.start,
        temperature=temperature,
        prior=prior,
        has_latents=False,
        model=model,
    )


def compress(
    images: Images,
    *,
    effort: Effort,
    max_error: int,
    quality: int | None,
    target_bytes: int | None,
    model: str | None,
) -> Call[Compressed]:
    """POST /compress."""
    parameters = {
        "effort": effort,
        "max_error": max_error,
        "quality": quality,
        "target_bytes": target_bytes,
        "model": model,
    }
    return Call("/compress", answers.read_compressed, PAYLOAD, images_body(images), parameters)


def decompress(payload: Payload, *, index: int | None, model: str | None) -> Call[Pictures]:
    """POST /decompress."""
    parameters = {"index": index, "model": model}
    return Call("/decompress", answers.read_pictures, SAFETENSORS, payload_body(payload), parameters)


def models() -> Call[Models]:
    """GET /models."""
    return Call("/models", answers.read_models)


def model(id: str) -> Call[Model]:
    """GET /models/{id}."""
    return Call(f"/models/{quote(id, safe='')}", answers.read_model)


def health(status: Status) -> Call[bool]:
    """GET /health/live or /health/ready."""
    return Call(f"/health/{status}", lambda answer: True)
