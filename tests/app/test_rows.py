"""Rows by images and by bytes, of arrays and of chunks."""

import numpy as np
import pytest

from app.rows import bytes_in, chunk_rows, images_in, stop_of

ARRAY = np.zeros((5, 2, 3), np.float32)
CHUNKS = chunk_rows([np.zeros((count, 1, 2, 2), np.uint8) for count in (3, 3, 1, 4)])


def test_an_array_has_an_image_a_row() -> None:
    assert images_in(ARRAY) == 5
    assert bytes_in(ARRAY) == 5 * 2 * 3 * 4
    assert stop_of(ARRAY, 1, 3) == 4
    assert stop_of(ARRAY, 1, 100) == 5


def test_chunks_have_the_images_of_them_all() -> None:
    assert CHUNKS.shape == (4,)
    assert images_in(CHUNKS) == 11
    assert bytes_in(CHUNKS) == 44


@pytest.mark.parametrize(
    ("start", "images", "stop"), [(0, 1, 1), (0, 5, 1), (0, 6, 2), (0, 7, 3), (1, 100, 4), (3, 1, 4)]
)
def test_chunks_are_taken_while_there_is_room_and_one_at_least(start: int, images: int, stop: int) -> None:
    assert stop_of(CHUNKS, start, images) == stop
