"""npy and safetensors: exact bytes out, views in, and nothing hostile gets further than a problem."""

import ast
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Semaphore
from typing import Any

import numpy as np
import orjson
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.errors import Kind, Problem
from app.negotiation.arrays import npy_header, read_npy, read_safetensors, safetensors_header

UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
ANY_ARRAY = st.one_of(
    arrays(UINT8, array_shapes(max_dims=4, min_side=0)), arrays(FLOAT32, array_shapes(max_dims=2, min_side=0))
)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npy_with(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1") + data


def safetensors_with(header: object, data: bytes = b"") -> bytes:
    text = orjson.dumps(header)
    return len(text).to_bytes(8, "little") + text + data


def refused(kind: Kind, body: bytes, reader: Any = read_npy, *arguments: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        reader(body, *(arguments or (UINT8,)))
    assert caught.value.kind is kind
    return caught.value


class TestGoldenBytes:
    def test_npy_header(self) -> None:
        header = npy_header(UINT8, (2, 28, 28, 1))
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 28, 28, 1), }"
        assert header == b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117) + b"\n"

    def test_safetensors_header(self) -> None:
        header = safetensors_header("images", UINT8, (2, 28, 28, 1))
        text = b'{"images":{"dtype":"U8","shape":[2,28,28,1],"data_offsets":[0,1568]}}'
        assert header == b"\x48\0\0\0\0\0\0\0" + text.ljust(72)

    @settings(deadline=None)
    @given(ANY_ARRAY)
    def test_headers_are_those_that_the_libraries_write(self, array: np.ndarray) -> None:
        assert npy_header(array.dtype, array.shape) + array.tobytes() == npy(array)
        whole = safetensors_header("z", array.dtype, array.shape) + array.tobytes()
        assert whole == safetensors.numpy.save({"z": array})


class TestReading:
    @settings(deadline=None)
    @given(ANY_ARRAY)
    def test_npy_gives_back_what_was_written(self, array: np.ndarray) -> None:
        read = read_npy(npy(array), array.dtype)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)

    @settings(deadline=None)
    @given(ANY_ARRAY)
    def test_safetensors_gives_back_what_was_written(self, array: np.ndarray) -> None:
        read = read_safetensors(safetensors.numpy.save({"other": array, "z": array}), "z", array.dtype)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_npy_versions(self, version: tuple[int, int]) -> None:
        array = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
        np.testing.assert_array_equal(read_npy(npy(array, version), UINT8), array)

    def test_fortran_order(self) -> None:
        array = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
        body = npy(array)
        assert b"'fortran_order': True" in body
        np.testing.assert_array_equal(read_npy(body, UINT8), array)

    def test_big_endian_becomes_native(self) -> None:
        array = np.array([[1.5, -2.0]], dtype=">f4")
        read = read_npy(npy(array), FLOAT32)
        assert read.dtype == FLOAT32
        assert read.tolist() == [[1.5, -2.0]]

    @pytest.mark.parametrize(
        "array", [np.zeros((2, 0, 1), np.uint8), np.ones((3, 4), ">f4"), np.ones(5, "<f4")]
    )
    def test_a_header_as_numpy_writes_it_is_not_parsed_as_python(
        self, array: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = npy(array)
        monkeypatch.setattr("ast.literal_eval", None)
        np.testing.assert_array_equal(read_npy(body, array.dtype.newbyteorder("=")), array)

    def test_other_headers_are_parsed_one_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parse, parsing = ast.literal_eval, Semaphore(1)

        def parse_alone(text: str) -> object:
            assert parsing.acquire(blocking=False)
            time.sleep(0.01)
            parsing.release()
            return parse(text)

        monkeypatch.setattr("ast.literal_eval", parse_alone)
        body = npy_with('{"shape": (2,), "descr": "u1", "fortran_order": False}\n', b"ab")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: read_npy(body, UINT8).tolist(), range(8)))
        assert found == [[97, 98]] * 8

    def test_npy_is_a_view_of_the_body(self) -> None:
        body = npy(np.zeros((256, 28, 28), np.uint8))
        assert np.shares_memory(read_npy(body, UINT8), np.frombuffer(body, np.uint8))


class TestRefusingNpy:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"hello",
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\xff\xff{}",
            npy_with("not a dict"),
            npy_with("[" * 300),
            npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (02,), }\n", b"ab"),
            npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, ), } \n)", b"ab"),
            npy_with("(" * 100 + "'"),
            npy_with("{'descr': '|u1', 'fortran_order': False}"),
            npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (2.0,)}", b"ab"),
            npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (2, True)}", b"ab"),
            npy_with("{'descr': 'nonsense', 'fortran_order': False, 'shape': (2,)}", b"ab"),
            npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}" + " " * 2000, b"a"),
        ],
    )
    def test_damaged_header(self, body: bytes) -> None:
        assert refused(Kind.MALFORMED, body).detail.startswith("the body is not an .npy file: ")

    def test_unknown_version(self) -> None:
        problem = refused(Kind.MALFORMED, b"\x93NUMPY\x09\x00" + bytes(100))
        assert problem.detail == "the body is not an .npy file: version 9.0; versions 1.0 to 3.0 are read"

    @pytest.mark.parametrize(
        ("dtype", "name"), [("f8", "float64"), ("i1", "int8"), ("f2", "float16"), ("?", "bool")]
    )
    def test_other_dtypes(self, dtype: str, name: str) -> None:
        problem = refused(Kind.INVALID, npy(np.zeros(2, dtype)))
        assert problem.detail == f"the array is {name}; expected uint8"
        assert (problem.value, problem.limit) == (name, "uint8")

    def test_pickles_are_never_loaded(self) -> None:
        file = BytesIO()
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        assert refused(Kind.INVALID, file.getvalue()).detail == "the array is object; expected uint8"

    @pytest.mark.parametrize("change", [-1, 1])
    def test_bytes_must_be_as_many_as_declared(self, change: int) -> None:
        body = npy(np.zeros((2, 3), np.uint8))
        body = body[:-1] if change < 0 else body + b"\0"
        problem = refused(Kind.MALFORMED, body)
        assert problem.detail == f"the .npy header declares shape [2, 3], 6 bytes; {6 + change} follow"
        assert (problem.value, problem.limit) == (6 + change, 6)

    @pytest.mark.parametrize("shape", [(10**12, 28, 28), (10**30,), (-1, -6), (-1, 0)])
    def test_absurd_shapes_allocate_nothing(self, shape: tuple[int, ...]) -> None:
        body = npy_with(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}", bytes(6))
        tracemalloc.start()
        try:
            refused(Kind.MALFORMED, body)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("shape", [(10**30, 0), (0,) * 100])
    def test_empty_shapes_beyond_numpy(self, shape: tuple[int, ...]) -> None:
        body = npy_with(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}")
        assert refused(Kind.INVALID, body).detail.startswith("shape ")


class TestRefusingSafetensors:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"short",
            b"\xff" * 8 + b"{}",
            safetensors_with({"z": {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}}),
            safetensors_with({"z": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}, b"a"),
            safetensors_with({"z": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"ab"),
            safetensors_with({"z": 1}),
        ],
    )
    def test_damaged(self, body: bytes) -> None:
        problem = refused(Kind.MALFORMED, body, read_safetensors, "z", UINT8)
        assert problem.detail.startswith("the body is not a safetensors file: ")

    def test_missing_tensor(self) -> None:
        body = safetensors.numpy.save({"b": np.zeros(1, np.uint8), "a": np.zeros(1, np.uint8)})
        problem = refused(Kind.INVALID, body, read_safetensors, "images", UINT8)
        assert problem.detail == "the file has the tensors ['a', 'b']; expected images"
        assert (problem.value, problem.limit) == ("['a', 'b']", "images")

    @pytest.mark.parametrize(("dtype", "code"), [("f8", "F64"), ("f4", "F32"), ("i1", "I8")])
    def test_other_dtypes(self, dtype: str, code: str) -> None:
        body = safetensors.numpy.save({"images": np.zeros(2, dtype)})
        problem = refused(Kind.INVALID, body, read_safetensors, "images", UINT8)
        assert problem.detail == f"tensor images is {code}; expected uint8"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    array = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    body = bytearray(draw(st.sampled_from([npy(array), safetensors.numpy.save({"z": array})])))
    for position in draw(st.lists(st.integers(0, len(body) - 1), max_size=6)):
        body[position] = draw(st.integers(0, 255) | st.sampled_from(b"([{}])'\"\\,:-0123456789L"))
    return bytes(body[: draw(st.integers(0, len(body)) | st.just(len(body)))])


def array_or_kind(read: Callable[[], np.ndarray]) -> np.ndarray | Kind:
    try:
        return read()
    except Problem as problem:
        return problem.kind


class TestHostileBytes:
    @settings(max_examples=500, deadline=None)
    @given(damaged() | st.binary(max_size=200))
    def test_give_an_array_or_a_problem(self, body: bytes) -> None:
        for read in (lambda: read_npy(body, UINT8), lambda: read_safetensors(body, "z", UINT8)):
            outcome = array_or_kind(read)
            if isinstance(outcome, Kind):
                assert outcome in (Kind.MALFORMED, Kind.INVALID)
            else:
                assert outcome.dtype == UINT8
                assert outcome.nbytes <= len(body)
