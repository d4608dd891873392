"""JSON documents of images, latents and payloads, against the standard library's reader."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from app.negotiation import parse_images, parse_latents, parse_payload
from app.negotiation.media import JSON
from fuzzing.expected import LATENT_DIM, LIMITS, accepted, check_equal, check_images, check_latents


def check(data: bytes) -> None:
    """Read a document as images, as latents and as a payload; what is read is what it says."""
    images = accepted(lambda: parse_images(data, JSON, LIMITS))
    if images is not None:
        assert len(images) == len(_read(data)["images"])
        for image in images:
            check_images(image[None], (1, 3))
    latents = accepted(lambda: parse_latents(data, JSON, LATENT_DIM, LIMITS))
    if latents is not None:
        check_latents(latents)
        check_equal(latents, np.array(_read(data)["latents"], np.float32))
    payload = accepted(lambda: parse_payload(data, JSON, LIMITS))
    if payload is not None:
        text = _read(data)["payload"]
        assert payload == base64.b64decode(text.partition(";base64,")[2] if text[:5] == "data:" else text)


def _read(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data.decode())
    return found
