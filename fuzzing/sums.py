"""Checksums and lengths put right in what a mutation broke, so that it gets further than their check."""

from __future__ import annotations

import json
import re
import struct
import zlib

from app.inference.calls import CALLS
from codec.archive import is_archive
from codec.payload import MAGIC, PayloadError, Reader

_PNG = b"\x89PNG\r\n\x1a\n"
_GZIP_HEAD_BYTES, _ZLIB_HEAD_BYTES = 10, 2


def mended_image(data: bytes) -> bytes:
    """Put right the CRC of each of a PNG's chunks, and the lengths of a WebP's file and first chunk."""
    if data.startswith(b"RIFF") and len(data) >= 20:
        size, first = struct.pack("<I", len(data) - 8), data[16:20]
        is_simple = data[12:16] in (b"VP8 ", b"VP8L")
        return (
            data[:4]
            + size
            + data[8:16]
            + (struct.pack("<I", len(data) - 20) if is_simple else first)
            + data[20:]
        )
    if not data.startswith(_PNG):
        return data
    mended, place = bytearray(data), len(_PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


def mended_npy(data: bytes) -> bytes:
    """Put right the length of a version 1 header, which ends with its line."""
    end = data.find(b"\n", 10) + 1
    is_first = data[6:7] == b"\1" and 10 < end < 1 << 16
    return data[:8] + struct.pack("<H", end - 10) + data[10:] if is_first else data


def mended_safetensors(data: bytes) -> bytes:
    """Put right the length of the header, which may end with spaces."""
    size = _json_bytes(data[8:])
    size += len(data[8 + size :]) - len(data[8 + size :].lstrip(b" "))
    return struct.pack("<Q", size) + data[8:] if size else data


def mended_archive(data: bytes) -> bytes:
    """Put right the CRC of an archive's index."""
    if not is_archive(data):
        return data
    reader = Reader(data)
    try:
        reader.take(len(MAGIC) + 1)
        for _ in range(reader.count()):
            reader.varint()
        reader.take(reader.varint())
    except PayloadError:
        return data
    checked, rest = data[: reader.place], data[reader.place + 4 :]
    return checked + zlib.crc32(checked).to_bytes(4, "big") + rest


def mended_inference(data: bytes) -> bytes:
    """Put right the model's name, and the header length where raw tensors follow."""
    head, newline, body = data.partition(b"\n")
    if not newline:
        return data
    name, _, length = head.partition(b" ")
    operation = name.rpartition(b".")[2].decode("latin-1")
    if operation not in CALLS:
        name = list(CALLS)[len(name) % len(CALLS)].encode()
    size = _json_bytes(body)
    if size and size != len(body):
        length = b"%d" % size
    return name + b" " * bool(length) + length + newline + body


def mended_http(data: bytes) -> bytes:
    """Put right the Content-Length of a connection's only request."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = b"\\g<1>%d" % len(body)
    return re.sub(rb"(?i)(\r\ncontent-length: )\d*", length, head, count=1) + end + body


def mended_coding(data: bytes) -> bytes:
    """Put right the sums at the end of what was deflated, and cut off what follows."""
    is_gzip = data.startswith(b"\x1f\x8b")
    head = _GZIP_HEAD_BYTES if is_gzip else _ZLIB_HEAD_BYTES
    inflating = zlib.decompressobj(-15)
    try:
        whole = inflating.decompress(data[head:], 1 << 20)
    except zlib.error:
        return data
    if not inflating.eof:
        return data
    deflated = data[: len(data) - len(inflating.unused_data)]
    if is_gzip:
        return deflated + struct.pack("<II", zlib.crc32(whole), len(whole))
    return deflated + zlib.adler32(whole).to_bytes(4, "big")


def _json_bytes(data: bytes) -> int:
    """Return the length of the JSON document that bytes begin with; 0 where they begin with none."""
    try:
        return int(json.JSONDecoder().raw_decode(data.decode("latin-1"))[1])
    except (ValueError, RecursionError):
        return 0
