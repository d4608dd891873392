"""`python -m benchmarks.distortion`: bytes against error of the lossy modes and of lossy image formats.

On the first images of each bundle's test set, one thread: each image alone, and one file of all. Needs
`make data`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.compression.__main__ import test_images
from benchmarks.distortion.contenders import curves
from benchmarks.distortion.measurement import measured
from benchmarks.distortion.report import Curves, table, write_report
from benchmarks.serving.machine import describe_run
from codec.chunk import verified
from codec.model import FILE
from models.bundle import SHIPPED

PACKAGES = ("numba", "pillow", "imagecodecs", "scikit-image")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every shipped codec and its peers, write the curves and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distortion", description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="of each test set, from the first")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/distortion/results"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = describe_run("benchmarks.distortion", arguments, *PACKAGES)
    bundles = [path.parent.name for path in sorted(SHIPPED.glob(f"*/{FILE}"))]
    results = {bundle: measure(bundle, options.images) for bundle in bundles}
    write_report(options.out, facts, results)
    print(table(results))
    return 0


def measure(bundle: str, count: int) -> Curves:
    """Measure a bundle's codec and its peers, setting by setting."""
    codec, images = verified(SHIPPED / bundle / FILE), test_images(bundle, count)
    return {
        curve.name: [measured(setting, contender, images) for setting, contender in curve.settings]
        for curve in curves(codec)
    }


if __name__ == "__main__":
    sys.exit(main())
