"""Damaged bundles: the process says what is wrong, ends, and is never ready."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.service import begun_service
from codec.chunk import verified
from codec.model import FILE, CodecError
from models.bundle import OPTIONAL, REQUIRED, BundleError, bundle_path, load_bundle
from models.bundle_files import SUMS

EXIT_SECONDS, GIVE_UP_SECONDS = 5.0, 60.0
FLIPS, CUTS = 400, 100  # over all files, in this process


def flipped(content: bytes, bit: int) -> bytes:
    """Return bytes with one bit turned over."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _missing(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), 4 * path.stat().st_size + 1))


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "missing": _missing,
    "empty": _empty,
    "cut in half": _cut,
    "a bit flipped": _flipped,
}


@dataclass(frozen=True)
class End:
    """How a start went: the exit status, None where the process had to be ended; and what it said."""

    status: int | None
    seconds: float
    was_ready: bool
    log: str

    def is_refusal_of(self, name: str) -> bool:
        """Whether the process ended in time with a fault that names the file, and was never ready."""
        has_ended = self.status == 1 and self.seconds < EXIT_SECONDS
        return has_ended and not self.was_ready and "Traceback" not in self.log and self.names(name)

    def names(self, name: str) -> bool:
        """Whether a line of the loader's own list of faults names a file."""
        _, _, faults = self.log.partition("not started: bundle ")
        return re.search(rf"^  - (?:.* )?{re.escape(name)}\b", faults, re.MULTILINE) is not None


def run(setup: Setup) -> list[Row]:
    """Damage each file in each way and start the service with it; then flip and cut in this process."""
    source = bundle_path(setup.bundle)
    return [started_with_damage(setup, source), flips_and_cuts(setup, source)]


def parts_of(source: Path) -> list[str]:
    """Return the files of a bundle that are verified."""
    return [name for name in (*REQUIRED, *OPTIONAL, SUMS) if (source / name).is_file()]


def copied(source: Path, folder: Path) -> Path:
    """Return a fresh copy of a bundle's verified files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in parts_of(source):
        shutil.copyfile(source / name, folder / name)
    return folder


def damages(source: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's name with each damage; what is optional may be missing only where it is listed."""
    for name in parts_of(source):
        for damage in DAMAGES:
            yield name, damage


def started_with_damage(setup: Setup, source: Path) -> Row:
    """Start the service once for every damage to every file, and once with none: the negative control."""
    cases = list(damages(source))
    cases = cases[:: max(1, len(cases) // setup.times(len(cases)))]
    wrong, slowest = [], 0.0
    for name, damage in cases:
        broken = copied(source, setup.folder / "damaged" / source.name)
        DAMAGES[damage](broken / name)
        end = start(setup, broken)
        slowest = max(slowest, end.seconds)
        if not end.is_refusal_of(name):
            wrong.append(f"{name} {damage}: {end.status}, {end.seconds:.1f} s, ready: {end.was_ready}")
        print(f"{name} {damage}: ended with {end.status} after {end.seconds:.2f} s", flush=True)
    whole = start(setup, copied(source, setup.folder / "damaged" / source.name))
    return Row(
        "a damaged bundle",
        len(cases),
        {},
        {"slowest_exit_seconds": round(slowest, 3), "not_refused": wrong},
        {
            f"every damage is named, and ends the process with 1 within {EXIT_SECONDS:g} s": not wrong,
            "the check can fail: it does for the bundle without damage, which becomes ready": (
                whole.was_ready and not whole.is_refusal_of("")
            ),
        },
    )


def start(setup: Setup, bundle: Path) -> End:
    """Start the service with a bundle, and ask whether it is ready until it has ended or is."""
    begun = time.monotonic()
    pause = threading.Event()
    with begun_service(setup, bundle=str(bundle)) as service:
        popen, was_ready = service.process.popen, False
        while popen.poll() is None and time.monotonic() - begun < GIVE_UP_SECONDS:
            if was_ready := service.is_ready():
                break
            pause.wait(0.02)
        seconds = time.monotonic() - begun
        status = popen.poll()
        if status is None and was_ready:
            with suppress(subprocess.TimeoutExpired):  # else it ends by itself all the same
                status = popen.wait(0.2)
        return End(status, seconds, was_ready, service.process.log.read_text(errors="replace"))


def flips_and_cuts(setup: Setup, source: Path) -> Row:
    """Load the bundle with one bit flipped or the end cut off, at random places and at each file's ends."""
    chance, taken, tried = random.Random(0), [], 0
    broken = copied(source, setup.folder / "flipped" / source.name)
    for name in parts_of(source):
        content = (source / name).read_bytes()
        bits, size = 8 * len(content), len(content)
        share = len(parts_of(source))
        flips = {chance.randrange(bits) for _ in range(setup.times(FLIPS / share))} | set(
            range(bits - 8, bits)
        )
        cuts = {chance.randrange(size) for _ in range(setup.times(CUTS / share))} | {size - 1}
        changed = [(f"bit {bit}", flipped(content, bit)) for bit in sorted(flips)]
        changed += [(f"cut to {length}", content[:length]) for length in sorted(cuts)]
        for what, data in changed:
            (broken / name).write_bytes(data)
            tried += 1
            if is_taken(broken):
                taken.append(f"{name}: {what}")
        (broken / name).write_bytes(content)
    return Row(
        "single bits flipped and ends cut off in a bundle's files",
        tried,
        {},
        {"taken": taken},
        {
            "every one is refused": not taken,
            "the check can fail: the bundle without damage is taken": is_taken(broken),
        },
    )


def is_taken(bundle: Path) -> bool:
    """Whether a bundle and its codec load as the service loads them."""
    try:
        load_bundle(bundle)
        if (bundle / FILE).is_file():
            verified(bundle / FILE)
    except (BundleError, CodecError):
        return False
    return True
