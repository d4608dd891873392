"""safetensors files, as /encode and /decode read them, against the library's own reader."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from app.negotiation import parse_images, parse_latents
from app.negotiation.arrays import safetensors_header
from app.negotiation.media import SAFETENSORS
from fuzzing import sums
from fuzzing.expected import LATENT_DIM, LIMITS, accepted, check_equal, check_images, check_latents

mended = sums.mended_safetensors


def check(data: bytes) -> None:
    """Read a file as images and as latents; the library reads the same, and it is read again alike."""
    images = accepted(lambda: parse_images(data, SAFETENSORS, LIMITS, keep_alpha=True))
    if images is not None:
        assert isinstance(images, np.ndarray)
        check_images(images, (1, 3, 4))
        check_equal(images, safetensors.numpy.load(data)["images"].reshape(images.shape))
        again = parse_images(_written("images", images), SAFETENSORS, LIMITS, keep_alpha=True)
        check_equal(np.asarray(again), images)
    latents = accepted(lambda: parse_latents(data, SAFETENSORS, LATENT_DIM, LIMITS))
    if latents is not None:
        check_latents(latents)
        check_equal(latents, safetensors.numpy.load(data)["z"])
        check_equal(parse_latents(_written("z", latents), SAFETENSORS, LATENT_DIM, LIMITS), latents)


def _written(name: str, array: np.ndarray) -> bytes:
    return safetensors_header(name, array.dtype, array.shape) + array.tobytes()
