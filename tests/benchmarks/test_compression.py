"""The compression benchmark's figures are those of files that were read back."""

from __future__ import annotations

import bz2

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import compression
from benchmarks.compression import measured
from codec.chunk import verified
from codec.model import FILE
from codec.payload import compress
from models.bundle import SHIPPED
from training.datasets import Dataset

BUNDLE = "fashion-mnist"
IMAGES = load_file(SHIPPED / BUNDLE / "golden.safetensors")["levels"]


@pytest.fixture(autouse=True)
def _golden_images_as_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(IMAGES, IMAGES, None, None, "sha256:golden")
    monkeypatch.setattr(compression, "load_dataset", lambda config: dataset)


def test_sizes_are_those_of_the_files() -> None:
    figures = measured(BUNDLE, rounds=1, images=5)
    codec, test = verified(SHIPPED / BUNDLE / FILE), IMAGES[:5]
    assert figures["images"] == 5
    assert figures["vaeserve"]["whole_bits_per_dim"] == 8 * len(compress(test, codec)) / test.size
    assert figures["vaeserve"]["single_bytes"] == np.mean([len(compress(x[None], codec)) for x in test])
    assert figures["bz2 -9"]["whole_bits_per_dim"] == 8 * len(bz2.compress(test.tobytes(), 9)) / test.size
    assert figures["PNG"]["bits_per_dim"] == pytest.approx(8 * figures["PNG"]["single_bytes"] / 784)


def test_other_bytes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compression.WHOLE, "bz2 -9", (lambda data: data, lambda data: data[1:]))
    with pytest.raises(ValueError, match="bz2 -9: other bytes came back"):
        measured(BUNDLE, rounds=1, images=2)


def test_other_images_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compression.FORMATS, "WebP", {"format": "WEBP", "quality": 50})
    with pytest.raises(ValueError, match="WEBP: another image came back"):
        measured(BUNDLE, rounds=1, images=2)
    monkeypatch.setattr(compression, "decompress", lambda header: IMAGES[:2] ^ 1)
    with pytest.raises(ValueError, match="vaeserve: other images came back"):
        measured(BUNDLE, rounds=1, images=2)
