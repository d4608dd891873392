"""Answers: exact bytes of every format, and streams that have the bytes of the whole."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from io import BytesIO
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import orjson
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from starlette.responses import Response

from app.negotiation import (
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    Format,
    ImageChunk,
    Limits,
    encoded_answer,
    images_answer,
    json_answer,
    parse_images,
    parse_latents,
    stream_images,
)
from models.images import contact_sheet, decode_image

LIMITS = Limits(body_bytes=1 << 20, images=64, pixels=1 << 16)
MU = np.array([[1, -0.5], [0.1, 3e-8]], np.float32)
LOGVAR = np.array([[0, -1], [-2, 0.25]], np.float32)
GREYS = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
LATENTS = np.array([[0.5], [1.5], [-2.5]], np.float32)
SMALL_IMAGES = arrays(
    np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]))
)


def whole(images: np.ndarray, fmt: Format) -> bytes:
    return bytes(images_answer("m", images, fmt).body)


def parts_of(response: Response) -> list[bytes]:
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("an answer reads nothing")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            parts.append(message["body"])

    asyncio.run(response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send))
    return parts


async def in_chunks(
    images: np.ndarray, size: int, latents: np.ndarray | None = None
) -> AsyncGenerator[ImageChunk]:
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield ImageChunk(images[part], None if latents is None else latents[part])


class TestJson:
    def test_arrays_are_written_as_short_as_float32_allows(self) -> None:
        response = json_answer({"model": "m", "elbo": np.array([0.1, -2.0], np.float32), "samples": 5})
        assert response.headers["content-type"] == "application/json"
        assert response.body == b'{"model":"m","elbo":[0.1,-2.0],"samples":5}'

    def test_nan_becomes_null(self) -> None:
        assert json_answer({"x": np.array([np.nan, np.inf], np.float32)}).body == b'{"x":[null,null]}'

    def test_arrays_need_not_be_contiguous(self) -> None:
        assert json_answer({"x": np.arange(6).reshape(2, 3).T}).body == b'{"x":[[0,3],[1,4],[2,5]]}'


class TestEncoded:
    def test_json(self) -> None:
        response = encoded_answer("m", MU, LOGVAR, Format.json)
        assert response.headers["content-type"] == "application/json"
        assert response.body == (
            b'{"model":"m","mu":[[1.0,-0.5],[0.1,3e-8]],"logvar":[[0.0,-1.0],[-2.0,0.25]]}'
        )

    def test_npy(self) -> None:
        response = encoded_answer("m", MU, LOGVAR, Format.npy)
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 2), }"
        data = np.array([[[1, -0.5], [0, -1]], [[0.1, 3e-8], [-2, 0.25]]], "<f4").tobytes()
        assert response.headers["content-type"] == "application/x-npy"
        assert response.body == b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + data

    def test_safetensors(self) -> None:
        response = encoded_answer("m", MU, LOGVAR, Format.safetensors)
        header = (
            b'{"logvar":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
            b'"mu":{"dtype":"F32","shape":[2,2],"data_offsets":[16,32]}}'
        )
        assert response.headers["content-type"] == "application/x-safetensors"
        assert response.body == b"\x78\0\0\0\0\0\0\0" + header + LOGVAR.tobytes() + MU.tobytes()

    @pytest.mark.parametrize("fmt", ENCODED_FORMATS)
    def test_views_answer_like_their_copies(self, fmt: Format) -> None:
        both = np.stack([MU, LOGVAR], axis=2)
        from_views = encoded_answer("m", both[..., 0], both[..., 1], fmt)
        assert from_views.body == encoded_answer("m", MU, LOGVAR, fmt).body

    def test_safetensors_mu_is_read_back_as_latents(self) -> None:
        body = encoded_answer("m", MU, LOGVAR, Format.safetensors).body
        tensors = safetensors.numpy.load(bytes(body))
        again = safetensors.numpy.save({"z": tensors["mu"]})
        np.testing.assert_array_equal(parse_latents(again, "application/x-safetensors", 2, LIMITS), MU)


class TestImages:
    def test_json(self) -> None:
        document = orjson.loads(whole(GREYS, Format.json))
        assert list(document) == ["model", "images"]
        assert document["model"] == "m"
        decoded = [decode_image(base64.b64decode(text), 4) for text in document["images"]]
        np.testing.assert_array_equal(decoded, GREYS)

    def test_json_text(self) -> None:
        body = whole(GREYS[:1], Format.json)
        document = orjson.loads(body)
        assert body == orjson.dumps(document)
        assert body.startswith(b'{"model":"m","images":["iVBORw0KGgo')

    def test_npy(self) -> None:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 2, 1), }"
        expected = b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + bytes(range(12))
        assert whole(GREYS, Format.npy) == expected

    def test_safetensors(self) -> None:
        header = b'{"images":{"dtype":"U8","shape":[3,2,2,1],"data_offsets":[0,12]}}'
        assert whole(GREYS, Format.safetensors) == b"\x48\0\0\0\0\0\0\0" + header.ljust(72) + bytes(range(12))

    def test_one_image_as_png(self) -> None:
        np.testing.assert_array_equal(decode_image(whole(GREYS[:1], Format.png), 4), GREYS[0])

    def test_several_images_as_png_are_a_contact_sheet(self) -> None:
        np.testing.assert_array_equal(decode_image(whole(GREYS, Format.png), 25), contact_sheet(GREYS))

    def test_zip(self) -> None:
        with ZipFile(BytesIO(whole(GREYS, Format.zip))) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["000000.png", "000001.png", "000002.png"]
            assert {entry.compress_type for entry in archive.infolist()} == {ZIP_STORED}
            decoded = [decode_image(archive.read(name), 4) for name in archive.namelist()]
        np.testing.assert_array_equal(decoded, GREYS)

    def test_zip_entries_are_dated_1980_and_need_no_data_descriptor(self) -> None:
        body = whole(GREYS, Format.zip)
        # Local file header: version 2.0, no flags, stored, 00:00:00 on 1980-01-01.
        assert body[:14] == b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\0"
        assert body == whole(GREYS, Format.zip)

    @pytest.mark.parametrize("fmt", IMAGE_FORMATS)
    def test_content_type(self, fmt: Format) -> None:
        assert images_answer("m", GREYS, fmt).headers["content-type"] == fmt.media_type

    @settings(deadline=None)
    @given(SMALL_IMAGES, st.sampled_from([Format.json, Format.npy, Format.safetensors]))
    def test_an_answer_is_read_back_as_a_request(self, images: np.ndarray, fmt: Format) -> None:
        parsed = parse_images(whole(images, fmt), fmt.media_type, LIMITS)
        np.testing.assert_array_equal(np.stack(list(parsed)), images)


class TestStreams:
    @settings(deadline=None)
    @given(SMALL_IMAGES, st.integers(1, 4), st.sampled_from(IMAGE_FORMATS))
    def test_have_the_bytes_of_the_whole(self, images: np.ndarray, size: int, fmt: Format) -> None:
        response = stream_images("m", len(images), images.shape[1:], in_chunks(images, size), fmt)
        assert b"".join(parts_of(response)) == whole(images, fmt)

    @pytest.mark.parametrize("fmt", IMAGE_FORMATS)
    def test_headers(self, fmt: Format) -> None:
        response = stream_images("m", 3, (2, 2, 1), in_chunks(GREYS, 2), fmt)
        assert response.headers["content-type"] == fmt.media_type
        known_bytes = str(len(whole(GREYS, fmt))) if fmt in (Format.npy, Format.safetensors) else None
        assert response.headers.get("content-length") == known_bytes

    def test_json_ends_with_the_further_members_and_the_latents_of_all_chunks(self) -> None:
        response = stream_images("m", 3, (2, 2, 1), in_chunks(GREYS, 2, LATENTS), Format.json, {"seed": 7})
        body = b"".join(parts_of(response))
        assert body == whole(GREYS, Format.json)[:-1] + b',"seed":7,"latents":[[0.5],[1.5],[-2.5]]}'

    @pytest.mark.parametrize("fmt", [Format.npy, Format.safetensors, Format.zip, Format.png])
    def test_latents_are_for_json_only(self, fmt: Format) -> None:
        response = stream_images("m", 3, (2, 2, 1), in_chunks(GREYS, 2, LATENTS), fmt)
        assert b"".join(parts_of(response)) == whole(GREYS, fmt)

    @pytest.mark.parametrize("fmt", [Format.json, Format.npy, Format.safetensors, Format.zip])
    def test_a_chunk_leaves_before_the_next_is_asked_for(self, fmt: Format) -> None:
        asked = 0

        async def chunks() -> AsyncGenerator[ImageChunk]:
            nonlocal asked
            for image in GREYS:
                asked += 1
                yield ImageChunk(image[None])

        async def first_parts() -> None:
            body = stream_images("m", 3, (2, 2, 1), chunks(), fmt).body_iterator
            await anext(body)
            assert asked == 0
            assert len(await anext(body)) > 0
            assert asked == 1
            await body.aclose()  # type: ignore[union-attr]

        asyncio.run(first_parts())

    def test_empty_chunks_add_nothing(self) -> None:
        async def chunks() -> AsyncGenerator[ImageChunk]:
            yield ImageChunk(GREYS[:0])
            yield ImageChunk(GREYS)

        response = stream_images("m", 3, (2, 2, 1), chunks(), Format.json)
        assert b"".join(parts_of(response)) == whole(GREYS, Format.json)

    def test_too_few_images_break_the_answer_off(self) -> None:
        response = stream_images("m", 4, (2, 2, 1), in_chunks(GREYS, 2), Format.json)
        with pytest.raises(RuntimeError, match=r"^3 images were streamed; 4 were announced$"):
            parts_of(response)

    def test_a_departed_client_closes_the_source(self) -> None:
        closed = asyncio.Event()

        async def endless() -> AsyncGenerator[ImageChunk]:
            try:
                while True:
                    yield ImageChunk(GREYS)
            finally:
                closed.set()

        async def leave_early() -> None:
            body = stream_images("m", 300, (2, 2, 1), endless(), Format.npy).body_iterator
            await anext(body)
            await anext(body)
            await body.aclose()  # type: ignore[union-attr]

        asyncio.run(leave_early())
        assert closed.is_set()
