"""`python -m benchmarks.compression`: the shipped codecs against image formats and general compressors.

Lossless, on every image of each bundle's test set, one thread: one file of all, and each image alone, all
bytes counted, all images read back and compared. Needs `make data`; a grey bundle takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.compression.contenders import Images, contenders
from benchmarks.compression.measurement import Measured, measured
from benchmarks.compression.report import summary, write_report, write_results
from benchmarks.serving.machine import describe_run
from codec.chunk import verified
from codec.model import FILE
from models.bundle import SHIPPED
from training.config import read_config
from training.datasets import load_dataset

CONFIGS = Path("training/configs")
PACKAGES = ("numba", "pillow", "imagecodecs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure shipped codecs and their peers, write the figures and print them with those there were."""
    shipped = [path.parent.name for path in sorted(SHIPPED.glob(f"*/{FILE}"))]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", help=f"{', '.join(shipped)}; all by default")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="1-100", default=3)
    parser.add_argument("--images", type=int, help="of each test set, from the first; all by default")
    parser.add_argument("--only", default="", help="measure those alone whose name begins so: vaeserve, …")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/compression/results"))
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.bundles) - set(shipped)):
        parser.error(f"bundles without a codec: {', '.join(unknown)}; there are {', '.join(shipped)}")
    torch.set_num_threads(1)
    facts = describe_run("benchmarks.compression", arguments, *PACKAGES)
    for bundle in options.bundles or shipped:
        rows = measure(bundle, options.rounds, options.images, options.only)
        write_results(options.out, bundle, facts, rows)
    print(summary(write_report(options.out)))
    return 0


def measure(bundle: str, rounds: int, images: int | None, only: str) -> list[Measured]:
    """Measure a bundle's codec and its peers on the first images of its test set."""
    codec = verified(SHIPPED / bundle / FILE)
    test = test_images(bundle, images)
    chosen = [contender for contender in contenders(codec) if contender.name.startswith(only)]
    return [measured(contender, test, rounds) for contender in chosen]


def test_images(bundle: str, count: int | None) -> Images:
    """Return the first images of a bundle's test set."""
    return load_dataset(read_config(CONFIGS / f"{bundle}.toml").data).test[:count]


if __name__ == "__main__":
    sys.exit(main())
