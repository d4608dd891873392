"""Media types: what Accept and ?format= choose, and which Content-Types are read."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Kind, Problem
from app.negotiation import IMAGE_FORMATS, IMAGES_IN, Format, choose_format
from app.negotiation.media import LATENTS_IN, PAYLOADS_IN, media_type_of


class TestFormats:
    def test_media_types(self) -> None:
        assert {name.value: name.media_type for name in Format} == {
            "json": "application/json",
            "png": "image/png",
            "npy": "application/x-npy",
            "safetensors": "application/x-safetensors",
            "zip": "application/zip",
            "payload": "application/vnd.vaeserve.payload",
        }

    def test_what_bodies_come_in(self) -> None:
        arrays = ("application/json", "application/x-npy", "application/x-safetensors")
        assert arrays == LATENTS_IN
        assert ("image/png", "image/jpeg", "image/webp", *arrays) == IMAGES_IN
        assert PAYLOADS_IN == ("application/vnd.vaeserve.payload", "application/json")


class TestAccept:
    @pytest.mark.parametrize(
        ("accept", "chosen"),
        [
            (None, Format.json),
            ("", Format.json),
            ("*/*", Format.json),
            ("application/*", Format.json),
            ("image/png", Format.png),
            ("image/*", Format.png),
            ("IMAGE/PNG", Format.png),
            ("application/json; charset=utf-8", Format.json),
            ("application/x-npy, */*", Format.npy),  # as exact as it can be asked for
            ("application/x-npy;q=0.5, application/zip;q=0.8", Format.zip),
            ("application/x-npy ; q=0.5 , */* ; q=0.1", Format.npy),
            ("application/json;q=0, */*", Format.png),  # the first that is left
            ("image/png;q=0.1, */*;q=0.5", Format.json),
            ("image/*;q=0.9, application/*;q=0.8, application/json;q=0", Format.png),
            ("image/png;q=2, application/zip;q=0.1", Format.zip),  # an element out of bounds does not count
            ("image/png;q=0.1, image/png;q=0.9, application/json;q=0.5", Format.png),
            # browsers: a page, and an <img>
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", Format.json),
            ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", Format.png),
        ],
    )
    def test_choice(self, accept: str | None, chosen: Format) -> None:
        assert choose_format(accept, None, IMAGE_FORMATS) is chosen

    def test_without_json_the_first_offered_is_the_default(self) -> None:
        assert choose_format("*/*", None, [Format.zip, Format.png]) is Format.zip

    def test_json_is_the_default_wherever_it_is_listed(self) -> None:
        assert choose_format("*/*", None, [Format.zip, Format.json]) is Format.json

    @pytest.mark.parametrize(
        "accept", ["text/html", "image/webp, text/*", "*/*;q=0", "image/png;q=0", "nonsense", ","]
    )
    def test_nothing_acceptable(self, accept: str) -> None:
        with pytest.raises(Problem) as caught:
            choose_format(accept, None, [Format.json, Format.png])
        assert caught.value.kind is Kind.NOT_ACCEPTABLE
        assert caught.value.detail == f"Accept is {accept}; offered are application/json, image/png"
        assert (caught.value.value, caught.value.limit) == (accept, "application/json, image/png")

    @settings(deadline=None)
    @given(st.text())
    def test_any_text_is_answered_or_not_acceptable(self, accept: str) -> None:
        try:
            outcome: object = choose_format(accept, None, IMAGE_FORMATS)
        except Problem as problem:
            outcome = problem.kind
        assert outcome in (*IMAGE_FORMATS, Kind.NOT_ACCEPTABLE)


class TestOverride:
    def test_wins_over_accept(self) -> None:
        assert choose_format("application/json", "zip", IMAGE_FORMATS) is Format.zip

    @pytest.mark.parametrize("override", ["gif", "zip", "", "JSON"])
    def test_not_offered(self, override: str) -> None:
        with pytest.raises(Problem) as caught:
            choose_format("*/*", override, [Format.json, Format.npy])
        assert caught.value.kind is Kind.INVALID
        assert caught.value.detail == f"format={override} is not offered here; offered are json, npy"
        assert (caught.value.value, caught.value.limit) == (override, "json, npy")


class TestContentType:
    @pytest.mark.parametrize(
        "given", ["application/json", "Application/JSON", " application/json ; charset=utf-8"]
    )
    def test_parameters_and_case_do_not_matter(self, given: str) -> None:
        assert media_type_of(given, IMAGES_IN) == "application/json"

    def test_missing(self) -> None:
        with pytest.raises(Problem) as caught:
            media_type_of(None, LATENTS_IN)
        assert caught.value.kind is Kind.UNSUPPORTED_MEDIA_TYPE
        assert caught.value.detail == (
            "the request has no Content-Type; "
            "supported are application/json, application/x-npy, application/x-safetensors"
        )

    @pytest.mark.parametrize("given", ["image/gif", "text/plain", "image/png2", "garbage", ";"])
    def test_unknown(self, given: str) -> None:
        with pytest.raises(Problem) as caught:
            media_type_of(given, ["image/png"])
        assert caught.value.kind is Kind.UNSUPPORTED_MEDIA_TYPE
        assert caught.value.detail == f"Content-Type is {given}; supported are image/png"
        assert (caught.value.value, caught.value.limit) == (given, "image/png")


def test_negotiation_starts_without_torch() -> None:
    script = "import sys, app.negotiation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
