"""Bombs: small bodies that stand for huge ones, refused before they are unfolded."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import safetensors.numpy
from PIL import Image

from app.negotiation import MAX_JSON_VALUES, values_of_rows
from app.negotiation.requests import MORE_JSON_VALUES
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.service import Service, forget_most, ready_service, status_bytes
from benchmarks.serving.golden import golden_images
from benchmarks.serving.workloads import npy_bytes
from codec.chunk import verified
from codec.encoding import compress
from codec.model import FILE
from codec.payload import ARCHIVE, CLASSICAL_VERSION, MAGIC, VERSION, Kind
from models.bundle import Bundle, bundle_path, load_bundle
from models.images import encode_png

SECONDS, EXTRA_BYTES = 0.1, 50_000_000
REPEATS = 5
NPY, PAYLOAD, JSON = "application/x-npy", "application/vnd.vaeserve.payload", "application/json"
SAFETENSORS = "application/x-safetensors"
INFER, COMPRESS = "/v2/models/encode/infer", "/v2/models/compress/infer"
BODY_BYTES, IMAGES = 32 << 20, 4096  # the service's limits


@dataclass(frozen=True)
class Bomb:
    """A request that is to be refused."""

    name: str
    path: str
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def bombs(prefix: bytes) -> Iterator[Bomb]:
    """Yield every bomb; payloads name the codec of a digest's first bytes."""
    for name, width, height in (("huge", 60_000, 60_000), ("a long line", 1_000_000, 16)):
        yield Bomb(f"PNG, {name}", "/encode", "image/png", declared_png(width, height))
        yield Bomb(
            f"PNG, {name}, to be resized", "/encode?fit=resize", "image/png", declared_png(width, height)
        )
    yield Bomb("PNG of the most pixels that are allowed", "/encode", "image/png", plain_png(4096, 4096))
    yield Bomb("PNG whose text inflates", "/encode", "image/png", png_with_text(64 << 20))
    yield Bomb("JPEG, huge", "/encode", "image/jpeg", declared_jpeg(65_000, 65_000))
    yield Bomb("JPEG of many scans", "/encode?fit=resize", "image/jpeg", scanned_jpeg(4096, 4096))
    few = scanned_jpeg(4096, 4096, 64 - 5)  # beside the first of each kind
    yield Bomb("JPEG of 64 scans", "/encode?fit=resize", "image/jpeg", few)
    yield Bomb("WebP, huge", "/encode", "image/webp", declared_webp(16_000, 16_000))
    yield Bomb("animated PNG of many frames", "/encode", "image/png", animation("PNG", 500))
    yield Bomb("animated WebP of many frames", "/encode", "image/webp", animation("WEBP", 500))
    yield from of_many_images()
    yield from of_many_values()
    for coding, content_type, content in (
        ("zeros", "image/png", bytes(1 << 30)),
        ("zeros behind an .npy header", NPY, declared_npy("(1, 28, 28)") + bytes(1 << 30)),
        ("commas", JSON, b'{"images": [' + b"1," * (BODY_BYTES // 2 - 8) + b"1]}"),
        ("brackets", JSON, b'{"images": ' + b"[" * (BODY_BYTES - 100)),
    ):
        coded = gzip.compress(content, 9, mtime=0)
        headers = {"Content-Encoding": "gzip"}
        yield Bomb(f"gzip of {coding}", "/encode", content_type, coded, headers)
        headers = {"Content-Encoding": "deflate"}
        yield Bomb(f"deflate of {coding}", "/encode", content_type, zlib.compress(content, 9), headers)
    for said in (0, 1):
        forged = gzip.compress(bytes(1 << 30), 9, mtime=0)[:-4] + said.to_bytes(4, "little")
        headers = {"Content-Encoding": "gzip"}
        yield Bomb(f"gzip of zeros that says {said} bytes", "/encode", "image/png", forged, headers)
    for shape in ("(1000000000000, 28, 28)", "(1, 1099511627776, 1099511627776)", "(" + "1, " * 30 + ")"):
        yield Bomb(f"npy of shape {shape[:30]}", "/encode", NPY, declared_npy(shape))
    yield Bomb("safetensors of huge shape", "/encode", SAFETENSORS, declared_safetensors())
    yield Bomb("safetensors of a huge head", "/encode", SAFETENSORS, b"\xff" * 7 + b"\x7f{}")
    yield from of_other_routes()
    kinds = [(VERSION, kind) for kind in (*Kind, ARCHIVE, max(Kind) + 1)]  # the last is unknown
    for version, kind in (*kinds, (CLASSICAL_VERSION, Kind.CLASSICAL)):
        start = MAGIC + bytes([16 * version + kind])
        for size, counts in (("huge", b"\xff" * 8 + b"\x7f" * 40), ("large", b"\xff\xff\xff\xff\x0f" * 8)):
            for place, named in (("no", b""), ("the", prefix)):
                name = f"payload of version {version}, kind {kind:d}, {size} counts and {place} model"
                yield Bomb(name, "/decompress", PAYLOAD, start + named + counts)


def of_many_images() -> Iterator[Bomb]:
    """Yield many images of the most pixels that are allowed, which some routes take one by one."""
    many = [base64.b64encode(plain_png(4096, 4096)).decode()] * 50
    images = json.dumps({"images": many}).encode()
    for path in ("/encode", "/encode?fit=resize", "/compress"):
        yield Bomb(f"JSON of many large PNGs to {path}", path, JSON, images)
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(many)], "data": many}
    for path, parameters in ((INFER, {"fit": "resize"}), (COMPRESS, {})):
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        yield Bomb(f"tensor of many large PNGs to {path}", path, JSON, body)


def of_many_values() -> Iterator[Bomb]:
    """Yield JSON of almost as many values as any may have, and of almost as many as are parsed."""
    texts = IMAGES + MORE_JSON_VALUES - 20
    kinds = {
        "objects": (b'{"a":1}', MAX_JSON_VALUES // 2, texts // 2),
        "texts": (b'"ab"', MAX_JSON_VALUES, texts),
        "floats": (b"1.5", MAX_JSON_VALUES, values_of_rows(IMAGES, 64) - 20),
    }
    forms = {
        "/encode": b'{"images": [%s]}',
        "/compress": b'{"images": [%s]}',
        "/decode": b'{"latents": [%s]}',
    }
    tensor = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [%s]}]}'
    for name, (value, most, parsed) in kinds.items():
        for path, form in {**forms, INFER: tensor}.items():
            if (path, name) == (INFER, "floats"):  # which a tensor may have as many of
                continue
            for count in (most - 20, parsed):
                body = gzip.compress(form % b",".join([value] * count), 9, mtime=0)
                yield Bomb(
                    f"gzip of {count} {name} to {path}", path, JSON, body, {"Content-Encoding": "gzip"}
                )


def of_other_routes() -> Iterator[Bomb]:
    """Yield bombs for the routes that are not asked otherwise."""
    huge = "(1000000000000, 64)"
    numbers = b"1," * (BODY_BYTES // 2 - 16) + b"1]}"
    yield Bomb("PNG, huge, to be compressed", "/compress", "image/png", declared_png(60_000, 60_000))
    yield Bomb("WebP, huge, to be compressed", "/compress", "image/webp", declared_webp(16_000, 16_000))
    yield Bomb("npy, huge, to be compressed", "/compress", NPY, declared_npy("(1000000000000, 28, 28)"))
    yield Bomb("npy of huge latents", "/decode", NPY, declared_npy(huge, "<f4"))
    yield Bomb("safetensors of huge latents", "/decode", SAFETENSORS, declared_safetensors("z", "F32"))
    packed = {"Content-Encoding": "gzip"}
    for name, content in (
        ("commas", b'{"latents": [' + numbers),
        ("brackets", b'{"latents": ' + b"[" * (BODY_BYTES - 100)),
    ):
        yield Bomb(f"gzip of {name} as latents", "/decode", JSON, gzip.compress(content, 9, mtime=0), packed)
    for name, shape, data in (
        ("of huge shape", [1 << 40, 28, 28, 1], b"[1]"),
        ("of commas", [1, 28, 28, 1], b"[" + b"1," * (BODY_BYTES // 2 - 128) + b"1]"),
    ):
        tensor = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": %s, "data": %s}]}'
        body = gzip.compress(tensor % (json.dumps(shape).encode(), data), 9, mtime=0)
        yield Bomb(f"gzip of a tensor {name}", INFER, JSON, body, packed)


def small_bodies(bundle: Bundle) -> Iterator[Bomb]:
    """Yield small requests that are taken, of every type and route that a bomb has, coded in each way."""
    images, latents = golden_images(bundle)[:1], np.zeros((1, len(bundle.latents.mean)), np.float32)
    arrays = {
        ("/encode", "images"): images,
        ("/compress", "images"): images,
        ("/decode", "latents"): latents,
    }
    for (path, name), array in arrays.items():
        tensor = safetensors.numpy.save({"z" if name == "latents" else name: array})
        yield Bomb("npy", path, NPY, npy_bytes(array))
        yield Bomb("safetensors", path, SAFETENSORS, tensor)
        rows = array.tolist() if name == "latents" else [base64.b64encode(encode_png(array[0])).decode()]
        body = json.dumps({name: rows}).encode()
        yield Bomb("JSON", path, JSON, body)
        yield Bomb("JSON", path, JSON, gzip.compress(body, mtime=0), {"Content-Encoding": "gzip"})
        yield Bomb("JSON", path, JSON, zlib.compress(body), {"Content-Encoding": "deflate"})
    for path in ("/encode", "/encode?fit=resize", "/compress"):
        for kind in ("png", "jpeg", "webp"):
            buffer = BytesIO()
            Image.fromarray(images[0].squeeze()).save(buffer, kind.upper())
            yield Bomb(kind, path, f"image/{kind}", buffer.getvalue())
    png = base64.b64encode(encode_png(images[0])).decode()
    yield Bomb("JSON", "/encode?fit=resize", JSON, json.dumps({"images": [png]}).encode())
    given = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [png]}
    for path in (INFER, COMPRESS):
        yield Bomb("tensor of a PNG", path, JSON, json.dumps({"inputs": [given]}).encode())
    given = {"name": "images", "datatype": "UINT8", "shape": images.shape, "data": images.ravel().tolist()}
    body = json.dumps({"inputs": [given]}).encode()
    yield Bomb("tensor", INFER, JSON, gzip.compress(body, mtime=0), {"Content-Encoding": "gzip"})
    for content_type, content in ((NPY, npy_bytes(images)), ("image/png", encode_png(images[0]))):
        for coding, coded in (("gzip", gzip.compress(content, mtime=0)), ("deflate", zlib.compress(content))):
            headers = {"Content-Encoding": coding}
            yield Bomb(f"{content_type}, coded", "/encode", content_type, coded, headers)
    model = verified(bundle.path / FILE)
    yield Bomb("payload", "/decompress", PAYLOAD, compress(images.transpose(0, 3, 1, 2), model))


def run(setup: Setup) -> list[Row]:
    """Send each bomb some times, and look at the answer, the time and the most memory that was held."""
    bundle = load_bundle(bundle_path(setup.bundle))
    made = list(bombs(verified(bundle.path / FILE).prefix))
    with ready_service(setup, {"VAE_THREADS": "1"}) as service:
        # First, so that no bomb pays for warming a route.
        taken = small_ones(service, list(small_bodies(bundle)), made)
        rows = [thrown(setup, service, bomb) for bomb in made]
        is_ready = service.is_ready()
    rows.append(taken)
    rows.append(Row("after all bombs", len(made), {}, {}, {"ready": is_ready}))
    return rows


def small_ones(service: Service, small: Sequence[Bomb], made: Sequence[Bomb]) -> Row:
    """Send what is small and valid: it is taken, so that a bomb is refused for what it is."""
    not_taken = []
    for each in small:
        headers = {"Content-Type": each.content_type, **each.headers}
        answer = service.ask("POST", each.path, each.body, headers)
        if answer.status != 200:
            not_taken.append(f"{each.name} to {each.path}: {answer.status} {answer.body[:200]!r}")
    without = {likeness(bomb) for bomb in made} - {likeness(each) for each in small}
    return Row(
        "small bodies of every bomb's type",
        len(small),
        {},
        {"not_taken": not_taken, "bombs_without": sorted(map(str, without))},
        {"each is taken": not not_taken, "every bomb has one": not without},
    )


def likeness(bomb: Bomb) -> tuple[str, ...]:
    """Return what a bomb and a small body have in common: route, type and coding."""
    return bomb.path, bomb.content_type, bomb.headers.get("Content-Encoding", "")


def thrown(setup: Setup, service: Service, bomb: Bomb) -> Row:
    """Send a bomb some times; keep the worst."""
    pid, slowest, extra, statuses = service.process.popen.pid, 0.0, 0, set()
    times = setup.times(REPEATS)
    for _ in range(times):
        threading.Event().wait(0.02)  # for what the last one left to be let go
        forget_most(pid)
        before = status_bytes(pid, "VmRSS")
        answer = service.ask(
            "POST", bomb.path, bomb.body, {"Content-Type": bomb.content_type, **bomb.headers}
        )
        statuses.add(answer.status)
        slowest = max(slowest, answer.seconds)
        extra = max(extra, status_bytes(pid, "VmHWM") - before)
    figures = {
        "body_bytes": len(bomb.body),
        "statuses": sorted(statuses),
        "worst_seconds": round(slowest, 4),
        "extra_bytes": extra,
    }
    return Row(
        f"bomb: {bomb.name}",
        times,
        {},
        figures,
        {
            "refused": all(400 <= status < 500 for status in statuses),
            f"within {SECONDS:g} s": slowest < SECONDS,
            f"with less than {EXTRA_BYTES // 10**6} MB more": extra < EXTRA_BYTES,
        },
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def declared_png(width: int, height: int) -> bytes:
    """Return a PNG that declares a size, with a little of its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def plain_png(width: int, height: int) -> bytes:
    """Return a whole PNG of one colour, with alpha."""
    buffer = BytesIO()
    Image.new("RGBA", (width, height), (1, 2, 3, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def png_with_text(size: int) -> bytes:
    """Return a small PNG with compressed text of so many bytes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(28 * 29)))
    return b"\x89PNG\r\n\x1a\n" + head + text + pixels + chunk(b"IEND", b"")


def declared_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG that declares a size: that of a small one is overwritten."""
    buffer = BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def scanned_jpeg(width: int, height: int, times: int | None = None) -> bytes:
    """Return a progressive JPEG whose last scan, over all pixels, comes so often, or as a body has room."""
    buffer = BytesIO()
    Image.new("L", (width, height)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    head, scan, end = whole[:last], whole[last:-2], whole[-2:]
    return head + scan * (times or (BODY_BYTES - len(head) - len(end)) // len(scan)) + end


def declared_webp(width: int, height: int) -> bytes:
    """Return a lossless WebP that declares a size."""
    bits = (width - 1) | (height - 1) << 14
    stream = b"\x2f" + struct.pack("<I", bits) + bytes(64)
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream + bytes(len(stream) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(kind: str, frames: int) -> bytes:
    """Return an animation of many frames that differ."""
    buffer = BytesIO()
    images = [Image.fromarray(np.full((64, 64), n % 256, np.uint8)) for n in range(frames)]
    images[0].save(buffer, kind, save_all=True, append_images=images[1:])
    return buffer.getvalue()


def declared_npy(shape: str, dtype: str = "|u1") -> bytes:
    """Return an .npy file whose head declares a shape, and a few bytes."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)


def declared_safetensors(name: str = "images", dtype: str = "U8") -> bytes:
    """Return a safetensors file whose tensor is declared to be huge."""
    tensor = {"dtype": dtype, "shape": [1 << 40, 28, 28], "data_offsets": [0, 784 << 40]}
    head = json.dumps({name: tensor}).encode()
    return struct.pack("<Q", len(head)) + head
