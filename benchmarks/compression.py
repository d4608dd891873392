"""`python -m benchmarks.compression`: the shipped codecs against general compressors and image formats.

Lossless, on every image of a bundle's test set: one file of all, and each image alone, all bytes counted.
Every file of all is decoded and compared before its size counts. Speeds are those of one core, medians of the
rounds. Writes compression.json; needs `make data`.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.serving.machine import describe_commit, describe_machine, describe_versions
from codec.chunk import verified
from codec.model import FILE, CodecModel
from codec.payload import compress, decompress, parsed
from models.bundle import SHIPPED
from training.config import read_config
from training.datasets import load_dataset

RESULTS = Path(__file__).with_name("compression.json")
CONFIGS = Path("training/configs")
WHOLE: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip -9": (lambda data: gzip.compress(data, 9), gzip.decompress),
    "bz2 -9": (lambda data: bz2.compress(data, 9), bz2.decompress),
    "xz -9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
}
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WEBP", "lossless": True, "method": 6, "quality": 100},
}


def measured(bundle: str, rounds: int, images: int | None) -> dict[str, Any]:
    """Return the figures of one bundle's test set."""
    codec = verified(SHIPPED / bundle / FILE)
    test = load_dataset(read_config(CONFIGS / f"{bundle}.toml").data).test[:images]
    figures = {"images": len(test), "levels": test.size, **_of_codec(codec, test, rounds)}
    raw = test.tobytes()
    for name, (pack, unpack) in WHOLE.items():
        packed = pack(raw)
        if unpack(packed) != raw:
            raise ValueError(f"{name}: other bytes came back")
        figures[name] = {"whole_bits_per_dim": 8 * len(packed) / test.size}
    for name, options in FORMATS.items():
        sizes = [len(_encoded(image, options)) for image in test]
        figures[name] = {"single_bytes": statistics.mean(sizes), "bits_per_dim": 8 * sum(sizes) / test.size}
    return figures


def _of_codec(codec: CodecModel, test: np.ndarray, rounds: int) -> dict[str, Any]:
    compress(test[:1], codec)  # compiles
    packing, unpacking = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        payload = compress(test, codec)
        packed = time.perf_counter()
        header = parsed(payload, {codec.prefix: codec}.get)
        same = np.array_equal(decompress(header), test)
        packing.append(test.size / (packed - begun) / 1e6)
        unpacking.append(test.size / (time.perf_counter() - packed) / 1e6)
        if not same:
            raise ValueError("vaeserve: other images came back")
    alone, seconds = [], []
    for image in test:
        begun = time.perf_counter()
        alone.append(len(compress(image[None], codec)))
        seconds.append(time.perf_counter() - begun)
    return {
        "vaeserve": {
            "whole_bits_per_dim": 8 * len(payload) / test.size,
            "single_bytes": statistics.mean(alone),
            "single_ms_p50": 1e3 * statistics.median(seconds),
            "compress_mb_s": statistics.median(packing),
            "decompress_mb_s": statistics.median(unpacking),
        }
    }


def _encoded(image: np.ndarray, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(picture).save(buffer, **options)
    with Image.open(buffer) as read:
        if not np.array_equal(np.asarray(read.convert("L" if len(image) == 1 else "RGB")), picture):
            raise ValueError(f"{options['format']}: another image came back")
    return buffer.getvalue()


def main() -> int:
    """Measure every shipped codec, write the figures and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="1-100", default=3)
    parser.add_argument("--images", type=int, help="of each test set, from the first; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundles = [path.parent.name for path in sorted(SHIPPED.glob(f"*/{FILE}"))]
    figures = {bundle: measured(bundle, options.rounds, options.images) for bundle in bundles}
    results = {
        "command": shlex.join(["python", "-m", "benchmarks.compression", *sys.argv[1:]]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "bundles": figures,
    }
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for bundle in bundles:
        print(f"\n{bundle}")
        for name, row in figures[bundle].items():
            if isinstance(row, dict):
                print(f"  {name:10}", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
