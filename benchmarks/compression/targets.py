"""`python -m benchmarks.compression.targets`: how many of the bytes that target_bytes allows are used.

Single images and payloads of many, at targets from the least that can be had up to the lossless payload.
Needs `make data`. Writes targets.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.compression.__main__ import PACKAGES, test_images
from benchmarks.compression.contenders import Images
from benchmarks.serving.machine import describe_run
from codec.chunk import verified
from codec.encoding import Manner, MannerError, compress
from codec.model import FILE, CodecModel
from codec.payload import Kind, parsed
from models.bundle import SHIPPED

BUNDLES = ("cifar10", "fashion-mnist", "mnist")
SIZES = (1, 100)  # of payloads, in images
TARGETS = 24  # of each payload
CLOSE = 0.98
RESULTS = Path(__file__).with_name("targets.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every bundle and size, write the figures and print their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.targets", description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="of each test set, from the first")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    facts = describe_run("benchmarks.compression.targets", arguments, *PACKAGES)
    rows = []
    for bundle in BUNDLES:
        codec, images = verified(SHIPPED / bundle / FILE), test_images(bundle, options.images)
        rows += [{"bundle": bundle} | measured(images, codec, size) for size in SIZES]
    options.out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def measured(images: Images, codec: CodecModel, size: int) -> dict[str, Any]:
    """Return what payloads of so many images leave unused of their targets.

    A payload is close to its target with 98 % of it, or all but a byte.
    """
    found = np.array(
        [pair for i in range(0, len(images), size) for pair in _payloads(images[i : i + size], codec)]
    )
    targets, lengths, classical = found.T
    unused = targets - lengths
    close = (lengths >= CLOSE * targets) | (unused <= 1)
    return {
        "images": size,
        "payloads": len(found),
        "over": int((unused < 0).sum()),
        "close": float(close.mean()),
        "mean_used": float((lengths / targets).mean()),
        "worst_used": float((lengths / targets).min()),
        "worst_unused_bytes": int(unused.max()),
        "webp": float(classical.mean()),
    }


def _payloads(images: Images, codec: CodecModel) -> list[tuple[int, int, bool]]:
    """Return targets, the lengths of their payloads, and whether those are WebP."""
    found = []
    for target in np.linspace(_least(images, codec), len(compress(images, codec)) - 1, TARGETS).astype(int):
        payload = compress(images, codec, Manner(target_bytes=int(target)))
        kind = parsed(payload, {codec.prefix: codec}.get).kind
        found.append((int(target), len(payload), kind == Kind.CLASSICAL))
    return found


def _least(images: Images, codec: CodecModel) -> int:
    """Return the fewest bytes that images need."""
    least = 1
    while True:
        try:
            compress(images, codec, Manner(target_bytes=least))
        except MannerError as error:
            least = max(cast(int, error.limit), least + 1)
        else:
            return least


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| | images | payloads | over | 98 % used, or all but a byte | mean used | least used |",
        "| --- |" + " ---: |" * 6,
    ]
    for row in rows:
        shares = (f"{100 * row[name]:.1f} %" for name in ("close", "mean_used", "worst_used"))
        counts = (str(row[name]) for name in ("images", "payloads", "over"))
        lines.append(f"| {row['bundle']} | " + " | ".join((*counts, *shares)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
