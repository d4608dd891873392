"""npy files, as /encode and /decode read them, against numpy's own reader."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from app.negotiation import parse_images, parse_latents
from app.negotiation.arrays import npy_header
from app.negotiation.media import NPY
from fuzzing import sums
from fuzzing.expected import LATENT_DIM, LIMITS, accepted, check_equal, check_images, check_latents

mended = sums.mended_npy


def check(data: bytes) -> None:
    """Read a file as images and as latents; what is read numpy reads alike, and is read again alike."""
    images = accepted(lambda: parse_images(data, NPY, LIMITS, keep_alpha=True))
    if images is not None:
        assert isinstance(images, np.ndarray)
        check_images(images, (1, 3, 4))
        check_equal(images, np.load(BytesIO(data), allow_pickle=False).reshape(images.shape))
        again = parse_images(_written(images), NPY, LIMITS, keep_alpha=True)
        check_equal(np.asarray(again), images)
    latents = accepted(lambda: parse_latents(data, NPY, LATENT_DIM, LIMITS))
    if latents is not None:
        check_latents(latents)
        check_equal(latents, np.load(BytesIO(data), allow_pickle=False))
        check_equal(parse_latents(_written(latents), NPY, LATENT_DIM, LIMITS), latents)


def _written(array: np.ndarray) -> bytes:
    return npy_header(array.dtype, array.shape) + array.tobytes()
