"""Any images at all: they come back, one as well as all, and no chunk depends on its neighbours."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codec.chunk import Coded, decode_chunks, encode_chunks
from codec.encoding import KINDS, Manner, compress
from codec.model import CodecModel
from codec.payload import decompress, decompress_one, parsed
from codec.rans import TOTAL, pop, push
from tests.codecs import pictures

MANNERS = [Manner(effort, error) for effort in KINDS for error in (0, 0, 1, 5, 127)]
MANNERS += [Manner("best", searches_latents=True), *(Manner(quality=quality) for quality in (1, 30, 60, 99))]


def images_of(codec: CodecModel, most: int = 5) -> st.SearchStrategy[np.ndarray]:
    """Images of a codec's shape: from what it was trained with to anything, some the same."""
    shape = codec.config.shape
    known = st.builds(pictures, st.just(shape), st.integers(1, most), st.integers(0, 9))
    return known | st.integers(1, most).flatmap(lambda count: arrays(np.uint8, (count, *shape)))


def test_any_images_come_back_within_the_error_one_as_well_as_all(codec: CodecModel) -> None:
    @settings(deadline=None)
    @given(images=images_of(codec), manner=st.sampled_from(MANNERS), data=st.data())
    def check(images: np.ndarray, manner: Manner, data: st.DataObject) -> None:
        header = parsed(compress(images, codec, manner), {codec.prefix: codec}.get)
        found = decompress(header)
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        if manner.quality is None:
            assert np.abs(found.astype(int) - images).max() <= manner.max_error
        index = data.draw(st.integers(0, len(images) - 1))
        np.testing.assert_array_equal(decompress_one(header, index), found[index : index + 1])

    check()


@settings(deadline=None)
@given(
    images=arrays(
        np.uint8, st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 4]), *[st.integers(1, 12)] * 2)
    )
)
def test_any_images_of_any_shape_come_back(images: np.ndarray) -> None:
    header = parsed(compress(images, None), lambda prefix: None)
    np.testing.assert_array_equal(decompress(header), images)


def test_no_chunk_depends_on_those_that_are_coded_beside_it(codec: CodecModel) -> None:
    @settings(deadline=None)
    @given(st.lists(images_of(codec, 3), min_size=2, max_size=3))
    def check(chunks: list[np.ndarray]) -> None:
        streams = encode_chunks(codec, chunks)
        assert streams == [encode_chunks(codec, [chunk])[0] for chunk in chunks]
        coded = [Coded(stream, len(chunk)) for stream, chunk in zip(streams, chunks, strict=True)]
        for found, chunk in zip(decode_chunks(codec, coded), chunks, strict=True):
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, chunk)

    check()


@st.composite
def symbols(draw: st.DrawFn) -> tuple[int, int]:
    """A symbol's first slot, and how many it has."""
    start = draw(st.integers(0, TOTAL - 1))
    return start, draw(st.integers(1, TOTAL - start))


@given(
    state=st.integers(1 << 40, (1 << 56) - 1),
    symbol=symbols(),
    below=st.lists(st.integers(0, 0xFFFF), max_size=3),
)
def test_what_is_pushed_pops_off_again(state: int, symbol: tuple[int, int], below: list[int]) -> None:
    words = np.zeros(8, np.uint16)
    words[: len(below)] = below
    pushed, count = push(np.int64(state), *symbol, words, len(below))
    assert symbol[0] <= pushed % TOTAL < sum(symbol)
    assert pop(np.int64(pushed), *symbol, words, count) == (state, len(below))
    assert words[: len(below)].tolist() == below
