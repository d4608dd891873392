"""What the service may do with bytes: refuse them with a small problem document, or give what it promises."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import orjson

from app import errors
from app.errors import Problem
from app.negotiation import Limits
from app.settings import Settings

T = TypeVar("T")
KEY = "a key for fuzzing"
SETTINGS = Settings(
    models=("fashion-mnist", "mnist", "cifar10"),
    device="cpu",
    threads=1,
    api_keys=KEY,
    cors_origins="http://localhost:3000",
    max_samples=64,  # more are more work of the same kind, which takes long and reaches nothing else
    max_score_samples=32,
    deadline_seconds=600.0,  # libFuzzer notices what hangs, and all targets run at once on few cores
)
LIMITS = Limits(SETTINGS.max_body_bytes, SETTINGS.max_images, SETTINGS.max_pixels)
LATENT_DIM = 64  # of the default bundle
SMALL = 1 << 14  # levels of images that are written and read again
MAX_DOCUMENT_BYTES = 8 << 10
LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)


def accepted(parse: Callable[[], T], path: str = "/encode") -> T | None:
    """Return what is parsed, or None where it is refused: with a status of 4xx, and in few bytes."""
    try:
        return parse()
    except Problem as problem:
        check_refusal(problem, path)
        return None


def check_refusal(problem: Problem, path: str) -> None:
    """Check that a problem blames the caller, and can be said whatever it quotes."""
    body = bytes(errors.answer(problem, path).body)
    assert 400 <= problem.kind.status < 500, problem
    assert len(body) <= MAX_DOCUMENT_BYTES, len(body)
    assert orjson.loads(body), body


def awaited(awaitable: Awaitable[T]) -> T:
    """Return what an awaitable gives."""
    return LOOP.run_until_complete(awaitable)


def check_images(images: np.ndarray, channels: tuple[int, ...]) -> None:
    """Check uint8 images (N, H, W, C) against what is promised of them."""
    assert images.dtype == np.uint8, images.dtype
    assert images.ndim == 4, images.shape
    assert images.shape[-1] in channels, images.shape
    assert images.size > 0, images.shape
    assert len(images) <= LIMITS.images, images.shape
    assert images.nbytes <= LIMITS.decoded_bytes, images.shape


def check_latents(latents: np.ndarray) -> None:
    """Check float32 latents (N, D) against what is promised of them."""
    assert latents.dtype.newbyteorder("=") == np.float32, latents.dtype
    assert latents.ndim == 2, latents.shape
    assert latents.shape[1] == LATENT_DIM, latents.shape
    assert 1 <= len(latents) <= LIMITS.images, latents.shape
    assert np.isfinite(latents).all(), latents


def check_equal(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that two arrays are the same."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.array_equal(found, expected)
