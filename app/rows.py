"""Rows of a job: an image or a latent each, in one array; or chunks of images, in an array of objects.

A chunk has a length, its images, and `nbytes`, the bytes that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chunk_rows(chunks: Sequence[object]) -> np.ndarray:
    """Return an array with an object a row."""
    return np.fromiter(chunks, object, len(chunks))


def images_in(rows: np.ndarray) -> int:
    """Return the images of rows."""
    return sum(map(len, rows)) if rows.dtype == object else len(rows)


def bytes_in(rows: np.ndarray) -> int:
    """Return the bytes of rows."""
    return sum(chunk.nbytes for chunk in rows) if rows.dtype == object else rows.nbytes


def stop_of(rows: np.ndarray, start: int, images: int) -> int:
    """Return where rows from `start` end that have at most `images` images: one row at least."""
    if rows.dtype != object:
        return min(start + images, len(rows))
    stop, left = start + 1, images - len(rows[start])
    while stop < len(rows) and len(rows[stop]) <= left:
        left -= len(rows[stop])
        stop += 1
    return stop
