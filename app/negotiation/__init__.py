"""Bytes ↔ arrays: what a request's body means, and what an answer looks like on the wire. No torch here.

request body ── parse_images ──► uint8 (N, H, W, C) ── conform ──► the model's shape
request body ── parse_latents ──► float32 (N, D)
arrays ── encoded_answer, images_answer, stream_images ──► response
"""

from app.negotiation.answers import (
    ENCODED_FORMATS,
    IMAGE_FORMATS,
    ImageChunk,
    encoded_answer,
    images_answer,
    json_answer,
    stream_images,
)
from app.negotiation.media import IMAGES_IN, LATENTS_IN, Format, choose_format
from app.negotiation.requests import Limits, conform, parse_images, parse_latents, read_body

__all__ = [
    "ENCODED_FORMATS",
    "IMAGES_IN",
    "IMAGE_FORMATS",
    "LATENTS_IN",
    "Format",
    "ImageChunk",
    "Limits",
    "choose_format",
    "conform",
    "encoded_answer",
    "images_answer",
    "json_answer",
    "parse_images",
    "parse_latents",
    "read_body",
    "stream_images",
]
