"""Bodies of requests that a model takes, made from random numbers, and the same damaged."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from PIL import Image

from app.negotiation.media import NPY, SAFETENSORS

Rng = np.random.Generator
Kind = Literal["images", "latents", "payload"]
MAX_SIDE, MAX_ROWS = 24, 4
PILLOW = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


@dataclass(frozen=True)
class Model:
    """A loaded bundle: the shape (C, H, W) of its images, its latents, payloads of it by their count."""

    id: str
    shape: tuple[int, int, int]
    latent_dim: int
    has_codec: bool
    payloads: dict[int, bytes]


@dataclass(frozen=True)
class Size:
    """What an array of images is to be: of the model's height and width, or also of its channels."""

    is_fixed: bool
    has_channels: bool = False


def pixels(rng: Rng, count: int, model: Model, size: Size, channels: tuple[int, ...]) -> np.ndarray:
    """Return random uint8 images (N, H, W, C)."""
    wanted, *sides = model.shape
    height, width = sides if size.is_fixed else rng.integers(1, MAX_SIDE, 2)
    depth = wanted if size.has_channels else int(rng.choice(channels))
    return rng.integers(0, 256, (count, height, width, depth), np.uint8)


def file_of(image: np.ndarray, media_type: str) -> bytes:
    """Return an image (H, W, C) as a file."""
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    if media_type == "image/jpeg" and picture.mode == "RGBA":
        picture = picture.convert("RGB")
    file = BytesIO()
    picture.save(file, PILLOW[media_type])
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    """Return an array as an .npy file."""
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def raw(media_type: str, name: str, array: np.ndarray) -> bytes:
    """Return an array as npy or safetensors."""
    return npy(array) if media_type == NPY else safetensors.numpy.save({name: np.ascontiguousarray(array)})


def damaged(rng: Rng, kind: Kind, media_type: str, body: bytes) -> bytes:
    """Return bytes that are no body of a media type, whatever the model."""
    ways: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: body[: max(1, len(body) // 8)],
        lambda: rng.bytes(40),
        lambda: bytes(8) + body[8:],
    ]
    if media_type in (NPY, SAFETENSORS):
        name = "z" if kind == "latents" else "images"
        ways += [
            lambda: body + b"more",
            lambda: raw(media_type, name, np.zeros((1, 2, 3), np.float64)),
            lambda: raw(media_type, name, np.zeros((2, 0), np.float32)),
            lambda: raw(media_type, name, np.full((1, 3), np.nan, np.float32)),
            lambda: raw(media_type, name, np.zeros((1, 2, 2, 2), np.uint8)),
        ]
    return ways[rng.integers(len(ways))]()


def damaged_json(rng: Rng, kind: Kind) -> dict[str, Any]:
    """Return a document that a schema takes and no model does."""
    if kind == "latents":
        rows: list[list[list[float]]] = [[[]], [[0.0] * 1000], [[1e300] * 4], [[0.0], [0.0] * 2]]
        return {"latents": rows[rng.integers(len(rows))]}
    texts = ["", "no base64", base64.b64encode(rng.bytes(50)).decode(), "data:,"]
    text = texts[rng.integers(len(texts))]
    return {"payload": text} if kind == "payload" else {"images": [text]}
