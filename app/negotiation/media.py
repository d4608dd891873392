"""Media types: which ones bodies come in, and which one an answer goes out in."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum

from app.errors import Kind, Problem, echo

ENCODED_IMAGES = ("image/png", "image/jpeg", "image/webp")
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
IMAGES_IN = (*ENCODED_IMAGES, JSON, NPY, SAFETENSORS)
LATENTS_IN = (JSON, NPY, SAFETENSORS)
PAYLOAD = "application/vnd.vaeserve.payload"
PAYLOADS_IN = (PAYLOAD, JSON)

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class Format(StrEnum):
    """What an answer can be written as; the values are those of the query parameter `format`."""

    json = "json"
    png = "png"
    npy = "npy"
    safetensors = "safetensors"
    zip = "zip"
    payload = "payload"

    @property
    def media_type(self) -> str:
        """The Content-Type of an answer in this format."""
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    Format.json: JSON,
    Format.png: "image/png",
    Format.npy: NPY,
    Format.safetensors: SAFETENSORS,
    Format.zip: "application/zip",
    Format.payload: PAYLOAD,
}


def choose_format(accept: str | None, override: str | None, offered: Sequence[Format]) -> Format:
    """Choose the offered format that the Accept header prefers, or that `override` (`?format=`) names.

    Follows RFC 9110: the most specific range gives a media type's quality. Equal qualities go to the more
    specific range, then to JSON, then to the order of `offered`. Raises 422 for an override and 406 for an
    Accept header that nothing offered matches.
    """
    if override is not None:
        return _named(override, offered)
    if accept is None or not accept.strip():
        accept = "*/*"
    ranges = list(_media_ranges(accept))
    preferences = {name: _preference(name.media_type, ranges) for name in offered}
    chosen = max(offered, key=lambda name: (*preferences[name], name is Format.json))
    if preferences[chosen][0] == 0:
        media_types = ", ".join(name.media_type for name in offered)
        detail = f"Accept is {echo(accept)}; offered are {media_types}"
        raise Problem(Kind.NOT_ACCEPTABLE, detail, value=accept, limit=media_types)
    return chosen


def without_parameters(content_type: str | None) -> str:
    """Return a Content-Type without its parameters, in small letters; nothing of none."""
    return (content_type or "").partition(";")[0].strip().lower()


def media_type_of(content_type: str | None, supported: Sequence[str]) -> str:
    """Return a Content-Type without its parameters; raises 415 unless it is one of `supported`."""
    media_type = without_parameters(content_type)
    if media_type not in supported:
        named = f"Content-Type is {echo(content_type)}" if content_type else "the request has no Content-Type"
        listed = ", ".join(supported)
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE, f"{named}; supported are {listed}", value=content_type, limit=listed
        )
    return media_type


def _named(override: str, offered: Sequence[Format]) -> Format:
    if override not in offered:
        names = ", ".join(offered)
        detail = f"format={echo(override)} is not offered here; offered are {names}"
        raise Problem(Kind.INVALID, detail, value=override, limit=names)
    return Format(override)


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    for element in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in element.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        if _QUALITY.fullmatch(quality):
            yield media_range, float(quality)


def _preference(media_type: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """Return (quality, specificity): of the exact range if there is one, else of type/*, else of */*."""
    general = media_type.partition("/")[0] + "/*"
    for specificity, wanted in ((2, media_type), (1, general), (0, "*/*")):
        qualities = [quality for media_range, quality in ranges if media_range == wanted]
        if qualities:
            return max(qualities), specificity
    return 0.0, 0
