"""Archives: images of any sizes, with their names: a payload for each size. FORMAT.md lays the bytes out."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from pydantic import TypeAdapter, ValidationError

from codec.encoding import LOSSLESS, Manner, MannerError, compress
from codec.model import CodecModel
from codec.payload import (
    ARCHIVE,
    MAGIC,
    MAX_LEVELS,
    VERSION,
    Each,
    Header,
    Images,
    PayloadError,
    Reader,
    decompress,
    decompress_one,
    parsed,
    varint,
)

MAX_INDEX_BYTES = 1 << 28  # inflated
# An index grows by no more when it is inflated: names that differ by a number take some four bytes each.
INDEX_GROWTH, SMALL_INDEX_BYTES = 64, 1 << 16
Picture = UInt8[np.ndarray, "height width channel"]


class ArchiveTooLargeError(PayloadError):
    """An archive with more payloads or names than are wanted."""


@dataclass(frozen=True)
class Archive:
    """Payloads, and the names of each one's images."""

    names: tuple[tuple[str, ...], ...]
    payloads: tuple[bytes, ...]


def is_archive(data: bytes) -> bool:
    """Return whether bytes begin as an archive does."""
    return data.startswith(MAGIC + bytes([16 * VERSION + ARCHIVE]))


def pack(
    pictures: Sequence[Picture],
    names: Sequence[str],
    model: CodecModel | None,
    manner: Manner = LOSSLESS,
    each: Each = map,
) -> bytes:
    """Return an archive of pictures, those of one shape in one payload, or more where they are too many.

    Raises PayloadError for a name that is not text, and as `compress` does.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        alike.setdefault(picture.shape, []).append(number)
    groups = []
    for shape, numbers in alike.items():
        most = max(1, MAX_LEVELS // math.prod(shape))
        groups += [numbers[start : start + most] for start in range(0, len(numbers), most)]
    index = _index([[names[n] for n in group] for group in groups])
    batches = (np.stack([pictures[n] for n in group]).transpose(0, 3, 1, 2) for group in groups)
    if manner.target_bytes is None:
        return _archive([compress(batch, model, manner, each) for batch in batches], index)
    if len(groups) != 1:
        message = f"target_bytes = {manner.target_bytes} needs images of one shape"
        message += f", {MAX_LEVELS} levels at most; these are {len(groups)} payloads"
        raise MannerError(message, len(groups), 1)
    return _archive([_to_size(next(batches), index, model, manner, manner.target_bytes, each)], index)


def _index(names: Sequence[Sequence[str]]) -> bytes:
    """Return the names of each payload as an index that `_names` reads."""
    try:
        content = json.dumps(names, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise PayloadError(f"a file's name is not text: {error.object!r}") from error
    if len(content) >= MAX_INDEX_BYTES:
        raise PayloadError(f"the names have {len(content)} bytes; the limit is {MAX_INDEX_BYTES - 1}")
    index = zlib.compress(content, 9)
    if len(content) < INDEX_GROWTH * len(index) + SMALL_INDEX_BYTES:
        return index
    deflater = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)  # which makes no more than eight of one byte
    return deflater.compress(content) + deflater.flush()


def _to_size(
    images: Images,
    index: bytes,
    model: CodecModel | None,
    manner: Manner,
    target_bytes: int,
    each: Each,
) -> bytes:
    """Return the one payload of an archive of no more than `target_bytes`."""
    others = len(_archive([b""], index)) - 1 + len(varint(target_bytes))
    try:
        return compress(images, model, manner._replace(target_bytes=target_bytes - others), each)
    except MannerError as error:
        message = f"of target_bytes = {target_bytes} the archive's names take {others}: {error}"
        raise MannerError(message, target_bytes, error.limit) from error


def _archive(payloads: Sequence[bytes], index: bytes) -> bytes:
    sizes = b"".join(varint(len(payload)) for payload in payloads)
    head = MAGIC + bytes([16 * VERSION + ARCHIVE]) + varint(len(payloads)) + sizes + varint(len(index))
    return head + index + zlib.crc32(head + index).to_bytes(4, "big") + b"".join(payloads)


def opened(data: bytes, max_payloads: int = MAX_LEVELS, max_index_bytes: int = MAX_INDEX_BYTES) -> Archive:
    """Read an archive's index.

    Raises PayloadError for one that is damaged, ArchiveTooLargeError for more payloads, or a longer index
    when it is inflated, than allowed.
    """
    reader = Reader(data)
    reader.take(len(MAGIC) + 1)
    count = reader.count()
    if count > max_payloads:
        raise ArchiveTooLargeError(f"an archive of {count} payloads; the limit is {max_payloads}")
    sizes = [reader.varint() for _ in range(count)]
    index = reader.take(reader.varint())
    checked = data[: reader.place]
    if int.from_bytes(reader.take(4), "big") != zlib.crc32(checked):
        raise PayloadError("the archive's index is damaged: its CRC-32 is another")
    payloads = tuple(reader.take(size) for size in sizes)
    reader.check_end()
    names = _names(index, max_index_bytes)
    if len(names) != len(payloads):
        raise PayloadError(f"the archive's index is of {len(names)} payloads, there are {len(payloads)}")
    return Archive(names, payloads)


def unpack(
    archive: Archive, find: Callable[[bytes], CodecModel | None], each: Each = map
) -> Iterator[tuple[str, Picture]]:
    """Yield every name and picture, payload by payload; raise PayloadError for streams that are damaged."""
    for names, payload in zip(archive.names, archive.payloads, strict=True):
        header = header_of(payload, names, find)
        for name, image in zip(names, decompress(header, each), strict=True):
            yield name, np.ascontiguousarray(image.transpose(1, 2, 0))


def unpack_one(
    archive: Archive, find: Callable[[bytes], CodecModel | None], index: int
) -> tuple[str, Picture]:
    """Return the name and picture of image `index`, in the order of `unpack`, decoding its chunk alone."""
    place = index
    for names, payload in zip(archive.names, archive.payloads, strict=True):
        if 0 <= place < len(names):
            [image] = decompress_one(header_of(payload, names, find), place)
            return names[place], np.ascontiguousarray(image.transpose(1, 2, 0))
        place -= len(names)
    raise PayloadError(f"index {index} is outside 0 … {sum(map(len, archive.names)) - 1}")


def header_of(payload: bytes, names: tuple[str, ...], find: Callable[[bytes], CodecModel | None]) -> Header:
    """Read the header of one of an archive's payloads; raise PayloadError where it has not its names."""
    header = parsed(payload, find)
    if len(names) != header.count:
        raise PayloadError(f"the archive names {len(names)} images of a payload that has {header.count}")
    return header


def _names(index: bytes, max_bytes: int) -> tuple[tuple[str, ...], ...]:
    limit = min(INDEX_GROWTH * len(index) + SMALL_INDEX_BYTES, max_bytes)
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(index, limit)
        if len(content) == max_bytes:
            raise ArchiveTooLargeError(
                f"the archive's index has {max_bytes} bytes or more; that is the limit"
            )
        if inflater.unconsumed_tail or not inflater.eof:
            raise PayloadError(f"the archive's index is cut off, or longer than {limit} bytes")
        return TypeAdapter(tuple[tuple[str, ...], ...]).validate_json(content)
    except (zlib.error, ValidationError) as error:
        raise PayloadError(f"the archive's index cannot be read: {error}") from error
