"""A full disk: what is written is whole or not there, and the service needs none."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import questions_of
from benchmarks.faults.service import ready_service
from benchmarks.serving.golden import golden_images
from models.bundle import bundle_path, load_bundle

LIMIT_BYTES = 256  # of any file, where no disk may be mounted: writing beyond it fails
SPARE_BYTES = 1 << 20  # of the disk, beside the bundle: then it is filled
SAVE = """
import sys
from pathlib import Path
from models.bundle import change_bundle
source, target = map(Path, sys.argv[1:])
try:
    change_bundle(target, {"metrics.json": (source / "metrics.json").read_bytes()})
except OSError as error:
    sys.exit(f"error: {error}")
"""


def run(setup: Setup) -> list[Row]:
    """Write an archive, images and a bundle on a full disk; then serve with a log that cannot be written."""
    return [written(setup), served(setup)]


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    """Mount a disk of a size at a folder until the block is left; give False where this user may not."""
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write a file that leaves no byte of a disk."""
    with (folder / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def limited(command: Sequence[str], has_disk: bool) -> subprocess.CompletedProcess[str]:
    """Run a command; where there is no full disk, one that can write little to any file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    return subprocess.run(
        [sys.executable, *command],
        preexec_fn=None if has_disk else limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def written(setup: Setup) -> Row:
    """Compress, decompress and change a bundle where there is no room for what they write."""
    source = bundle_path(setup.bundle)
    images, folder = setup.folder / "images.npy", setup.folder / "disk"
    np.save(images, golden_images(load_bundle(source)).transpose(0, 3, 1, 2))
    packed, bundle = setup.folder / "packed", folder / source.name
    codec = ("-m", "codec")
    packing = [*codec, "compress", str(images), "--model", str(source.resolve()), "--to"]
    subprocess.run([sys.executable, *packing, str(packed)], check=True, capture_output=True, timeout=300)
    commands = {
        "an archive": [*packing, str(folder / "new")],
        "images": [*codec, "decompress", str(packed), "--to", str(folder / "new.npy")],
        "a bundle": ["-c", SAVE, str(source), str(bundle)],
    }
    figures: dict[str, str] = {}
    size_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with small_disk(folder, size_bytes + SPARE_BYTES) as has_disk:
        shutil.copytree(source, bundle)
        if has_disk:
            fill(folder)
        before = tree(folder)
        for name, command in commands.items():
            done = limited(command, has_disk)
            figures[name] = f"status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
        is_as_before = tree(folder) == before
    reason = os.strerror(errno.ENOSPC if has_disk else errno.EFBIG)
    shown = {name: text.replace(str(setup.folder), "…") for name, text in figures.items()}
    return Row(
        "a full disk while something is written" if has_disk else "a file that may not grow is written",
        len(commands),
        {},
        shown,
        {
            "each ends with 1 and says which file": says_which(figures, reason),
            "no file is there that was not before, and none has changed": is_as_before,
        },
    )


def says_which(figures: Mapping[str, str], reason: str) -> bool:
    """Whether every end is one line that has the system's reason, and a file after it."""
    return all("status 1: error:" in text and f"{reason}: " in text for text in figures.values())


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file in a folder and its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def served(setup: Setup) -> Row:
    """Ask a service whose log goes to a full disk."""
    around = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    settings = {"VAE_ACCESS_LOG": "true", "VAE_THREADS": "1"}
    with ready_service(setup, settings, around=around) as service:
        questions, times = questions_of(setup.bundle), setup.times(200)
        right = 0
        for number in range(times):
            question = questions[number % len(questions)]
            answer = service.ask(question.method, question.path, question.body, question.headers)
            right += answer.status == 200 and question.is_right(answer.body)
        is_ready = service.is_ready()
    kept = {"every request is answered": right == times, "ready at the end": is_ready}
    return Row("a log that cannot be written", times, settings, {"answered": right}, kept)
