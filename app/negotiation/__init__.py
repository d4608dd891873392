"""Bytes ↔ arrays: what a request's body means, and what an answer looks like on the wire. No torch here.

request body ── inflated ──► request body, where it came with a Content-Encoding
request body ── parse_images ──► uint8 (N, H, W, C) ── conform ──► the model's shape
request body ── parse_images ──► images of any size ── as_one_array ──► uint8 (N, H, W, C)
request body ── parse_latents ──► float32 (N, D)
request body ── parse_payload ──► bytes
arrays ── encoded_answer, images_answer, stream_images ──► response
"""

from app.negotiation.answers import (
    COMPRESSED_FORMATS,
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    ImageChunk,
    Write,
    compressed_answer,
    encoded_answer,
    images_answer,
    json_answer,
    stream_images,
)
from app.negotiation.codings import (
    BODY_CODINGS,
    accepted_coding,
    content_coding,
    deflated,
    inflated,
    is_worth_coding,
)
from app.negotiation.media import IMAGES_IN, LATENTS_IN, PAYLOADS_IN, Format, choose_format
from app.negotiation.requests import (
    MAX_JSON_VALUES,
    Limits,
    as_one_array,
    check_of_pieces,
    checked_images,
    checked_latents,
    conform,
    decoded_images,
    json_of,
    parse_images,
    parse_latents,
    parse_payload,
    read_body,
    values_of_rows,
)

__all__ = [
    "BODY_CODINGS",
    "COMPRESSED_FORMATS",
    "ENCODED_FORMATS",
    "IMAGES_IN",
    "IMAGE_FORMATS",
    "LATENTS_IN",
    "MAX_JSON_VALUES",
    "PAYLOADS_IN",
    "Format",
    "ImageChunk",
    "Limits",
    "Write",
    "accepted_coding",
    "as_one_array",
    "check_of_pieces",
    "checked_images",
    "checked_latents",
    "choose_format",
    "compressed_answer",
    "conform",
    "content_coding",
    "decoded_images",
    "deflated",
    "encoded_answer",
    "images_answer",
    "inflated",
    "is_worth_coding",
    "json_answer",
    "json_of",
    "parse_images",
    "parse_latents",
    "parse_payload",
    "read_body",
    "stream_images",
    "values_of_rows",
]
