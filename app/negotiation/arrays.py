"""Arrays in npy and safetensors bytes: read without trust, and headers written ahead of streamed data."""

import math
import re
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
import orjson
import safetensors
from numpy.lib import format as npy_format

from app.errors import Kind, Problem, echo

_NPY_HEADER_BYTES = 1024  # numpy writes 128 for every array that has a place here
_SIDE = b"(?:0|[1-9][0-9]{0,9})"
_USUAL_NPY_HEADER = re.compile(  # of an array that has a place here, as numpy writes it
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '(\|u1|[<>]f4)', 'fortran_order': (False|True), 'shape': "
    rb"\((" + _SIDE + rb",|" + _SIDE + rb"(?:, " + _SIDE + rb")+)\), \} *\n",
    re.DOTALL,
)
_NpyHeader = tuple[tuple[int, ...], bool, np.dtype[Any], int]  # shape, whether Fortran's order, dtype, length
# CPython 3.11's parser mixes up the depths of threads that parse at once, and raises SystemError.
_parsing_python = Lock()
_SAFETENSORS_DTYPES = {"U8": np.dtype(np.uint8), "F32": np.dtype(np.float32)}


def read_npy(body: bytes, dtype: np.dtype[Any]) -> np.ndarray:
    """View the one array of an .npy file, native byte order, without copying where the bytes allow it.

    Never unpickles and allocates nothing before the declared shape equals the bytes present. Raises 400 for a
    damaged file and 422 for another dtype.
    """
    shape, is_fortran, declared, offset = _usual_npy_header(body) or _any_npy_header(body)
    if declared.newbyteorder("=") != dtype:
        raise Problem(
            Kind.INVALID, f"the array is {declared}; expected {dtype}", value=str(declared), limit=str(dtype)
        )
    present_bytes = len(body) - offset
    declared_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or present_bytes != declared_bytes:
        declaration = f"shape {echo(shape)}, {echo(declared_bytes)} bytes"
        detail = f"the .npy header declares {declaration}; {present_bytes} follow"
        raise Problem(Kind.MALFORMED, detail, value=present_bytes, limit=declared_bytes)
    return _view(body, shape, declared, offset, "F" if is_fortran else "C")


class NpyPieces:
    """An .npy file that comes in pieces, its header in the first: no more than that declares, or may be."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._declared_bytes: int | None = None  # with the header
        self._bytes = 0

    def check(self, piece: bytes) -> None:
        """Raise 413 where more is declared than `max_bytes`, 400 for more than that, and for no header."""
        if self._declared_bytes is None:
            if len(piece) < _NPY_HEADER_BYTES:  # all that comes
                return
            self._declared_bytes = self._declared(piece)
        self._bytes += len(piece)
        if self._bytes > self._declared_bytes:
            declaration = f"{echo(self._declared_bytes)} bytes with it"
            detail = f"the .npy header declares {declaration}; {self._bytes} or more come"
            raise Problem(Kind.MALFORMED, detail, value=self._bytes, limit=self._declared_bytes)

    def _declared(self, piece: bytes) -> int:
        shape, _, dtype, offset = _usual_npy_header(piece) or _any_npy_header(piece)
        if dtype.hasobject:  # whose size it does not declare; read_npy says that it is another dtype
            return self._max_bytes
        declared_bytes = offset + math.prod(shape) * dtype.itemsize
        if declared_bytes > self._max_bytes:
            declaration = f"shape {echo(shape)}, {echo(declared_bytes)} bytes with it"
            detail = f"the .npy header declares {declaration}; the limit is {self._max_bytes}"
            raise Problem(Kind.TOO_LARGE, detail, value=declared_bytes, limit=self._max_bytes)
        return declared_bytes


def read_safetensors(body: bytes, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """View the tensor `name` of a safetensors file.

    Raises 400 for a damaged file and 422 for a missing tensor or another dtype.
    """
    try:
        tensors = dict(safetensors.deserialize(body))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise Problem(Kind.MALFORMED, f"the body is not a safetensors file: {error}") from error
    if name not in tensors:
        found = echo(sorted(tensors))
        raise Problem(
            Kind.INVALID, f"the file has the tensors {found}; expected {name}", value=found, limit=name
        )
    tensor = tensors[name]
    if _SAFETENSORS_DTYPES.get(tensor["dtype"]) != dtype:
        detail = f"tensor {name} is {tensor['dtype']}; expected {dtype}"
        raise Problem(Kind.INVALID, detail, value=tensor["dtype"], limit=str(dtype))
    return _view(tensor["data"], tuple(tensor["shape"]), dtype, 0, "C")


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what precedes the data of a C-ordered array in an .npy file."""
    header = BytesIO()
    described = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(header, described)
    return header.getvalue()


def safetensors_header(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what precedes the data of the only tensor in a safetensors file."""
    code = next(code for code, known in _SAFETENSORS_DTYPES.items() if known == dtype)
    data_bytes = math.prod(shape) * dtype.itemsize
    header = orjson.dumps({name: {"dtype": code, "shape": shape, "data_offsets": (0, data_bytes)}})
    padded = header.ljust(math.ceil(len(header) / 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def _usual_npy_header(body: bytes) -> _NpyHeader | None:
    found = _USUAL_NPY_HEADER.match(body, 0, _NPY_HEADER_BYTES)
    if found is None or int.from_bytes(found[1], "little") != found.end() - found.end(1):
        return None
    shape = tuple(int(side) for side in found[4].split(b",") if side)
    return shape, found[3] == b"True", np.dtype(found[2].decode()), found.end()


def _any_npy_header(body: bytes) -> _NpyHeader:
    file = BytesIO(body[:_NPY_HEADER_BYTES])
    try:
        with _parsing_python:
            shape, is_fortran, declared = _read_npy_header(file)
        if any(isinstance(side, bool) for side in shape):  # numpy's parser takes them for whole numbers
            raise ValueError(f"shape is not valid: {shape}")
    except Exception as error:  # numpy parses the header as Python and lets that parser's errors through
        raise Problem(Kind.MALFORMED, f"the body is not an .npy file: {error}") from error
    return shape, is_fortran, declared, file.tell()


def _read_npy_header(file: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file, _NPY_HEADER_BYTES)
    if version in (
        (2, 0),
        (3, 0),
    ):  # 3.0 differs in allowing UTF-8 field names, and fields are refused anyway
        return npy_format.read_array_header_2_0(file, _NPY_HEADER_BYTES)
    raise ValueError(f"version {version[0]}.{version[1]}; versions 1.0 to 3.0 are read")


def _view(data: bytes, shape: tuple[int, ...], stored: np.dtype[Any], offset: int, order: Any) -> np.ndarray:
    try:
        array = np.ndarray(shape, stored, data, offset, order=order)
    except (ValueError, OverflowError) as error:  # a shape with a 0 whose other axes are beyond numpy
        raise Problem(Kind.INVALID, f"shape {echo(shape)}: {error}", value=shape) from error
    return array.astype(stored.newbyteorder("="), copy=False)
