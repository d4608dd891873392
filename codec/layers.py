"""Layers of integers of 16 bits, sixteen outputs at a time: exact, with sums of 32 bits.

    inputs (lane, I) ─► pairs ─► Σ (input · weight + input · weight) ─► + bias, shifted ─► outputs (lane, O)

They are written in LLVM's language, as whether it makes vectors of numba's loops hangs on everything around
them. The sum of two products of 16 bits is one instruction of x86 processors; of others LLVM makes the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16, Int32
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from codec.integer import LEAK_BITS

SMALLEST_UNIT, LARGEST_UNIT = -512, 4095
VECTOR, PAIR = 16, 2  # outputs of a vector, inputs of a pair
_LANES_AT_ONCE, _VECTORS_AT_ONCE = 4, 2  # of which the sums stay in AVX-512's registers

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_SUMS = ir.VectorType(_I32, VECTOR)
_PAIRS = ir.VectorType(_I16, VECTOR * PAIR)
# By the feature of a processor: LLVM's name of the instruction, and how many sums it makes.
_INSTRUCTIONS = {
    "+avx512bw": ("llvm.x86.avx512.pmaddw.d.512", 16),
    "+avx2": ("llvm.x86.avx2.pmadd.wd", 8),
    "+sse2": ("llvm.x86.sse2.pmadd.wd", 4),
}
_ALIGNED = 2  # bytes: an element of 16 bits
Builder = Any  # ir.IRBuilder: the library has no types
Value = Any  # of LLVM's
Finish = Callable[[Builder, Value, Value], Value]  # of sums and shifts
_intrinsic: Callable[[Callable[..., Any]], Callable[..., None]] = intrinsic  # calls do not give `typing`


class PackedLayer(NamedTuple):
    """A layer for each of some channels, in the order in which it is read; zeros fill the last vector."""

    weight: Int16[np.ndarray, "channel vector pair 32"]  # of sixteen outputs, for two inputs each
    bias: Int32[np.ndarray, "channel output"]
    shift: Int32[np.ndarray, "channel output"]  # to the right, 0 … 28


def packed(
    weight: Int16[np.ndarray, "channel output input"],
    bias: Int32[np.ndarray, "channel output"],
    shift: Int32[np.ndarray, "channel output"],
) -> PackedLayer:
    """Return a layer for `set_outputs` and the others."""
    channels, outputs, inputs = weight.shape
    vectors, pairs = padded_outputs(outputs) // VECTOR, padded_inputs(inputs) // PAIR
    missing = ((0, 0), (0, vectors * VECTOR - outputs))
    whole = np.pad(weight, (*missing, (0, pairs * PAIR - inputs)))
    by_pair = whole.reshape(channels, vectors, VECTOR, pairs, PAIR).transpose(0, 1, 3, 2, 4)
    in_order = np.ascontiguousarray(by_pair).reshape(channels, vectors, pairs, VECTOR * PAIR)
    return PackedLayer(in_order, np.pad(bias, missing), np.pad(shift, missing))


def padded_inputs(inputs: int) -> int:
    """Return how many inputs a layer reads: whole pairs."""
    return inputs + -inputs % PAIR


def padded_outputs(outputs: int) -> int:
    """Return how many outputs a layer writes: whole vectors."""
    return outputs + -outputs % VECTOR


@_intrinsic
def set_outputs(typing: Any, lanes: Any, channel: Any, inputs: Any, layer: Any, out: Any) -> Any:
    """Fill `out` (lane, O) with (inputs · weight + bias) · 2^−shift of a channel's layer, rounded.

    Inputs are of 16 bits, outputs of 32; rows have room for whole pairs and vectors.
    """
    return _signature(types.int32, lanes, channel, inputs, layer, out), _codegen(_rounded)


@_intrinsic
def set_units(typing: Any, lanes: Any, channel: Any, inputs: Any, layer: Any, out: Any) -> Any:
    """Fill `out` (lane, O), of 16 bits, with a channel's hidden units: the same, rectified and clamped."""
    return _signature(types.int16, lanes, channel, inputs, layer, out), _codegen(_rectified)


@_intrinsic
def set_first_units(
    typing: Any, lanes: Any, channel: Any, inputs: Any, layer: Any, out: Any, before: Any
) -> Any:
    """Do as `set_units`, with `before` (lane, O) added to the sums."""
    return _signature(types.int16, lanes, channel, inputs, layer, out, before), _codegen(_rectified)


def _signature(unit: Any, lanes: Any, channel: Any, inputs: Any, layer: Any, *outputs: Any) -> Any:
    """Return the signature of a layer; raise TypingError for arrays of other kinds."""
    of_layer = [(types.int16, 4), (types.int32, 2), (types.int32, 2)]
    kinds = [(types.int16, 2), *of_layer, (unit, 2), (types.int32, 2)]
    for argument, (kind, rank) in zip([inputs, *layer, *outputs], kinds, strict=False):
        if argument != types.Array(kind, rank, "C"):
            raise TypingError(f"a layer's argument is {argument}, expected {types.Array(kind, rank, 'C')}")
    return types.void(types.intp, types.intp, inputs, layer, *outputs)


class _Array:
    """An array among the arguments."""

    def __init__(self, context: Any, builder: Builder, kind: Any, value: Value) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        self.shape = cgutils.unpack_tuple(builder, array.shape)

    def load(self, kind: Any, *terms: Value) -> Value:
        """Return a value of a kind, from the sum of the terms on: an index of the array's elements."""
        loaded = self.builder.load(self._pointer(kind, terms))
        loaded.align = _ALIGNED
        return loaded

    def store(self, value: Value, *terms: Value) -> None:
        self.builder.store(value, self._pointer(value.type, terms)).align = _ALIGNED

    def _pointer(self, kind: Any, terms: tuple[Value, ...]) -> Value:
        index = terms[0]
        for term in terms[1:]:
            index = self.builder.add(index, term)
        return self.builder.bitcast(self.builder.gep(self.data, [index]), kind.as_pointer())


def _codegen(finish: Finish) -> Callable[..., Value]:
    def codegen(context: Any, builder: Builder, signature: Any, arguments: Any) -> Value:
        lanes, channel, inputs, layer, *outputs = arguments
        of_inputs, of_layer, *of_outputs = signature.args[2:]
        kinds = [of_inputs, *of_layer, *of_outputs]
        parts = [builder.extract_value(layer, i) for i in range(len(PackedLayer._fields))]
        arrays = [
            _Array(context, builder, kind, value)
            for kind, value in zip(kinds, [inputs, *parts, *outputs], strict=True)
        ]
        block = _Block(context, builder, channel, arrays, finish)
        _, vectors, _, _ = arrays[1].shape
        for vector, vector_count in _blocks(builder, vectors, _VECTORS_AT_ONCE):
            for lane, lane_count in _blocks(builder, lanes, _LANES_AT_ONCE):
                block.write(lane, lane_count, vector, vector_count)
        return context.get_dummy_value()

    return codegen


def _blocks(builder: Builder, count: Value, size: int) -> Iterator[tuple[Value, int]]:
    """Yield the first and the number of each block, in loops that go around what the caller writes."""
    whole = builder.mul(builder.sdiv(count, count.type(size)), count.type(size))
    for start, stop, step in ((count.type(0), whole, size), (whole, count, 1)):
        with cgutils.for_range_slice(builder, start, stop, count.type(step), intp=count.type) as (first, _):
            yield first, step


class _Block:
    """What makes some vectors of outputs of some lanes: inputs and weights are read once for all of them."""

    def __init__(
        self, context: Any, builder: Builder, channel: Value, arrays: list[_Array], finish: Finish
    ) -> None:
        self.context, self.builder, self.finish = context, builder, finish
        self.inputs, self.weight, self.bias, self.shift, self.out, *self.before = arrays
        _, vectors, self.pairs, _ = self.weight.shape
        self.pair_size = channel.type(VECTOR * PAIR)
        self.vector_size = builder.mul(self.pairs, self.pair_size)
        self.first_weight = builder.mul(channel, builder.mul(vectors, self.vector_size))
        self.first_bias = builder.mul(channel, self.bias.shape[1])

    def write(self, lane: Value, lane_count: int, vector: Value, vector_count: int) -> None:
        """Write the code of a block."""
        builder, number = self.builder, lane.type
        rows = [builder.add(lane, number(n)) for n in range(lane_count)]
        vectors = [builder.add(vector, number(v)) for v in range(vector_count)]
        outputs = [builder.mul(v, number(VECTOR)) for v in vectors]
        sums = self._sums(rows, vectors)
        for output, of_output in zip(outputs, zip(*sums, strict=True), strict=True):
            bias = self.bias.load(_SUMS, self.first_bias, output)
            shift = self.shift.load(_SUMS, self.first_bias, output)
            for row, total in zip(rows, of_output, strict=True):
                value = builder.add(builder.load(total), bias)
                for before in self.before:
                    place = builder.mul(row, before.shape[1])
                    value = builder.add(value, before.load(_SUMS, place, output))
                place = builder.mul(row, self.out.shape[1])
                self.out.store(self.finish(builder, value, shift), place, output)

    def _sums(self, rows: list[Value], vectors: list[Value]) -> list[list[Value]]:
        """Write the loop over pairs of inputs; return where the sums are, by row and vector."""
        builder, number = self.builder, rows[0].type
        sums = [[cgutils.alloca_once(builder, _SUMS) for _ in vectors] for _ in rows]
        for of_row in sums:
            for total in of_row:
                builder.store(_constant(0), total)
        places = [builder.add(self.first_weight, builder.mul(v, self.vector_size)) for v in vectors]
        starts = [builder.mul(row, self.inputs.shape[1]) for row in rows]
        with cgutils.for_range(builder, self.pairs, intp=number) as loop:
            of_pair = builder.mul(loop.index, self.pair_size)
            weights = [self.weight.load(_PAIRS, place, of_pair) for place in places]
            for start, of_row in zip(starts, sums, strict=True):
                pair = self.inputs.load(_I32, start, builder.mul(loop.index, number(PAIR)))
                inputs = builder.bitcast(_splat(builder, pair), _PAIRS)
                for weight, total in zip(weights, of_row, strict=True):
                    products = _sums_of_pairs(self.context, builder, inputs, weight)
                    builder.store(builder.add(builder.load(total), products), total)
        return sums


def _constant(value: int) -> Value:
    return ir.Constant(_SUMS, [value] * VECTOR)


def _indices(first: int, stop: int, step: int = 1) -> Value:
    places = list(range(first, stop, step))
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


def _splat(builder: Builder, value: Value) -> Value:
    undefined = ir.Constant(_SUMS, ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, value, _I32(0)), undefined, ir.Constant(_SUMS, [0] * VECTOR)
    )


def _sums_of_pairs(context: Any, builder: Builder, a: Value, b: Value) -> Value:
    """Return the sum of the two products of each pair."""
    _, _, features = context.codegen().magic_tuple()  # of the processor that numba compiles for
    for feature, (name, width) in _INSTRUCTIONS.items():
        if feature in features.split(","):
            return _sums_by_instruction(builder, a, b, name, width)
    undefined = ir.Constant(_PAIRS, ir.Undefined)
    products = []
    for i in range(PAIR):
        every_other = _indices(i, PAIR * VECTOR, PAIR)
        factors = [builder.sext(builder.shuffle_vector(of, undefined, every_other), _SUMS) for of in (a, b)]
        products.append(builder.mul(*factors))
    return builder.add(*products)


def _sums_by_instruction(builder: Builder, a: Value, b: Value, name: str, width: int) -> Value:
    """Do so with an instruction that makes `width` sums."""
    pairs, sums = ir.VectorType(_I16, PAIR * width), ir.VectorType(_I32, width)
    of_pairs = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [pairs, pairs]), name)
    undefined = ir.Constant(_PAIRS, ir.Undefined)
    parts = []
    for first in range(0, PAIR * VECTOR, PAIR * width):
        part = _indices(first, first + PAIR * width)
        parts.append(builder.call(of_pairs, [builder.shuffle_vector(of, undefined, part) for of in (a, b)]))
    while len(parts) > 1:
        both = _indices(0, PAIR * VECTOR // len(parts))
        parts = [builder.shuffle_vector(*two, both) for two in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _rounded(builder: Builder, total: Value, shift: Value) -> Value:
    half = builder.lshr(builder.shl(_constant(1), shift), _constant(1))
    return builder.ashr(builder.add(total, half), shift)


def _rectified(builder: Builder, total: Value, shift: Value) -> Value:
    # Of a total below 0 the one that is divided by more is larger, of one above 0 the other, which has not
    # wrapped around: sums are 2^28 below 2^31.
    leaking = builder.add(shift, _constant(LEAK_BITS))
    unit = _larger(builder, _rounded(builder, total, shift), _rounded(builder, total, leaking))
    unit = _larger(builder, unit, _constant(SMALLEST_UNIT))
    most = _constant(LARGEST_UNIT)
    unit = builder.select(builder.icmp_signed("<", unit, most), unit, most)
    return builder.trunc(unit, ir.VectorType(_I16, VECTOR))


def _larger(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.icmp_signed(">", a, b), a, b)
