"""The service, asked without the page, and images to compare what it shows with."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.negotiation.media import NPY, PAYLOAD
from models.images import decode_image

BOOT = Path(__file__).parents[2] / "docs" / "boot.png"
FASHION, COLOUR, SMALL = "fashion-mnist", "cifar10", "small"


class Asked:
    """The service, asked without the page."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def images(self, path: str, array: np.ndarray, **query: Any) -> np.ndarray:
        file = io.BytesIO()
        np.save(file, array)
        answer = self._client.post(
            path, content=file.getvalue(), headers={"Content-Type": NPY}, params={"format": "npy", **query}
        )
        assert answer.status_code == 200, answer.text
        return np.load(io.BytesIO(answer.content))

    def mu(self, image: np.ndarray, model: str = FASHION) -> np.ndarray:
        return self.images("/encode", image[None], model=model)[0, 0]

    def decoded(self, z: np.ndarray, model: str = FASHION) -> np.ndarray:
        return self.images("/decode", z[None].astype(np.float32), model=model)[0]

    def payload(self, image: np.ndarray, **query: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, image[None])
        headers = {"Content-Type": NPY}
        answer = self._client.post(
            "/compress", content=file.getvalue(), headers=headers, params={"format": "payload", **query}
        )
        return answer.content

    def decompressed(self, payload: bytes) -> np.ndarray:
        answer = self._client.post(
            "/decompress?format=npy", content=payload, headers={"Content-Type": PAYLOAD}
        )
        return np.load(io.BytesIO(answer.content))[0]

    def samples(self, **query: Any) -> np.ndarray:
        return np.load(io.BytesIO(self._client.get("/sample", params={"format": "npy", **query}).content))


def grey(image: np.ndarray) -> np.ndarray:
    """Return an image that a canvas shows in grey with its one channel."""
    assert (image == image[..., :1]).all()
    return image[..., :1]


def boot() -> np.ndarray:
    return decode_image(BOOT.read_bytes(), 1 << 20)


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images differ by no more than batches that round differently make them."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


def picture(url: str) -> np.ndarray:
    """Return the image in a data: URL, uint8 (H, W, 3)."""
    return decode_image(base64.b64decode(url.partition(",")[2]), 1 << 20)
