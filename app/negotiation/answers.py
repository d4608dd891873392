"""Answers: arrays to bytes in the chosen format, whole or streamed; a stream has the bytes of the whole."""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Protocol
from zipfile import ZipFile, ZipInfo

import numpy as np
import orjson
import safetensors.numpy
from starlette.responses import Response, StreamingResponse

from app.negotiation.arrays import npy_header, safetensors_header
from app.negotiation.media import JSON, Format
from models.images import contact_sheet, encode_png

ENCODED_FORMATS = (Format.json, Format.safetensors, Format.npy)
COMPRESSED_FORMATS = (Format.json, Format.payload)
IMAGE_FORMATS = (Format.json, Format.png, Format.npy, Format.safetensors, Format.zip)

Write = Callable[[Callable[[], bytes], int], Awaitable[bytes]]
_UINT8, _FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)


@dataclass(frozen=True)
class ImageChunk:
    """A part of a stream: uint8 images (N, H, W, C) and, for JSON, the latents (N, D) they came from."""

    images: np.ndarray
    latents: np.ndarray | None = None


def json_answer(document: Mapping[str, Any] | Sequence[Any]) -> Response:
    """Answer a document of plain values and arrays as JSON; NaN becomes null."""
    return Response(_json(document), media_type=JSON)


def encoded_answer(model: str, mu: np.ndarray, logvar: np.ndarray, fmt: Format) -> Response:
    """Answer float32 mu and logvar (N, D) in one of ENCODED_FORMATS."""
    mu, logvar = (np.ascontiguousarray(array, np.float32) for array in (mu, logvar))
    match fmt:
        case Format.json:
            body = _json({"model": model, "mu": mu, "logvar": logvar})
        case Format.safetensors:
            body = safetensors.numpy.save({"mu": mu, "logvar": logvar})
        case _:
            both = np.stack([mu, logvar], axis=1)
            body = npy_header(_FLOAT32, both.shape) + both.tobytes()
    return Response(body, media_type=fmt.media_type)


def compressed_answer(
    model: str | None, payload: bytes, levels: int, fmt: Format, others: Mapping[str, int] | None = None
) -> Response:
    """Answer the payload of images of `levels` bytes, in one of COMPRESSED_FORMATS, with its figures.

    `others` are the bytes of the same images in other formats, by the format's name.
    """
    bits_per_dim = 8 * len(payload) / levels
    headers = {
        "X-Original-Bytes": str(levels),
        "X-Compressed-Bytes": str(len(payload)),
        "X-Bits-Per-Dim": f"{bits_per_dim:.4f}",
        **{f"X-{name.title()}-Bytes": str(size) for name, size in (others or {}).items()},
    }
    if fmt is Format.payload:
        return Response(payload, headers=headers, media_type=fmt.media_type)
    document = {
        "model": model,
        "payload": base64.b64encode(payload).decode(),
        "original_bytes": levels,
        "compressed_bytes": len(payload),
        "bits_per_dim": bits_per_dim,
        **{f"{name}_bytes": size for name, size in (others or {}).items()},
    }
    return Response(_json(document), headers=headers, media_type=fmt.media_type)


def images_answer(model: str | None, images: np.ndarray, fmt: Format) -> Response:
    """Answer uint8 images (N, H, W, C) in one of IMAGE_FORMATS."""
    writer = _writer(model, images.shape, fmt, {})
    body = writer.begin() + writer.add(ImageChunk(images)) + writer.end()
    return Response(body, media_type=fmt.media_type)


async def _in_a_thread(function: Callable[[], bytes], _: int) -> bytes:
    return await asyncio.to_thread(function)


def stream_images(
    model: str,
    count: int,
    shape: tuple[int, int, int],
    chunks: AsyncGenerator[ImageChunk],
    fmt: Format,
    extra: Mapping[str, Any] | None = None,
    write: Write = _in_a_thread,
) -> StreamingResponse:
    """Answer `count` images of shape (H, W, C) chunk by chunk: the bytes of images_answer, in bounded memory.

    `write` is given what writes a chunk or the end, and the bytes of its images. A chunk is asked for once
    the client has taken the one before it, so that a stream waits for one thread at a time, and has no
    deadline but its client's patience.

    JSON ends with the `extra` members and the chunks' `latents`, if they carry any, which are held until
    then; a PNG contact sheet holds its images. npy and safetensors have a Content-Length.
    """
    whole = (count, *shape)
    writer = _writer(model, whole, fmt, extra or {})
    begin = writer.begin()
    headers = {}
    if fmt in (Format.npy, Format.safetensors):
        headers["Content-Length"] = str(len(begin) + math.prod(whole))
    return StreamingResponse(
        _written(begin, writer, count, chunks, write), headers=headers, media_type=fmt.media_type
    )


async def _written(
    begin: bytes, writer: "_Writer", count: int, chunks: AsyncGenerator[ImageChunk], write: Write
) -> AsyncGenerator[bytes]:
    written = 0
    async with aclosing(chunks):
        yield begin
        async for chunk in chunks:
            written += len(chunk.images)
            # PNG compression would hold up every other request on the event loop.
            yield await write(partial(writer.add, chunk), chunk.images.nbytes)
    if written != count:  # an answer that is cut off shows; one that ends well and is short does not
        raise RuntimeError(f"{written} images were streamed; {count} were announced")
    yield await write(writer.end, 0)


class _Writer(Protocol):
    """Bytes of an answer in three acts: begin, add for every chunk, end."""

    def begin(self) -> bytes: ...
    def add(self, chunk: ImageChunk) -> bytes: ...
    def end(self) -> bytes: ...


def _writer(model: str | None, shape: tuple[int, ...], fmt: Format, extra: Mapping[str, Any]) -> _Writer:
    match fmt:
        case Format.json:
            return _JsonWriter(model, extra)
        case Format.png:
            return _SheetWriter()
        case Format.npy:
            return _RawWriter(npy_header(_UINT8, shape))
        case Format.safetensors:
            return _RawWriter(safetensors_header("images", _UINT8, shape))
        case _:
            return _ZipWriter()


class _JsonWriter:
    def __init__(self, model: str | None, extra: Mapping[str, Any]):
        self._model = model
        self._extra = extra
        self._separator = b""
        self._latents: list[np.ndarray] = []

    def begin(self) -> bytes:
        return b'{"model":' + orjson.dumps(self._model) + b',"images":['

    def add(self, chunk: ImageChunk) -> bytes:
        if chunk.latents is not None:
            self._latents.append(chunk.latents)
        parts = []
        for image in chunk.images:
            parts.append(self._separator + b'"' + base64.b64encode(encode_png(image)) + b'"')
            self._separator = b","
        return b"".join(parts)

    def end(self) -> bytes:
        latents = {"latents": np.concatenate(self._latents)} if self._latents else {}
        members = _json({**self._extra, **latents})[1:]
        return b"]" + (b"," if len(members) > 1 else b"") + members


class _SheetWriter:
    def __init__(self) -> None:
        self._images: list[np.ndarray] = []

    def begin(self) -> bytes:
        return b""

    def add(self, chunk: ImageChunk) -> bytes:
        self._images.append(chunk.images)
        return b""

    def end(self) -> bytes:
        return encode_png(contact_sheet(np.concatenate(self._images)))


class _RawWriter:
    def __init__(self, header: bytes):
        self._header = header

    def begin(self) -> bytes:
        return self._header

    def add(self, chunk: ImageChunk) -> bytes:
        return chunk.images.tobytes()

    def end(self) -> bytes:
        return b""


class _ZipWriter:
    def __init__(self) -> None:
        self._file = _Passed()
        self._zip = ZipFile(self._file, "w")
        self._count = 0

    def begin(self) -> bytes:
        return b""

    def add(self, chunk: ImageChunk) -> bytes:
        for image in chunk.images:
            entry = ZipInfo(f"{self._count:06d}.png")  # dated 1980: the same request gives the same bytes
            entry.create_system = 3
            self._zip.writestr(entry, encode_png(image))
            self._count += 1
        return self._file.take()

    def end(self) -> bytes:
        self._zip.close()
        return self._file.take()


class _Passed(BytesIO):
    """A file whose written bytes are taken away while positions go on.

    ZipFile may then seek back within the entry it writes and leave plain headers, which every reader of a
    stream understands, unlike the data descriptors it writes to a file that cannot seek.
    """

    _taken = 0

    def take(self) -> bytes:
        data = self.getvalue()
        self._taken += len(data)
        super().seek(0)
        self.truncate()
        return data

    def tell(self) -> int:
        return self._taken + super().tell()

    def seek(self, position: int, whence: int = 0) -> int:
        return super().seek(position - self._taken, whence) + self._taken


def _json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return orjson.dumps(document, default=np.ascontiguousarray, option=orjson.OPT_SERIALIZE_NUMPY)
