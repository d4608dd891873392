"""Request bodies: how they are read, what they parse to, and what each wrong one is told."""

import asyncio
import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from starlette.requests import ClientDisconnect, Request

from app.errors import Kind, Problem
from app.negotiation import (
    Limits,
    conform,
    decoded_images,
    parse_images,
    parse_latents,
    parse_payload,
    read_body,
    values_of_rows,
)
from app.negotiation.requests import COUNTED_BYTES, MAX_JSON_VALUES, MORE_JSON_VALUES
from app.negotiation.requests import json_of as parse_json
from models.images import encode_png

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
LIMITS = Limits(body_bytes=10_000, images=8, pixels=10_000)
# The service's own by default, with a bundle of 64 latents.
USUAL = Limits(32 << 20, images=4096, pixels=1 << 24, json_values=values_of_rows(4096, 64))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def base64_png(image: np.ndarray) -> str:
    return base64.b64encode(encode_png(image)).decode()


def json_of(*images: Any) -> bytes:
    return orjson.dumps({"images": images})


def problem_of(call: Callable[[], Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        call()
    return caught.value


class TestReadBody:
    def read(
        self, parts: Iterable[bytes], headers: dict[str, str], max_bytes: int = 10, disconnects: bool = False
    ) -> tuple[bytes | Problem, int]:
        """Return what read_body gave or raised, and how many parts it took."""
        parts = list(parts)
        taken = 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            if disconnects and taken == len(parts):
                return {"type": "http.disconnect"}
            taken += 1
            has_more = taken < len(parts) or disconnects
            return {"type": "http.request", "body": parts[taken - 1], "more_body": has_more}

        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        request = Request({"type": "http", "headers": encoded}, receive)
        try:
            return asyncio.run(read_body(request, max_bytes, lambda count: None)), taken
        except Problem as problem:
            return problem, taken

    def test_with_content_length(self) -> None:
        assert self.read([b"hello"], {"Content-Length": "5"}) == (b"hello", 1)

    def test_in_chunks(self) -> None:
        assert self.read([b"hel", b"", b"lo"], {}) == (b"hello", 3)

    def test_the_limit_itself_is_allowed(self) -> None:
        assert self.read([b"0123456789"], {"Content-Length": "10"}) == (b"0123456789", 1)

    @pytest.mark.parametrize("declared", ["11", "99999999999999999999"])
    def test_too_large_by_content_length_is_refused_unread(self, declared: str) -> None:
        problem, taken = self.read([b"x" * 11], {"Content-Length": declared})
        assert taken == 0
        assert isinstance(problem, Problem)
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == f"the body has {declared} bytes; the limit is 10"
        assert (problem.value, problem.limit) == (int(declared), 10)

    def test_too_large_in_chunks_is_refused_at_the_limit(self) -> None:
        problem, taken = self.read([b"x" * 6] * 100, {})
        assert taken == 2
        assert isinstance(problem, Problem)
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == "the body has 12 bytes or more; the limit is 10"
        assert (problem.value, problem.limit) == (12, 10)

    @pytest.mark.parametrize("declared", ["-1", "five", "1.5", "+5", "5, 5", "", "²", "9" * 21])
    def test_malformed_content_length(self, declared: str) -> None:
        problem, taken = self.read([b"hello"], {"Content-Length": declared})
        assert taken == 0
        assert isinstance(problem, Problem)
        assert problem.kind is Kind.MALFORMED
        assert problem.detail.endswith("; expected a whole number of bytes")

    @pytest.mark.parametrize("headers", [{}, {"Content-Length": "0"}])
    def test_empty(self, headers: dict[str, str]) -> None:
        problem, _ = self.read([b""], headers)
        assert isinstance(problem, Problem)
        assert (problem.kind, problem.detail) == (Kind.MALFORMED, "the body is empty")

    def test_broken_off(self) -> None:
        with pytest.raises(ClientDisconnect):
            self.read([b"hel"], {"Content-Length": "5"}, disconnects=True)

    def test_every_part_is_told_of_before_it_is_kept(self) -> None:
        told: list[int] = []

        def admit(count: int) -> None:
            told.append(count)
            if len(told) == 2:
                raise Problem(Kind.OVERLOADED, "no room")

        parts = iter([b"hel", b"lo", b"!"])

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": next(parts), "more_body": True}

        request = Request({"type": "http", "headers": []}, receive)
        with pytest.raises(Problem, match="no room"):
            asyncio.run(read_body(request, 10, admit))
        assert told == [3, 2]
        assert next(parts) == b"!"


class TestJson:
    def test_more_values_than_may_be_held_are_refused_before_any_is(self) -> None:
        body = b"[" + b"[]," * MAX_JSON_VALUES + b"[]]"
        with pytest.raises(Problem, match=f"the limit is {MAX_JSON_VALUES}") as raised:
            parse_json(body, LIMITS)
        assert raised.value.kind is Kind.TOO_LARGE

    def test_looking_at_a_large_document_does_not_hold_it_twice(self) -> None:
        body = memoryview(b'["' + b"x" * (8 * COUNTED_BYTES) + b"," * MAX_JSON_VALUES + b"1]")
        tracemalloc.start()
        try:
            with pytest.raises(Problem, match="the JSON has"):
                parse_json(body, LIMITS)
            assert tracemalloc.get_traced_memory()[1] < 3 * COUNTED_BYTES
        finally:
            tracemalloc.stop()

    def test_a_long_text_is_one_value(self) -> None:
        body = b'["' + b"x" * (MAX_JSON_VALUES + 1) + b'"]'
        assert len(parse_json(body, LIMITS)[0]) == MAX_JSON_VALUES + 1

    @pytest.mark.parametrize("value", [b"1.5", b"[]", b"[1]", b"{}", b'{"a":1}', b'"ab"'])
    @pytest.mark.parametrize(
        "parse",
        [
            lambda body: parse_images(b'{"images":' + body, JSON, USUAL),
            lambda body: parse_latents(b'{"latents":' + body, JSON, 64, USUAL),
            lambda body: parse_payload(b'{"payload":' + body, JSON, USUAL),
        ],
        ids=["images", "latents", "payload"],
    )
    def test_many_values_of_any_kind_cost_nothing(self, parse: Callable[[bytes], Any], value: bytes) -> None:
        count = MAX_JSON_VALUES // (1 + value.count(b"[") + value.count(b"{")) - 1
        body = b"[" + b",".join([value] * count) + b"]}"
        tracemalloc.start()
        try:
            problem = problem_of(lambda: parse(body))
            assert tracemalloc.get_traced_memory()[1] < 3 * COUNTED_BYTES + len(body)
        finally:
            tracemalloc.stop()
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail.startswith("the JSON has ")

    @pytest.mark.parametrize(
        ("value", "most"),
        [
            (b"1.5", 50_000),
            (b"[]", 25_000),
            (b'"ab"', MORE_JSON_VALUES + 8),
            (b"{}", 25_000),
            (b'{"a":1}', (MORE_JSON_VALUES + 8) // 2),
        ],
    )
    def test_values_are_taken_to_their_limit(self, value: bytes, most: int) -> None:
        limits = replace(LIMITS, json_values=50_000)
        assert len(parse_json(b"[" + b",".join([value] * most) + b"]", limits)) == most
        problem = problem_of(lambda: parse_json(b"[" + b",".join([value] * (most + 1)) + b"]", limits))
        what = "texts and objects" if b'"' in value else "values"
        limit = MORE_JSON_VALUES + 8 if b'"' in value else 50_000
        assert (
            problem.detail.partition(" has ")[2].partition(" ")[2] == f"{what} or more; the limit is {limit}"
        )
        assert problem.limit == limit
        assert isinstance(problem.value, int)
        assert problem.value > limit

    def test_an_answer_of_images_and_latents_is_read_as_either(self) -> None:
        latents = np.random.default_rng(0).standard_normal((4096, 64), np.float32)
        images = [base64_png(noise(2, 2, 1))] * 4096
        answer = {"model": "m", "images": images, "latents": latents, "seed": 1}
        body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        np.testing.assert_array_equal(parse_latents(body, JSON, 64, USUAL), latents)
        assert len(parse_images(body, JSON, USUAL)) == 4096

    def test_as_many_rows_as_there_are_have_as_many_values(self) -> None:
        assert values_of_rows(4096, 64) == 4096 * 66 + MORE_JSON_VALUES
        assert values_of_rows(1 << 20, 64) == MAX_JSON_VALUES


class TestImages:
    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
    def test_one_encoded_image(self, media_type: str) -> None:
        file = BytesIO()
        Image.new("L", (8, 4), 90).save(file, media_type.removeprefix("image/"), lossless=True)
        (image,) = parse_images(file.getvalue(), media_type, LIMITS)
        assert image.shape[:2] == (4, 8)
        assert set(image.ravel().tolist()) == {90}

    def test_json_list(self) -> None:
        first, second = noise(4, 5, 1), noise(3, 2, 3)
        parsed = parse_images(
            json_of(base64_png(first), base64_png(second)), JSON + "; charset=utf-8", LIMITS
        )
        assert len(parsed) == 2
        np.testing.assert_array_equal(parsed[0], first)
        np.testing.assert_array_equal(parsed[1], second)

    def test_json_with_a_data_url(self) -> None:
        image = noise(4, 4, 1)
        (parsed,) = parse_images(json_of("data:image/png;base64," + base64_png(image)), JSON, LIMITS)
        np.testing.assert_array_equal(parsed, image)

    def test_json_members_that_an_answer_also_has_are_ignored(self) -> None:
        body = orjson.dumps({"model": "m", "images": [base64_png(noise(2, 2, 1))], "seed": 1})
        assert len(parse_images(body, JSON, LIMITS)) == 1

    @settings(deadline=None)
    @given(arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=8)))
    def test_grey_arrays_get_their_channel(self, array: np.ndarray) -> None:
        for body, media_type in ((npy(array), NPY), (safetensors.numpy.save({"images": array}), SAFETENSORS)):
            parsed = parse_images(body, media_type, LIMITS)
            assert isinstance(parsed, np.ndarray)
            np.testing.assert_array_equal(parsed, array[..., None])

    @settings(deadline=None)
    @given(arrays(np.uint8, st.tuples(*[st.integers(1, 8)] * 3, st.sampled_from([1, 3]))))
    def test_arrays_with_channels_stay(self, array: np.ndarray) -> None:
        for body, media_type in ((npy(array), NPY), (safetensors.numpy.save({"images": array}), SAFETENSORS)):
            np.testing.assert_array_equal(parse_images(body, media_type, LIMITS), array)

    def test_grey_npy_is_not_copied_on_its_way_to_the_model(self) -> None:
        body = npy(noise(8, 28, 28))
        images = conform(parse_images(body, NPY, LIMITS), (1, 28, 28), None)
        assert images.shape == (8, 28, 28, 1)
        assert np.shares_memory(images, np.frombuffer(body, np.uint8))


class TestRefusingImages:
    def test_other_media_types(self) -> None:
        problem = problem_of(lambda: parse_images(b"GIF89a", "image/gif", LIMITS))
        assert problem.kind is Kind.UNSUPPORTED_MEDIA_TYPE
        assert problem.limit == f"image/png, image/jpeg, image/webp, {JSON}, {NPY}, {SAFETENSORS}"

    def test_not_an_image(self) -> None:
        problem = problem_of(lambda: parse_images(b"hello", "image/png", LIMITS))
        assert problem.kind is Kind.MALFORMED
        assert problem.detail == "the body: not a PNG, JPEG or WebP file; it starts with 68 65 6c 6c 6f"

    def test_truncated_image(self) -> None:
        problem = problem_of(lambda: parse_images(encode_png(noise(4, 4, 1))[:-20], "image/png", LIMITS))
        assert problem.kind is Kind.MALFORMED

    def test_too_many_pixels(self) -> None:
        body = encode_png(np.zeros((101, 100, 1), np.uint8))
        problem = problem_of(lambda: parse_images(body, "image/png", LIMITS))
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == "the body: 100×101 = 10100 pixels; the limit is 10000"
        assert problem.limit == 10_000

    def test_json_bomb_names_its_index_and_costs_nothing(self) -> None:
        header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        idat = b"IDAT" + zlib.compress(b"\0")
        chunks = [
            struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, idat)
        ]
        bomb = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
        body = json_of(base64_png(noise(2, 2, 1)), bomb)
        tracemalloc.start()
        try:
            problem = problem_of(lambda: parse_images(body, JSON, LIMITS))
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == "images[1]: 60000×60000 = 3600000000 pixels; the limit is 10000"

    def test_json_bomb_in_parts(self) -> None:
        part = base64_png(np.zeros((100, 100, 1), np.uint8))
        assert len(parse_images(json_of(*[part] * 4), JSON, LIMITS)) == 4
        problem = problem_of(lambda: parse_images(json_of(*[part] * 5), JSON, LIMITS))
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == "images[0] to [4] decode to 50000 bytes; the limit is 40000"
        assert (problem.value, problem.limit) == (50_000, 40_000)

    @pytest.mark.parametrize(("channels", "most"), [(1, 8), (2, 2), (3, 2), (4, 2)])
    def test_images_that_are_too_large_together_are_not_decoded(
        self, channels: int, most: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = Limits(body_bytes=8 << 20, images=9, pixels=1 << 20)
        buffer = BytesIO()
        Image.fromarray(np.zeros((1024, 1024, channels), np.uint8).squeeze()).save(buffer, "PNG")
        file = buffer.getvalue()
        assert len(decoded_images([file] * most, limits, keep_alpha=True)) == most
        monkeypatch.setattr("app.negotiation.requests.decode_image", None)
        problem = problem_of(lambda: decoded_images([file] * (most + 1), limits, keep_alpha=True))
        assert problem.kind is Kind.TOO_LARGE
        size = (most + 1) * ({2: 4}.get(channels, channels) << 20)
        assert problem.detail == f"images[0] to [{most}] decode to {size} bytes; the limit is {8 << 20}"
        assert (problem.value, problem.limit) == (size, 8 << 20)

    def test_any_image_s_header_is_looked_at_before_one_is_decoded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.negotiation.requests.decode_image", None)
        limits = Limits(body_bytes=8 << 20, images=9, pixels=1 << 20)
        files = [encode_png(np.zeros((1, side, 1), np.uint8)) for side in (1, 2, 20_000)]
        problem = problem_of(lambda: decoded_images(files, limits))
        assert problem.kind is Kind.TOO_LARGE
        assert problem.detail == "images[2]: 20000×1: a side of 20000; the limit is 16384"
        assert (problem.value, problem.limit) == (20_000, 16_384)

    def test_transparency_that_follows_the_pixels_counts(self) -> None:
        limits = Limits(body_bytes=2 << 20, images=9, pixels=1 << 20)
        plain = encode_png(np.zeros((1024, 1024, 1), np.uint8))
        chunk = b"tRNS\0\0"
        late = plain[:-12] + b"\0\0\0\2" + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[-12:]
        assert len(decoded_images([late] * 4, limits)) == 4
        problem = problem_of(lambda: decoded_images([late] * 4, limits, keep_alpha=True))
        assert problem.detail == f"images[0] to [1] decode to {8 << 20} bytes; the limit is {4 << 20}"

    def test_nesting_without_end(self) -> None:
        depth = 2000
        assert depth < MAX_JSON_VALUES
        for body in (b"[" * depth + b"]" * depth, b'{"images":' * depth + b"0" + b"}" * depth):
            problem = problem_of(lambda body=body: parse_images(body, JSON, LIMITS))
            assert problem.kind is Kind.MALFORMED
            assert "limit" in problem.detail  # which orjson words in its own way

    def test_not_json(self) -> None:
        problem = problem_of(lambda: parse_images(b'{"images": [', JSON, LIMITS))
        assert problem.kind is Kind.MALFORMED
        assert problem.detail.startswith("the body is not JSON: ")

    @pytest.mark.parametrize(
        "document", [[], "x", 1, None, {}, {"images": "x"}, {"image": []}, {"images": {}}]
    )
    def test_json_of_another_form(self, document: object) -> None:
        problem = problem_of(lambda: parse_images(orjson.dumps(document), JSON, LIMITS))
        assert problem.kind is Kind.INVALID
        assert problem.detail == 'the body is not of the form {"images": […]}'
        assert problem.value == document

    @pytest.mark.parametrize(
        ("member", "detail"),
        [
            (7, "images[1] is 7; expected an encoded image in base64"),
            (None, "images[1] is None; expected an encoded image in base64"),
            ([["x"]], "images[1] is [['x']]; expected an encoded image in base64"),
            ("é", "images[1] is not base64: string argument should contain only ASCII characters"),
            ("a*b=", "images[1] is not base64: Only base64 data is allowed"),
            ("", "images[1]: not a PNG, JPEG or WebP file; it starts with nothing"),
            ("data:image/png,abc", "images[1]: not a PNG, JPEG or WebP file; it starts with nothing"),
            ("aGVsbG8=", "images[1]: not a PNG, JPEG or WebP file; it starts with 68 65 6c 6c 6f"),
        ],
    )
    def test_json_with_a_wrong_member(self, member: object, detail: str) -> None:
        problem = problem_of(lambda: parse_images(json_of(base64_png(noise(2, 2, 1)), member), JSON, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, detail)

    @pytest.mark.parametrize("shape", [(4, 4), (4,), (), (1, 4, 4, 2), (1, 4, 4, 4), (1, 1, 4, 4, 1)])
    def test_arrays_of_another_shape(self, shape: tuple[int, ...]) -> None:
        problem = problem_of(lambda: parse_images(npy(noise(*shape)), NPY, LIMITS))
        assert problem.kind is Kind.INVALID
        expected = "(N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        assert problem.detail == f"the images have shape {list(shape)}; expected {expected}"
        assert problem.value == shape

    def test_arrays_of_another_dtype(self) -> None:
        problem = problem_of(lambda: parse_images(npy(np.zeros((1, 4, 4), np.float32)), NPY, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, "the array is float32; expected uint8")

    @pytest.mark.parametrize("shape", [(1, 0, 4), (1, 4, 0, 3)])
    def test_images_without_pixels(self, shape: tuple[int, ...]) -> None:
        problem = problem_of(lambda: parse_images(npy(noise(*shape)), NPY, LIMITS))
        assert problem.kind is Kind.INVALID
        assert problem.detail.endswith("no pixels")

    @pytest.mark.parametrize(("body", "media_type"), [(json_of(), JSON), (npy(noise(0, 4, 4)), NPY)])
    def test_no_images(self, body: bytes, media_type: str) -> None:
        problem = problem_of(lambda: parse_images(body, media_type, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, "0 images; at least 1 is needed")

    @pytest.mark.parametrize(
        ("body", "media_type"), [(json_of(*["x"] * 9), JSON), (npy(noise(9, 4, 4)), NPY)]
    )
    def test_too_many_images(self, body: bytes, media_type: str) -> None:
        problem = problem_of(lambda: parse_images(body, media_type, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.TOO_LARGE, "9 images; the limit is 8 a request")
        assert (problem.value, problem.limit) == (9, 8)


class TestConform:
    def test_list_of_the_right_size_is_stacked(self) -> None:
        images = [noise(8, 9, 1), noise(8, 9, 1) // 2]
        np.testing.assert_array_equal(conform(images, (1, 8, 9), None), np.stack(images))

    def test_colour_and_grey_convert(self) -> None:
        grey = np.full((8, 8, 1), 7, np.uint8)
        colour = np.full((8, 8, 3), 7, np.uint8)
        np.testing.assert_array_equal(conform([grey, colour], (1, 8, 8), None), np.full((2, 8, 8, 1), 7))
        np.testing.assert_array_equal(conform(grey[None], (3, 8, 8), None), np.full((1, 8, 8, 3), 7))

    @pytest.mark.parametrize("as_array", [True, False])
    def test_another_size_is_refused(self, as_array: bool) -> None:
        images = noise(1, 32, 30, 1) if as_array else [noise(32, 30, 1)]
        problem = problem_of(lambda: conform(images, (1, 28, 28), None))
        assert problem.kind is Kind.INVALID
        assert problem.detail == (
            "images[0] is 32×30; the model takes 28×28 (height × width) "
            "unless fit=resize, crop or pad is given"
        )
        assert (problem.value, problem.limit) == ([32, 30], [28, 28])

    def test_the_first_wrong_image_is_named(self) -> None:
        problem = problem_of(lambda: conform([noise(8, 8, 1), noise(8, 9, 1)], (1, 8, 8), None))
        assert problem.detail.startswith("images[1] is 8×9")

    def test_another_size_is_fitted_on_request(self) -> None:
        wide = np.full((1, 8, 16, 3), 50, np.uint8)
        fitted = conform(wide, (1, 8, 8), "pad")
        assert fitted.shape == (1, 8, 8, 1)
        assert fitted[0, :, 0, 0].tolist() == [0, 0, 50, 50, 50, 50, 0, 0]


class TestLatents:
    def test_json(self) -> None:
        latents = parse_latents(b'{"latents": [[1, -2.5], [0, 1e-3]]}', JSON, 2, LIMITS)
        assert latents.dtype == np.float32
        np.testing.assert_array_equal(latents, np.array([[1, -2.5], [0, 1e-3]], np.float32))

    @settings(deadline=None)
    @given(
        arrays(np.float32, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(-100, 100, width=32))
    )
    def test_arrays_give_back_what_was_written(self, array: np.ndarray) -> None:
        as_json = orjson.dumps({"latents": array}, option=orjson.OPT_SERIALIZE_NUMPY)
        as_safetensors = safetensors.numpy.save({"z": array})
        for body, media_type in ((as_json, JSON), (npy(array), NPY), (as_safetensors, SAFETENSORS)):
            np.testing.assert_array_equal(parse_latents(body, media_type, 3, LIMITS), array)

    def test_other_media_types(self) -> None:
        problem = problem_of(lambda: parse_latents(b"", "image/png", 2, LIMITS))
        assert problem.kind is Kind.UNSUPPORTED_MEDIA_TYPE
        assert problem.limit == f"{JSON}, {NPY}, {SAFETENSORS}"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, value: float) -> None:
        array = np.zeros((3, 2), np.float32)
        array[2, 1] = value
        for body, media_type in ((npy(array), NPY), (safetensors.numpy.save({"z": array}), SAFETENSORS)):
            problem = problem_of(partial(parse_latents, body, media_type, 2, LIMITS))
            assert problem.kind is Kind.INVALID
            assert problem.detail == f"latents[2][1] is {value}; latents are finite float32"

    def test_beyond_float32(self) -> None:
        problem = problem_of(lambda: parse_latents(b'{"latents": [[0, 1e300]]}', JSON, 2, LIMITS))
        assert problem.detail == "latents[0][1] is inf; latents are finite float32"

    @pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 2, 2), (0, 3)])
    def test_arrays_of_another_shape(self, shape: tuple[int, ...]) -> None:
        problem = problem_of(lambda: parse_latents(npy(np.zeros(shape, np.float32)), NPY, 2, LIMITS))
        assert problem.kind is Kind.INVALID
        assert problem.detail == f"the latents have shape {list(shape)}; expected (N, 2)"
        assert (problem.value, problem.limit) == (shape, 2)

    @pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
    def test_arrays_of_another_dtype(self, dtype: str) -> None:
        problem = problem_of(lambda: parse_latents(npy(np.zeros((1, 2), dtype)), NPY, 2, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, f"the array is {dtype}; expected float32")

    @pytest.mark.parametrize(
        ("latents", "detail"),
        [
            (b"[[0, 1], 2]", "latents[1] is 2; expected a list of 2 numbers"),
            (b"[0, 1]", "latents[0] is 0; expected a list of 2 numbers"),
            (b"[[0, 1], [0]]", "latents[1] has 1 numbers; the model's latents have 2"),
            (b"[[0, 1, 2]]", "latents[0] has 3 numbers; the model's latents have 2"),
            (b'[[0, "1"]]', "latents[0][1] is 1; expected a number"),
            (b"[[null, 1]]", "latents[0][0] is None; expected a number"),
            (b"[[0, true]]", "latents[0][1] is True; expected a number"),
            (b"[[[0], [1]]]", "latents[0][0] is [0]; expected a number"),
            (b"{}", 'the body is not of the form {"latents": […]}'),
        ],
    )
    def test_json_with_a_wrong_member(self, latents: bytes, detail: str) -> None:
        body = b'{"latents": ' + latents + b"}"
        problem = problem_of(lambda: parse_latents(body, JSON, 2, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, detail)

    def test_nan_is_not_json(self) -> None:
        problem = problem_of(lambda: parse_latents(b'{"latents": [[NaN]]}', JSON, 1, LIMITS))
        assert problem.kind is Kind.MALFORMED

    @pytest.mark.parametrize(
        ("body", "media_type"), [(b'{"latents": []}', JSON), (npy(np.zeros((0, 2), np.float32)), NPY)]
    )
    def test_none(self, body: bytes, media_type: str) -> None:
        problem = problem_of(lambda: parse_latents(body, media_type, 2, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.INVALID, "0 latents; at least 1 is needed")

    def test_too_many(self) -> None:
        problem = problem_of(lambda: parse_latents(npy(np.zeros((9, 2), np.float32)), NPY, 2, LIMITS))
        assert (problem.kind, problem.detail) == (Kind.TOO_LARGE, "9 latents; the limit is 8 a request")


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    images, latents = noise(2, 4, 4, 3), np.ones((2, 3), np.float32)
    bodies = [
        (json_of(base64_png(images[0])), JSON),
        (b'{"latents": [[1, 2.5, -3e4], [0, 0, 0]]}', JSON),
        (npy(images), NPY),
        (npy(latents), NPY),
        (safetensors.numpy.save({"images": images}), SAFETENSORS),
        (safetensors.numpy.save({"z": latents}), SAFETENSORS),
        (encode_png(images[0]), "image/png"),
    ]
    original, media_type = draw(st.sampled_from(bodies))
    body = bytearray(original)
    for position in draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[position] = draw(st.integers(0, 255) | st.sampled_from(b'[]{}",:-e0123456789'))
    return bytes(body[: draw(st.integers(0, len(body)) | st.just(len(body)))]), media_type


class TestHostileBytes:
    @settings(max_examples=500, deadline=None)
    @given(
        damaged()
        | st.tuples(st.binary(max_size=200), st.sampled_from([JSON, NPY, SAFETENSORS, "image/webp"]))
    )
    def test_give_arrays_or_a_problem(self, request_body: tuple[bytes, str]) -> None:
        body, media_type = request_body
        outcomes: list[Any] = []
        for parse in (
            lambda: conform(parse_images(body, media_type, LIMITS), (1, 8, 8), "crop"),
            lambda: parse_latents(body, media_type, 3, LIMITS),
        ):
            try:
                outcomes.append(parse().shape[1:])
            except Problem as problem:
                outcomes.append(problem.kind.status)
        assert outcomes[0] in ((8, 8, 1), 400, 413, 422)
        assert outcomes[1] in ((3,), 400, 413, 415, 422)
