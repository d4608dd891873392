"""Inputs to begin with, made of real data: images that the shipped bundles know, and payloads of them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from codec.archive import pack
from codec.chunk import verified
from codec.encoding import Manner, compress
from codec.model import FILE, CodecModel
from fuzzing.expected import KEY, LATENT_DIM
from fuzzing.targets import ROOM
from models.bundle import SHIPPED

BUNDLES = ("fashion-mnist", "mnist", "cifar10")
GOLDEN_PAYLOADS = ROOM.parent / "tests" / "codec" / "golden"
ORIENTATION = 0x0112  # of EXIF


def seeds_of(name: str) -> Iterator[bytes]:
    """Yield a target's first inputs."""
    yield from _SEEDS[name]()


@cache
def _golden(id: str) -> np.ndarray:
    """Return the images (N, H, W, C) that a shipped bundle is checked with."""
    levels = safetensors.numpy.load_file(SHIPPED / id / "golden.safetensors")["levels"]
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


@cache
def _codec(id: str) -> CodecModel:
    return verified(SHIPPED / id / FILE)


def _pictures() -> tuple[Image.Image, Image.Image]:
    """Return a grey picture and one in colour."""
    return Image.fromarray(_golden("fashion-mnist")[0, ..., 0]), Image.fromarray(_golden("cifar10")[0])


def _file(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _images() -> Iterator[bytes]:
    grey, colour = _pictures()
    palette = colour.quantize(16)
    with_alpha = colour.convert("RGBA")
    with_alpha.putalpha(grey.resize(colour.size))
    for image in (grey, colour, with_alpha, with_alpha.convert("LA"), palette, grey.convert("1")):
        yield _file(image, "PNG")
    yield _file(palette, "PNG", transparency=3, bits=4)
    yield _file(grey, "PNG", transparency=0)
    yield _file(colour, "PNG", transparency=(1, 2, 3), exif=_turned(6), dpi=(72, 72), icc_profile=b"icc" * 9)
    yield _file(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG")
    yield _file(grey, "PNG", save_all=True, append_images=[grey.rotate(90)])
    text = PngInfo()
    text.add_text("Title", "a boot", zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>', zip=True)
    yield _file(grey, "PNG", pnginfo=text)
    for image in (grey, colour, colour.convert("CMYK")):
        yield _file(image, "JPEG", quality=30)
    yield _file(
        colour, "JPEG", progressive=True, exif=_turned(8), subsampling=2, comment=b"a frog", dpi=(9, 9)
    )
    yield _file(grey, "JPEG", restart_marker_rows=1, icc_profile=b"icc" * 9, optimize=True)
    for image in (colour, with_alpha):
        yield _file(image, "WEBP", quality=30)
        yield _file(image, "WEBP", lossless=True, exif=_turned(3), xmp=b'<x tiff:Orientation="5"/>')
    yield _file(grey, "WEBP", lossless=True)
    yield _file(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)])


def _arrays() -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays of images and of latents, by the names of their tensors."""
    grey, colour = _golden("mnist")[:2, ::3, ::3], _golden("cifar10")[:1, ::4, ::4]
    latents = np.random.default_rng(0).normal(size=(2, LATENT_DIM)).astype(np.float32)
    for images in (grey, grey[..., 0], colour, np.concatenate([colour, colour[..., :1]], axis=-1)):
        yield "images", images
    yield "z", latents
    yield "z", latents[:1] * np.float32("inf")


def _npy() -> Iterator[bytes]:
    arrays = [array for _, array in _arrays()]
    for array in (
        *arrays,
        np.asfortranarray(arrays[2]),
        arrays[4].astype(">f4"),
        arrays[4].astype(np.float64),
    ):
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()
    file = io.BytesIO()
    np.lib.format.write_array(file, arrays[0], version=(2, 0))
    yield file.getvalue()


def _safetensors() -> Iterator[bytes]:
    for name, array in _arrays():
        yield safetensors.numpy.save({name: np.ascontiguousarray(array)})
    images = np.ascontiguousarray(_golden("mnist")[:1, ::5, ::5])
    yield safetensors.numpy.save(
        {"images": images, "z": np.zeros((1, LATENT_DIM), np.float32)}, {"of": "mnist"}
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _documents() -> Iterator[bytes]:
    grey, colour = _pictures()
    files = [_text(_file(grey.resize((9, 9)), "PNG")), _text(_file(colour, "JPEG", quality=5))]
    latents = np.round(np.linspace(-2, 2, 2 * LATENT_DIM).reshape(2, LATENT_DIM), 2).tolist()
    documents: tuple[object, ...] = (
        {"images": files},
        {"images": [f"data:image/png;base64,{files[0]}"]},
        {"latents": latents},
        {"model": "mnist", "latents": [[1e-3, -7, *61 * [0.0], 0]], "more": [None, True, "\U0001f600"]},
        {"payload": _text((GOLDEN_PAYLOADS / "mnist.lossy.vae").read_bytes())},
        [[[{}]]],
    )
    for document in documents:
        yield json.dumps(document).encode()


def _payloads() -> Iterator[bytes]:
    for path in sorted(GOLDEN_PAYLOADS.glob("*.vae")):
        if path.stat().st_size <= 4096:
            yield path.read_bytes()
    manners = (
        Manner(),
        Manner("fast"),
        Manner("best", 3),
        Manner("fast", 9),
        Manner(quality=20),
        Manner(quality=70),
    )
    for id in BUNDLES:
        images = _golden(id)[:2].transpose(0, 3, 1, 2)
        for manner in manners:
            yield compress(images[:1], _codec(id), manner)
        yield compress(images, _codec(id))
        yield compress(images[..., ::2, 1::2], _codec(id))
    yield compress(np.full((1, 4, 9, 9), 7, np.uint8), None)
    mixed: list[np.ndarray] = [*_golden("mnist")[:2], _golden("cifar10")[0, ::4, ::4]]
    yield pack(mixed, ["a", "b", "ü"], _codec("mnist"))
    yield pack(mixed[:2], ["a", "b"], _codec("mnist"))


def _inference() -> Iterator[bytes]:
    small = io.BytesIO()
    _pictures()[0].save(small, "PNG")
    file = small.getvalue()
    element = struct.pack("<I", len(file)) + file
    image, latents = _golden("fashion-mnist")[:1], np.linspace(-2, 2, LATENT_DIM, dtype=np.float32)
    payload = (GOLDEN_PAYLOADS / "mnist.lossy.vae").read_bytes()

    def tensor(name: str, datatype: str, shape: Sequence[int], **more: Any) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": list(shape), **more}

    def raw(data: bytes) -> dict[str, Any]:
        return {"parameters": {"binary_data_size": len(data)}}

    def request(model: str, inputs: list[dict[str, Any]], after: bytes = b"", **more: Any) -> bytes:
        document = json.dumps({"inputs": inputs, **more}).encode()
        length = f" {len(document)}" if after else ""
        return f"{model}{length}\n".encode() + document + after

    files = tensor("images", "BYTES", [1], **raw(element))
    pixels = image.tobytes()
    yield request("encode", [files], element, id="1", parameters={"fit": "pad"})
    yield request("mnist.encode", [tensor("images", "UINT8", image.shape, **raw(pixels))], pixels)
    yield request(
        "cifar10.reconstruct",
        [tensor("images", "BYTES", [1], data=[_text(file)])],
        parameters={"fit": "crop"},
    )
    yield request("score", [files], element, parameters={"samples": 4, "timeout": 9000000})
    tiny = tensor("images", "UINT8", [1, 2, 2, 1], data=[[[[1], [2]], [[3], [255]]]])
    yield request("compress", [tiny], parameters={"effort": "fast", "max_error": 3, "quality": None})
    yield request(
        "decode", [tensor("z", "FP32", [1, LATENT_DIM], **raw(latents.tobytes()))], latents.tobytes()
    )
    outputs = [{"name": "images", "parameters": {"binary_data": True}}, {"name": "seed"}]
    drawn = {
        "seed": 7,
        "offset": 1,
        "temperature": 0.5,
        "prior": "standard",
        "triton_x": 1,
        "binary_data_output": True,
    }
    yield request("sample", [tensor("n", "INT64", [1], data=[2])], parameters=drawn, outputs=outputs)
    coded = struct.pack("<I", len(payload)) + payload
    yield request(
        "decompress", [tensor("payload", "BYTES", [1], **raw(coded))], coded, parameters={"index": 2}
    )
    yield b"decompress 0\n" + payload
    yield b"decode 0\n" + latents.tobytes()
    yield b"fashion-mnist.encode 0\n" + pixels


def _codings() -> Iterator[bytes]:
    array = io.BytesIO()
    np.save(array, _golden("mnist")[:2])
    document = json.dumps({"images": [base64.b64encode(_file(_pictures()[0], "PNG")).decode()]}).encode()
    plain = (b"{}", bytes(1 << 16), json.dumps(list(range(99))).encode())
    for data in (_golden("mnist")[0].tobytes(), array.getvalue(), document, *plain):
        yield gzip.compress(data, mtime=0)
        yield zlib.compress(data, 9)
    yield gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0)
    named = io.BytesIO()
    with gzip.GzipFile("name", "wb", fileobj=named, mtime=0) as file:
        file.write(b"a file with a name")
    yield named.getvalue()


def _http() -> Iterator[bytes]:
    grey, _ = _pictures()
    file, payload = _file(grey, "PNG"), (GOLDEN_PAYLOADS / "mnist.lossy.vae").read_bytes()
    latents = json.dumps({"latents": [LATENT_DIM * [0]]}).encode()
    n = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]}).encode()

    def request(line: str, body: bytes = b"", **headers: str) -> bytes:
        given = {"Host": "localhost", "X-API-Key": KEY, **headers}
        length = {"Content-Length": str(len(body))} if body else {}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**given, **length}.items()]
        return "\r\n".join([f"{line} HTTP/1.1", *lines, "", ""]).encode() + body

    yield request("POST /encode?fit=pad&format=npy", file, Content_Type="image/png")
    yield request(
        "POST /decode?model=fashion-mnist", latents, Content_Type="application/json", Accept="image/png"
    )
    yield request(
        "POST /score?samples=2",
        gzip.compress(file, mtime=0),
        Content_Type="image/png",
        Content_Encoding="gzip",
    )
    yield request("POST /reconstruct?format=zip", file, Content_Type="image/png")
    yield request("POST /compress?effort=fast&max_error=3&compare=true", file, Content_Type="image/png")
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
    yield request("POST /compress?quality=9", file, Content_Type="image/png", **upgrade)
    yield request("POST /compress?target_bytes=90", file, Content_Type="image/png")
    kind = "application/vnd.vaeserve.payload"
    yield request("POST /decompress?index=1&format=safetensors", payload, Content_Type=kind)
    yield request("POST /v2/models/mnist.sample/versions/1/infer", n, Accept_Encoding="gzip;q=1, deflate")
    yield request("GET /sample?n=2&seed=7&offset=3&temperature=0.5&prior=standard&format=json")
    basic = _text(f":{KEY}".encode())
    yield request("GET /metrics", X_API_Key="", Authorization=f"Basic {basic}")
    yield request("GET /models/mnist/latents", X_API_Key="", Authorization=f"Bearer {KEY}")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield request("GET /v2/models/encode/config", traceparent=trace, X_Request_Id="me")
    yield request("OPTIONS /encode", Origin="http://localhost:3000", Access_Control_Request_Method="POST")
    yield request("GET /health/ready", Accept="text/html, application/json;q=0.9, */*;q=0") * 2
    yield request("POST /v2/repository/index", Transfer_Encoding="chunked") + b"3\r\n{} \r\n0\r\n\r\n"


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "image": _images,
    "npy": _npy,
    "safetensors": _safetensors,
    "document": _documents,
    "payload": _payloads,
    "inference": _inference,
    "coding": _codings,
    "http": _http,
}
