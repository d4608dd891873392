"""The bytes of answers, as results."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import safetensors.numpy
from numpy.typing import NDArray

from vaeserve_client.results import Compressed, Encoded, Model, Models, Pictures, Samples, Scores

_FIGURES = ("elbo", "nll", "kl", "distortion", "bits_per_dim")
UNREADABLE = (safetensors.SafetensorError, KeyError, IndexError, TypeError, ValueError, OSError)


@dataclass(frozen=True)
class Answer:
    """A whole answer of status 2xx."""

    headers: Mapping[str, str]
    body: bytes


def read_encoded(answer: Answer) -> Encoded:
    """Read `mu` and `logvar`."""
    tensors = safetensors.numpy.load(answer.body)
    return Encoded(tensors["mu"], tensors["logvar"])


def read_pictures(answer: Answer) -> Pictures:
    """Read `images`."""
    return Pictures(_images_of(answer))


def read_samples(answer: Answer, offset: int) -> Samples:
    """Read `images`, and the seed from its header."""
    return Samples(_images_of(answer), int(answer.headers["x-seed"]), offset)


def read_samples_with_latents(answer: Answer, offset: int) -> Samples:
    """Read the JSON answer, the only one with latents."""
    document = json.loads(answer.body)
    images = np.stack([_decoded(text) for text in document["images"]])
    return Samples(images, document["seed"], offset, _floats(document["latents"]))


def read_scores(answer: Answer) -> Scores:
    """Read the figures of each image; what is no number was null."""
    document = json.loads(answer.body)
    figures = {name: _floats(document[name]) for name in _FIGURES}
    return Scores(**figures, samples=document["samples"], model=document["model"])


def read_compressed(answer: Answer) -> Compressed:
    """Keep the payload as it is."""
    return Compressed(answer.body, int(answer.headers["x-original-bytes"]))


def read_model(answer: Answer) -> Model:
    """Read the description of one model."""
    return _model(json.loads(answer.body))


def read_models(answer: Answer) -> Models:
    """Read the descriptions of all models."""
    document = json.loads(answer.body)
    return Models(document["default"], tuple(_model(model) for model in document["models"]))


def _images_of(answer: Answer) -> NDArray[np.uint8]:
    return safetensors.numpy.load(answer.body)["images"]


def _decoded(text: str) -> NDArray[np.uint8]:
    pixels = np.array(PIL.Image.open(BytesIO(base64.b64decode(text))))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _floats(values: list[Any]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _model(document: Mapping[str, Any]) -> Model:
    names = ("id", "digest", "codec", "device", "config", "metrics", "limits")
    return Model(**{name: document[name] for name in names})
