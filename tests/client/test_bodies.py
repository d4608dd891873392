"""What a caller may give, and the bytes that are sent of it."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ExifTags

from models.images import decode_image
from vaeserve_client.bodies import JSON, NPY, PAYLOAD, Body, images_body, latents_body, payload_body

GREY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
COLOUR = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def file_of(image: PIL.Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("array", [GREY, COLOUR, GREY[:, ::-1], np.asfortranarray(GREY), GREY[:0]])
def test_an_array_is_sent_as_npy(array: np.ndarray) -> None:
    body = images_body(array)
    assert (body.content, body.media_type) == (npy(np.ascontiguousarray(array)), NPY)


def test_one_grey_image_may_come_without_the_first_axis() -> None:
    assert images_body(GREY[0]) == images_body(GREY[:1])


def test_images_of_one_shape_are_stacked() -> None:
    stacked = images_body(COLOUR)
    pictures = [PIL.Image.fromarray(image) for image in COLOUR]
    assert images_body(list(COLOUR)) == images_body(pictures) == stacked
    assert images_body((COLOUR[0], pictures[1])) == stacked
    assert images_body([COLOUR[0]]) == images_body(pictures[0]) == images_body(COLOUR[:1])
    assert images_body([PIL.Image.fromarray(image) for image in GREY]) == images_body(GREY)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_one_file_is_sent_as_it_is(kind: str, tmp_path: Path) -> None:
    file = file_of(PIL.Image.fromarray(COLOUR[0]), kind)
    (tmp_path / "image").write_bytes(file)
    given = file, bytearray(file), memoryview(file), tmp_path / "image", str(tmp_path / "image")
    for image in (*given, *([one] for one in given)):
        body = images_body(image)
        assert (body.content, body.media_type) == (file, f"image/{kind}")


def test_several_files_and_images_of_several_sizes_are_sent_as_base64(tmp_path: Path) -> None:
    file = file_of(PIL.Image.fromarray(COLOUR[0]), "webp")
    body = images_body([file, GREY[0], COLOUR[0, :2], COLOUR[0, :2, :, :1], PIL.Image.fromarray(GREY[0])])
    assert body.media_type == JSON
    sent = [base64.b64decode(text) for text in json.loads(body.content)["images"]]
    assert sent[0] == file
    pixels = [np.array(PIL.Image.open(BytesIO(data))) for data in sent[1:]]
    for found, expected in zip(pixels, (GREY[0], COLOUR[0, :2], COLOUR[0, :2, :, 0], GREY[0]), strict=True):
        assert np.array_equal(found, expected)


def test_no_image_is_for_the_service_to_refuse() -> None:
    assert json.loads(images_body([]).content) == {"images": []}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "YCbCr", "LAB", "HSV"])
def test_pil_images_whose_array_is_not_what_they_show_are_sent_as_png(mode: str) -> None:
    image = PIL.Image.fromarray(COLOUR[0]).convert("RGB" if mode == "LAB" else mode)
    image = PIL.Image.new("LAB", (4, 3), (50, 0, 0)) if mode == "LAB" else image
    body = images_body(image)
    assert body.media_type == "image/png"
    shown = PIL.Image.open(BytesIO(body.content))
    kept = mode if mode in ("RGBA", "LA", "P", "1") else "RGB"
    assert shown.mode == kept
    assert shown.convert("RGBA").tobytes() == image.convert(kept).convert("RGBA").tobytes()


@pytest.mark.parametrize("images", [GREY.astype(np.float32), GREY > 3, [GREY[0].astype(np.int64)]])
def test_arrays_of_other_types_are_refused(images: np.ndarray) -> None:
    with pytest.raises(
        TypeError, match=r"images are uint8, of levels from 0 to 255; got (float32|bool|int64)"
    ):
        images_body(images)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match=r"notes\.txt: no PNG, JPEG or WebP file; it starts with 68 65 6c"):
        images_body([tmp_path / "notes.txt"])
    with pytest.raises(ValueError, match="empty: no PNG, JPEG or WebP file; it starts with nothing"):
        images_body(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"^no PNG, JPEG or WebP file"):
        images_body(b"RIFF....AVI ")
    with pytest.raises(FileNotFoundError):
        images_body("missing.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pil_images_are_turned_upright_as_the_service_turns_files(mode: str) -> None:
    image, exif = PIL.Image.fromarray(COLOUR[0]).convert(mode), PIL.Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned
    file = BytesIO()
    image.save(file, "PNG", exif=exif)
    turned = decode_image(file.getvalue(), 100, keep_alpha=True)
    opened = PIL.Image.open(file)
    sent = images_body(opened).content
    found = np.load(BytesIO(sent))[0] if mode == "RGB" else decode_image(sent, 100, keep_alpha=True)
    assert found.shape == (4, 3, len(mode))
    assert np.array_equal(found, turned)
    assert opened.size == image.size  # the caller's own is as it was


def test_what_is_no_image_is_refused_with_what_is_one(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(file_of(PIL.Image.fromarray(COLOUR[0]), "png"))
    expected = "an image is an array, a PIL image, or the path or the bytes of a file; got one "
    with (tmp_path / "image").open("rb") as file:
        for images in (file, [file]):
            with pytest.raises(TypeError, match=f"^{expected}BufferedReader, an open file$"):
                images_body(images)  # type: ignore[arg-type]
        with pytest.raises(
            TypeError, match=r"^a payload is what compress gave, or .*; got one BufferedReader"
        ):
            payload_body(file)  # type: ignore[arg-type]
    for wrong in (None, 3, [3]):
        with pytest.raises(TypeError, match=f"^{expected}(NoneType|int)$"):
            images_body(wrong)  # type: ignore[arg-type]


def test_a_payload_may_be_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"payload")
    given = b"payload", bytearray(b"payload"), memoryview(b"payload"), tmp_path / "payload"
    assert {payload_body(payload) for payload in given} == {Body(b"payload", PAYLOAD)}


def test_latents_are_sent_as_float32() -> None:
    body = latents_body([[0, 1.5]])
    assert (body.content, body.media_type) == (npy(np.array([[0, 1.5]], np.float32)), NPY)
    assert latents_body(np.array([0, 1.5])) == body
