"""What the targets are tried with, on every Python, and what they hold the service to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.errors import Kind, Problem
from app.negotiation.arrays import npy_header
from fuzzing.corpora import MAX_CORPUS_BYTES, MAX_FILES
from fuzzing.expected import (
    LATENT_DIM,
    LIMITS,
    accepted,
    check_equal,
    check_images,
    check_latents,
)
from fuzzing.replay import replayed
from fuzzing.seeds import seeds_of
from fuzzing.targets import CORPORA, DICTIONARIES, FAULTS, NAMES, ROOM, inputs, load
from models.images import encode_png


@pytest.mark.slow
def test_no_input_of_the_corpora_and_none_that_was_a_fault_is_a_fault() -> None:
    command = [sys.executable, "-m", "fuzzing.replay"]
    done = subprocess.run(command, cwd=ROOM.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name}: {len(inputs(name))} inputs" for name in NAMES]


def test_an_input_at_fault_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"[]")
    monkeypatch.setattr("fuzzing.targets.document.parse_payload", lambda data, kind, limits: data)
    with pytest.raises(TypeError) as caught:
        replayed("document", [path])
    assert caught.value.__notes__ == [f"of {path}"]


def test_every_target_has_a_small_corpus_and_no_corpus_is_without_one() -> None:
    assert {path.name for path in CORPORA.iterdir()} == set(NAMES)
    assert {path.parent.name for path in FAULTS.glob("*/*")} <= set(NAMES)
    assert {path.stem for path in DICTIONARIES.iterdir()} <= set(NAMES)
    for name in NAMES:
        sizes = [path.stat().st_size for path in (CORPORA / name).iterdir()]
        assert 1 <= len(sizes) <= MAX_FILES
        assert sum(sizes) <= MAX_CORPUS_BYTES


def test_a_refusal_that_blames_the_caller_is_accepted() -> None:
    assert accepted(lambda: refused(Kind.TOO_LARGE, "too large")) is None
    assert accepted(lambda: 7) == 7


@pytest.mark.parametrize("kind", [Kind.INTERNAL, Kind.DEVICE_FAULT, Kind.DEADLINE])
def test_a_refusal_that_blames_the_service_is_a_fault(kind: Kind) -> None:
    with pytest.raises(AssertionError, match="of the service"):
        accepted(lambda: refused(kind, "of the service"))


def test_what_nobody_documented_is_a_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        accepted(lambda: 1 // 0)


def refused(kind: Kind, detail: str) -> None:
    raise Problem(kind, detail)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 2, 2, 1), np.float32),
        np.zeros((2, 2, 1), np.uint8),
        np.zeros((1, 2, 2, 4), np.uint8),
        np.zeros((0, 2, 2, 1), np.uint8),
        np.zeros((1, 2, 0, 1), np.uint8),
        np.zeros((LIMITS.images + 1, 1, 1, 1), np.uint8),
        np.broadcast_to(np.uint8(), (1, LIMITS.decoded_bytes + 1, 1, 1)),
    ],
)
def test_images_that_break_a_promise_are_a_fault(images: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        check_images(images, (1, 3))


@pytest.mark.parametrize(
    "latents",
    [
        np.zeros((1, LATENT_DIM), np.float64),
        np.zeros(LATENT_DIM, np.float32),
        np.zeros((1, LATENT_DIM + 1), np.float32),
        np.zeros((0, LATENT_DIM), np.float32),
        np.zeros((LIMITS.images + 1, LATENT_DIM), np.float32),
        np.full((1, LATENT_DIM), np.nan, np.float32),
    ],
)
def test_latents_that_break_a_promise_are_a_fault(latents: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        check_latents(latents)


@pytest.mark.parametrize("found", [np.zeros(2), np.ones(3)])
def test_arrays_that_differ_are_a_fault(found: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        check_equal(found, np.zeros(3))


async def nothing(*_: object) -> bytes:
    return b""


# Functions that targets call, and what they do once they are wrong.
WRONG: list[tuple[str, str, Callable[..., object]]] = [
    ("image", "parse_images", lambda *_, keep_alpha=False: [np.zeros((2, 2, 3 + keep_alpha), np.float32)]),
    ("image", "conform", lambda images, shape, fit: np.zeros((1, 1, 1, shape[0]), np.uint8)),
    ("image", "encode_png", lambda image: encode_png(255 - image)),
    ("npy", "parse_images", lambda *_, keep_alpha: np.zeros((2, 10, 10, 1), np.uint8)),
    ("npy", "parse_latents", lambda *_: np.zeros((2, LATENT_DIM), np.float32)),
    ("npy", "npy_header", lambda dtype, shape: npy_header(dtype, (1, *shape[1:]))),
    ("safetensors", "parse_images", lambda *_, keep_alpha: np.zeros((2, 10, 10, 1), np.uint8)),
    ("safetensors", "parse_latents", lambda *_: np.zeros((2, LATENT_DIM), np.float32)),
    ("document", "parse_images", lambda *_: []),
    ("document", "parse_latents", lambda *_: np.zeros((2, LATENT_DIM), np.float32)),
    ("document", "parse_payload", lambda *_: b""),
    ("coding", "inflated", nothing),
]


@pytest.mark.parametrize(("name", "function", "wrong"), WRONG)
def test_a_target_notices_what_is_wrong(
    name: str, function: str, wrong: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load(f"fuzzing.targets.{name}").check

    def check_all() -> None:
        for data in seeds_of(name):
            check(data)

    check_all()
    monkeypatch.setattr(f"fuzzing.targets.{name}.{function}", wrong)
    with pytest.raises((AssertionError, KeyError, Problem)):
        check_all()


@pytest.mark.slow
def test_a_target_of_the_whole_service_notices_what_is_wrong() -> None:
    command = [sys.executable, "-m", "tests.fuzzing.planted.wrong"]
    done = subprocess.run(command, cwd=ROOM.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "payload, made again",
        "payload, decoded",
        "inference, written",
        "inference, prepared",
        "http",
    ]
