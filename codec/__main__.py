"""`python -m codec`: compress images into one file and back, offline, as /compress and /decompress do."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from codec import archive
from codec.chunk import verified
from codec.classical import MAX_SIDE
from codec.model import FILE, CodecError, CodecModel
from codec.payload import PayloadError, compress, decompress, decompress_one, parsed
from models.bundle import SHIPPED, bundle_path
from models.images import ImageError, decode_image, encode_png

DEFAULT_MODEL = "fashion-mnist"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
FAULTS = (CodecError, PayloadError, ImageError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status: 0, or 1 after a fault said on standard error."""
    options = command_line().parse_args(arguments)
    try:
        torch.set_num_threads(1)  # chunks go side by side instead
        with ThreadPoolExecutor(options.threads) as executor:
            COMMANDS[options.command](options, _with_progress(executor, options.command))
    except FAULTS as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


def _compress(options: argparse.Namespace, each: Any) -> None:
    model = None if options.model == "none" else verified(bundle_path(options.model) / FILE)
    if len(options.files) == 1 and options.files[0].suffix == ".npy":
        data = compress(_read_array(options.files[0]), model, each)
    else:
        names, paths = zip(*_found(options.files), strict=True)
        with tqdm(paths, desc="read", unit="image") as bar:
            pictures = [_read_picture(path) for path in bar]
        data = archive.pack(pictures, names, model, each)
    options.to.write_bytes(data)
    print(f"{options.to}: {len(data)} bytes")


def _decompress(options: argparse.Namespace, each: Any) -> None:
    data = options.file.read_bytes()
    find = _finder(options.model)
    if archive.is_archive(data):
        opened = archive.opened(data)
        everything = options.index is None
        for name, picture in (
            archive.unpack(opened, find, each)
            if everything
            else [archive.unpack_one(opened, find, options.index)]
        ):
            path = options.to / _safe(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(picture))
        return
    header = parsed(data, find)
    if options.index is None:
        images = decompress(data, header, each)
    else:
        images = decompress_one(data, header, options.index)
    with options.to.open("wb") as file:
        np.save(file, images, allow_pickle=False)


def _info(options: argparse.Namespace, each: Any) -> None:
    data = options.file.read_bytes()
    payloads: tuple[bytes, ...] = (data,)
    if archive.is_archive(data):
        index = archive.opened(data)
        payloads = index.payloads
        print(f"archive of {len(index.names)} images in {len(payloads)} payload(s), {len(data)} bytes")
    for payload in payloads:
        header = parsed(payload, _finder(options.model))
        levels = header.count * int(np.prod(header.shape))
        print(
            f"{header.kind.name.lower()}: {header.count} images of {'×'.join(map(str, header.shape))},"
            f" {len(header.chunks)} chunk(s), {len(payload)} bytes, {8 * len(payload) / levels:.4f} bits/dim"
        )


COMMANDS: dict[str, Callable[[argparse.Namespace, Any], None]] = {
    "compress": _compress,
    "decompress": _decompress,
    "info": _info,
}


def _with_progress(executor: ThreadPoolExecutor, what: str) -> Any:
    def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        items = list(items)
        return tqdm(executor.map(function, items), total=len(items), desc=what, unit="chunk")

    return each


def _found(paths: Sequence[Path]) -> Iterable[tuple[str, Path]]:
    """Yield every image file's name in the archive and its path: folders are searched."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ImageError(f"{path}: no {', '.join(sorted(SUFFIXES))} files in this folder")
            yield from ((str(p.relative_to(path)), p) for p in inside)
        else:
            yield path.name, path


def _read_picture(path: Path) -> np.ndarray:
    try:
        return decode_image(path.read_bytes(), MAX_SIDE**2, keep_alpha=True)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _read_array(path: Path) -> np.ndarray:
    try:
        images = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise ImageError(
            f"{path}: {images.dtype} {images.shape}, expected uint8 (images, channels, height, width)"
        )
    return images


def _safe(name: str) -> Path:
    """Return the relative path of a picture, a PNG file whatever it was before."""
    path = Path(name if name.lower().endswith(".png") else f"{name}.png")
    if path.is_absolute() or ".." in path.parts:
        raise PayloadError(f"the archive names a file outside the folder: {name!r}")
    return path


def _finder(name: str) -> Callable[[bytes], CodecModel | None]:
    paths = [path / FILE for path in ([bundle_path(name)] if name else sorted(SHIPPED.iterdir()))]
    models = [verified(path) for path in paths if path.is_file()]
    return lambda prefix: next((model for model in models if model.prefix == prefix), None)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m codec", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all processors by default")
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("compress", help="image files, folders, or one .npy array to one file")
    pack.add_argument("files", nargs="+", type=Path, metavar="FILE")
    pack.add_argument("--to", type=Path, required=True, help="file to write")
    pack.add_argument(
        "--model", default=DEFAULT_MODEL, help="a shipped bundle's id, a bundle's folder, or none"
    )
    for name, text in (("decompress", "write the images back"), ("info", "say what a file holds")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument(
            "--model", default="", help="look for this bundle's codec instead of the shipped ones'"
        )
    unpack = commands.choices["decompress"]
    unpack.add_argument("--to", type=Path, required=True, help="folder of an archive's images; or .npy file")
    unpack.add_argument("--index", type=int, help="number of the one image to write, from 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
