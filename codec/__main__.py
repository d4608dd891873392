"""`python -m codec`: compress 8-bit images into one file, and back: exactly, or with some loss."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from codec import archive
from codec.chunk import verified
from codec.classical import MAX_SIDE
from codec.encoding import KINDS, Manner, compress
from codec.model import DIGEST_BYTES, FILE, CodecError, CodecModel
from codec.payload import Each, PayloadError, decompress, decompress_one, parsed
from codec.workers import workers
from models.bundle import SHIPPED, bundle_path
from models.images import ImageError, decode_image, encode_png
from models.leaving import leave_on_sigterm

DEFAULT_MODEL = "fashion-mnist"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
FAULTS = (CodecError, PayloadError, ImageError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status: 0, or 1 after a fault said on standard error."""
    options = command_line().parse_args(arguments)
    try:
        with workers(options.threads) as executor:
            COMMANDS[options.command](options, _with_progress(executor, options.command))
    except FAULTS as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


def _compress(options: argparse.Namespace, each: Each) -> None:
    model = None if options.model == "none" else verified(bundle_path(options.model) / FILE)
    manner = Manner(options.effort, options.max_error, options.quality, options.target_bytes, options.search)
    if len(options.files) == 1 and options.files[0].suffix == ".npy":
        data = compress(_read_array(options.files[0]), model, manner, each)
    else:
        found = list(_found(options.files))
        _check_names([name for name, _ in found])
        with tqdm(found, desc="read", unit="image") as bar:
            pictures = [_read_picture(path) for _, path in bar]
        data = archive.pack(pictures, [name for name, _ in found], model, manner, each)
    _write(options.to, data)
    print(f"{options.to}: {len(data)} bytes")


def _decompress(options: argparse.Namespace, each: Each) -> None:
    data, find = options.file.read_bytes(), _finder(options.model)
    if archive.is_archive(data):
        opened = archive.opened(data)
        _check_names([name for names in opened.names for name in names])
        one = options.index is not None
        found = (
            [archive.unpack_one(opened, find, options.index)] if one else archive.unpack(opened, find, each)
        )
        for name, picture in found:
            _write_new(options.to / _written_as(name), picture)
        return
    header = parsed(data, find)
    images = decompress(header, each) if options.index is None else decompress_one(header, options.index)
    _write_images(options.to, images)


def _write_images(path: Path, images: np.ndarray) -> None:
    """Write images (N,C,H,W) as one array, one PNG file, or a folder of numbered PNG files."""
    pictures = images.transpose(0, 2, 3, 1)
    if path.suffix == ".npy":
        buffer = BytesIO()
        np.save(buffer, images, allow_pickle=False)
        _write(path, buffer.getvalue())
    elif path.suffix == ".png":
        if len(images) != 1:
            raise PayloadError(f"{len(images)} images; {path} can be one, or name a folder or a .npy file")
        _write(path, encode_png(pictures[0]))
    else:
        for number, picture in enumerate(pictures):
            _write_new(path / f"{number:06d}.png", picture)


def _write_new(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, encode_png(picture), _put_new)


def _put_new(draft: Path, place: Path) -> None:
    """Give a draft its place, where there is nothing yet."""
    try:
        os.link(draft, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        place.touch(exist_ok=False)
        draft.replace(place)


def _write(path: Path, data: bytes, put: Callable[[Path, Path], object] = Path.replace) -> None:
    """Write a file whole or not at all: where the disk is full, what was there before is there still."""
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(data)
        return
    place = path.resolve()
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        put(draft, place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # writing itself names no file
    finally:
        draft.unlink(missing_ok=True)


def _info(options: argparse.Namespace, each: Each) -> None:
    data, find = options.file.read_bytes(), _finder(options.model)
    payloads: tuple[bytes, ...] = (data,)
    if archive.is_archive(data):
        opened = archive.opened(data)
        payloads = opened.payloads
        images = sum(map(len, opened.names))
        print(f"archive of {images} images in {len(payloads)} payload(s), {len(data)} bytes")
    for payload in payloads:
        header = parsed(payload, find)
        levels = header.count * math.prod(header.shape)
        print(
            f"{header.kind.name.lower()}: {header.count} images of {'×'.join(map(str, header.shape))},"
            f" {len(header.chunks)} chunk(s), {len(payload)} bytes, {8 * len(payload) / levels:.4f} bits/dim"
        )


COMMANDS: dict[str, Callable[[argparse.Namespace, Each], None]] = {
    "compress": _compress,
    "decompress": _decompress,
    "info": _info,
}


def _with_progress(executor: ThreadPoolExecutor, what: str) -> Each:
    def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        items = list(items)
        return tqdm(executor.map(function, items), total=len(items), desc=what, unit="chunk")

    return each


def _found(paths: Sequence[Path]) -> Iterable[tuple[str, Path]]:
    """Yield every image file's name in the archive and its path: folders are searched.

    The names are relative to the one folder that is given, or keep the folders' names where there are more.
    """
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ImageError(f"{path}: no {', '.join(sorted(SUFFIXES))} files in this folder")
            root = path if len(paths) == 1 else path.parent
            yield from ((p.relative_to(root).as_posix(), p) for p in inside)
        else:
            yield path.name, path


def _check_names(names: Sequence[str]) -> None:
    """Raise PayloadError where two pictures would be one file, or one would lie outside its folder."""
    written: dict[str, str] = {}
    for name in names:
        path = _written_as(name)
        if path.is_absolute() or path.drive or ".." in path.parts or "\0" in name:
            raise PayloadError(f"a picture's name leads outside the folder: {name!r}")
        place = str(path).casefold()  # as some file systems see it
        if place in written:
            raise PayloadError(f"two pictures would be written as {path}: {written[place]!r} and {name!r}")
        written[place] = name


def _written_as(name: str) -> Path:
    """Return the path of a picture: a PNG file, whatever it was before."""
    return Path(name if name.lower().endswith(".png") else f"{name}.png")


def _read_picture(path: Path) -> np.ndarray:
    try:
        picture = decode_image(path.read_bytes(), MAX_SIDE**2, keep_alpha=True)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    if max(picture.shape) > MAX_SIDE:
        raise ImageError(f"{path}: a side of {max(picture.shape)}; the limit is {MAX_SIDE}")
    return picture


def _read_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            images = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged file raises almost anything
        raise ImageError(f"{path}: cannot be read: {error}") from error
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else "several arrays"
        raise ImageError(f"{path}: {found}, expected uint8 (images, channels, height, width)")
    return images


def _finder(name: str) -> Callable[[bytes], CodecModel | None]:
    """Return what finds a codec by its digest's first bytes: the named bundle's, or any shipped one's."""
    if name:
        paths = [bundle_path(name) / FILE]
    else:
        paths = [path for path in sorted(SHIPPED.glob(f"*/{FILE}")) if path.is_file()]
    prefixes = {hashlib.sha256(path.read_bytes()).digest()[:DIGEST_BYTES]: path for path in paths}

    @cache
    def find(prefix: bytes) -> CodecModel | None:
        return verified(prefixes[prefix]) if prefix in prefixes else None

    return find


def _threads(text: str) -> int:
    if (threads := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{threads} is less than 1")
    return threads


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m codec", description=__doc__)
    parser.add_argument("--threads", type=_threads, default=os.cpu_count(), help="all processors by default")
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("compress", help="image files, folders, or one .npy array to one file")
    pack.add_argument("files", nargs="+", type=Path, metavar="FILE")
    pack.add_argument("--to", type=Path, required=True, help="file to write")
    pack.add_argument(
        "--model", default=DEFAULT_MODEL, help="a shipped bundle's id, a bundle's folder, or none"
    )
    pack.add_argument("--effort", choices=KINDS, default="best", help="fast: less small")
    pack.add_argument(
        "--max-error", type=int, default=0, help="by how much a level may differ, 0 … 127; none by default"
    )
    pack.add_argument(
        "--search", action="store_true", help="latents that suit each image: a hundredth smaller, slow"
    )
    pack.add_argument("--quality", type=int, help="lossy: 1 … 99, more bytes and less error the higher")
    pack.add_argument(
        "--target-bytes", type=int, help="lossy: the least error in so many bytes, the file's, of one shape"
    )
    for name, text in (("decompress", "write the images back"), ("info", "say what a file holds")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument(
            "--model", default="", help="look for this bundle's codec instead of the shipped ones'"
        )
    unpack = commands.choices["decompress"]
    unpack.add_argument(
        "--to",
        type=Path,
        required=True,
        help="a folder; of a payload also a .npy file, or a .png file for one image",
    )
    unpack.add_argument("--index", type=int, help="number of the one image to write, from 0")
    return parser


if __name__ == "__main__":
    leave_on_sigterm()
    sys.exit(main())
