"""Archives: images of any sizes, with their names: a payload for each size. FORMAT.md lays the bytes out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, NonNegativeInt, ValidationError

from codec.model import CodecModel
from codec.payload import (
    ARCHIVE,
    MAGIC,
    VERSION,
    Each,
    PayloadError,
    Reader,
    compress,
    decompress,
    decompress_one,
    parsed,
    varint,
)
from models.config import Strict

MAX_INDEX_BYTES = 1 << 28
Picture = UInt8[np.ndarray, "height width channel"]


@dataclass(frozen=True)
class Archive:
    """Names, in the order of the images, and the payload that each image is in."""

    names: tuple[str, ...]
    places: tuple[int, ...]  # of each image's payload
    payloads: tuple[bytes, ...]


def is_archive(data: bytes) -> bool:
    """Return whether bytes begin as an archive does."""
    return data.startswith(MAGIC + bytes([16 * VERSION + ARCHIVE]))


def pack(
    pictures: Sequence[Picture], names: Sequence[str], model: CodecModel | None, each: Each = map
) -> bytes:
    """Return an archive of pictures, those of one shape in one payload."""
    shapes = list(dict.fromkeys(picture.shape for picture in pictures))
    places = [shapes.index(picture.shape) for picture in pictures]
    payloads = []
    for place in range(len(shapes)):
        alike = np.stack([picture for picture, own in zip(pictures, places, strict=True) if own == place])
        payloads.append(compress(np.ascontiguousarray(alike.transpose(0, 3, 1, 2)), model, each))
    index = zlib.compress(json.dumps({"names": list(names), "payloads": places}).encode(), 9)
    sizes = b"".join(varint(len(payload)) for payload in payloads)
    head = MAGIC + bytes([16 * VERSION + ARCHIVE]) + varint(len(payloads)) + sizes + varint(len(index))
    return head + index + zlib.crc32(head + index).to_bytes(4, "big") + b"".join(payloads)


def opened(data: bytes) -> Archive:
    """Read an archive's index; raise PayloadError for one that is damaged."""
    reader = Reader(data)
    reader.take(len(MAGIC) + 1)
    sizes = [reader.varint() for _ in range(reader.count())]
    index = reader.take(reader.varint())
    checked = data[: reader.place]
    if int.from_bytes(reader.take(4), "big") != zlib.crc32(checked):
        raise PayloadError("the archive's index is damaged: its CRC-32 is another")
    payloads = tuple(reader.take(size) for size in sizes)
    reader.check_end()
    document = _document(index)
    if len(document.names) != len(document.payloads) or max(document.payloads, default=-1) >= len(payloads):
        raise PayloadError(
            f"the archive's index has {len(document.names)} names, {len(document.payloads)} places"
            f" in {len(payloads)} payloads"
        )
    return Archive(document.names, document.payloads, payloads)


def unpack(
    archive: Archive, find: Callable[[bytes], CodecModel | None], each: Each = map
) -> Iterator[tuple[str, Picture]]:
    """Yield every name and picture; raise PayloadError for streams that are damaged."""
    headers = [parsed(payload, find) for payload in archive.payloads]
    for place, header in enumerate(headers):
        if (named := archive.places.count(place)) != header.count:
            raise PayloadError(
                f"the archive names {named} images of payload {place}, which has {header.count}"
            )
    images = [
        iter(decompress(payload, header, each))
        for payload, header in zip(archive.payloads, headers, strict=True)
    ]
    for name, place in zip(archive.names, archive.places, strict=True):
        yield name, np.ascontiguousarray(next(images[place]).transpose(1, 2, 0))


def unpack_one(
    archive: Archive, find: Callable[[bytes], CodecModel | None], index: int
) -> tuple[str, Picture]:
    """Return the name and the picture of image `index`, decoding its chunk alone."""
    if not 0 <= index < len(archive.names):
        raise PayloadError(f"index {index} is outside 0 … {len(archive.names) - 1}")
    place = archive.places[index]
    payload = archive.payloads[place]
    [image] = decompress_one(payload, parsed(payload, find), archive.places[:index].count(place))
    return archive.names[index], np.ascontiguousarray(image.transpose(1, 2, 0))


class _Index(Strict):
    names: tuple[str, ...] = Field(strict=False)
    payloads: tuple[NonNegativeInt, ...] = Field(strict=False)


def _document(index: bytes) -> _Index:
    try:
        return _Index.model_validate_json(_inflated(index))
    except (zlib.error, ValidationError) as error:
        raise PayloadError(f"the archive's index cannot be read: {error}") from error


def _inflated(index: bytes) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(index, MAX_INDEX_BYTES)
    if inflater.unconsumed_tail:
        raise PayloadError(f"the archive's index is longer than {MAX_INDEX_BYTES} bytes")
    return content
