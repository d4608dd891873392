"""Payloads and archives, as /decompress reads them, by the shipped bundles' codecs."""

from __future__ import annotations

import asyncio
import zlib

import numpy as np
from starlette.requests import Request
from starlette.types import Message

from app import tasks
from app.tasks import Opened
from codec.encoding import Manner, compress
from codec.payload import Kind
from fuzzing import sums
from fuzzing.expected import LIMITS, SMALL, accepted, awaited, check_equal, check_images
from fuzzing.serving import SERVICE

EFFORTS = {Kind.BEST: Manner("best"), Kind.FAST: Manner("fast")}
PATH = "/decompress"
mended = sums.mended_archive


def check(data: bytes) -> None:
    """Decode a payload, and one image of it; a lossless one is made again and decoded again."""
    index = zlib.crc32(data) % 4
    of_all, of_one = _opened(data, None), _opened(data, index)
    images = None if of_all is None else _decoded(of_all)
    if of_all is None or images is None:
        if of_all is None and of_one is not None:  # of an archive
            _decoded(of_one)
        return
    if of_one is None:
        assert index >= len(images)
    else:
        one = _decoded(of_one)
        assert one is not None
        check_equal(one, images[index : index + 1])
    if images.size <= SMALL:
        manner = EFFORTS.get(of_all.header.kind, Manner())
        made = _opened(compress(images.transpose(0, 3, 1, 2), of_all.header.model, manner), None)
        assert made is not None
        again = _decoded(made)
        assert again is not None
        check_equal(again, images)


def _opened(data: bytes, index: int | None) -> Opened | None:
    opening = tasks.open_payload(SERVICE, _request(), data, index, None, SERVICE.deadline())
    return accepted(lambda: awaited(opening), PATH)


def _decoded(opened: Opened) -> np.ndarray | None:
    decoding = tasks.decompress(SERVICE, _request(), opened, SERVICE.deadline())
    decoded = accepted(lambda: awaited(decoding), PATH)
    if decoded is None:
        return None
    check_images(decoded.found, (1, 3, 4))
    assert len(decoded.found) == opened.count <= LIMITS.images
    return decoded.found


def _request() -> Request:
    async def receive() -> Message:
        return await asyncio.Event().wait() and {}  # a client that stays

    return Request({"type": "http", "path": PATH, "headers": []}, receive)
