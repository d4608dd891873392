"""PNG, JPEG and WebP files, as /encode and /compress read them."""

from __future__ import annotations

import zlib
from typing import get_args

import numpy as np

from app.negotiation import conform, parse_images
from fuzzing import sums
from fuzzing.expected import LIMITS, SMALL, accepted, check_equal, check_images
from models.images import Fit, encode_png

SHAPES = ((1, 28, 28), (3, 32, 32))  # of models
mended = sums.mended_image


def check(data: bytes) -> None:
    """Decode a file with and without its alpha, bring it to a model's shape, write it and read it again."""
    plain = accepted(lambda: parse_images(data, "image/png", LIMITS))
    layered = accepted(lambda: parse_images(data, "image/png", LIMITS, keep_alpha=True))
    if plain is None or layered is None:
        assert plain is layered
        return
    [on_black], [whole] = plain, layered
    check_images(on_black[None], (1, 3))
    check_images(whole[None], (1, 3, 4))
    pick = zlib.crc32(data)  # as good as at random, and the same each time
    shape, fit = SHAPES[pick % 2], get_args(Fit)[pick // 2 % 3]
    fitted = conform(plain, shape, fit)
    check_images(fitted, (shape[0],))
    assert fitted.shape == (1, *shape[1:], shape[0])
    if whole.size <= SMALL:
        colour, alpha = (whole[..., :3], whole[..., 3:]) if whole.shape[2] == 4 else (whole, np.uint16(255))
        composed = (colour.astype(np.uint16) * alpha + 127) // 255
        check_equal(np.broadcast_to(on_black, composed.shape), composed)
        [again] = parse_images(encode_png(whole), "image/png", LIMITS, keep_alpha=True)
        check_equal(again, whole)
