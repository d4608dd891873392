"""Layers in vectors compute what the specification says, on processors of every sort."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features, parse_assembly
from numba import njit
from numba.core.errors import TypingError

from codec.context import ContextNetwork, packed_network
from codec.layers import (
    LARGEST_UNIT,
    SMALLEST_UNIT,
    _sums_of_pairs,
    packed,
    padded_inputs,
    padded_outputs,
    set_first_units,
    set_outputs,
    set_units,
)
from codec.model import CodecModel
from tests.codec.reference import act, rounded

CHANNELS = 3
SIZES = [(1, 1, 1), (4, 2, 16), (5, 7, 33), (9, 64, 48), (16, 24, 9), (3, 0, 20), (2, 5, 67)]
# What numba compiles for, in place of the processor that it finds.
PROCESSORS = {
    "plain": "",
    "sse2": "+sse2",
    "avx2": "+sse2,+sse4.2,+avx,+avx2",
    "avx512": "+sse2,+avx2,+avx512f,+avx512vl,+avx512bw",
}


@njit
def outputs_of(lanes, channel, inputs, layer, out):  # type: ignore[no-untyped-def]
    set_outputs(lanes, channel, inputs, layer, out)


@njit
def units_of(lanes, channel, inputs, layer, out):  # type: ignore[no-untyped-def]
    set_units(lanes, channel, inputs, layer, out)


@njit
def first_units_of(lanes, channel, inputs, layer, out, before):  # type: ignore[no-untyped-def]
    set_first_units(lanes, channel, inputs, layer, out, before)


def check(lanes: int, inputs: int, outputs: int) -> None:
    """Compare every kind of layer with the specification, on numbers up to the largest of 16 bits."""
    rng = np.random.default_rng(lanes + inputs)
    weight = rng.integers(-(2**15), 2**15, (CHANNELS, outputs, inputs)).astype(np.int16)
    weight[:, :, ::3] //= 512  # so that sums are of every size
    weight //= max(1, inputs // 2)
    bias = rng.integers(-(2**20), 2**20, (CHANNELS, outputs)).astype(np.int32)
    shift = rng.integers(0, 29, (CHANNELS, outputs)).astype(np.int32)
    layer = packed(weight, bias, shift)
    x = np.zeros((lanes, padded_inputs(inputs)), np.int16)
    x[:, :inputs] = rng.integers(SMALLEST_UNIT, LARGEST_UNIT + 1, (lanes, inputs))
    wide = np.empty((lanes, padded_outputs(outputs)), np.int32)
    narrow = wide.astype(np.int16)
    before = rng.integers(-(2**20), 2**20, wide.shape).astype(np.int32)
    for channel in range(CHANNELS):
        totals = x[:, :inputs].astype(np.int64) @ weight[channel].T.astype(np.int64) + bias[channel]
        shifts = [int(s) for s in shift[channel]]
        outputs_of(lanes, channel, x, layer, wide)
        assert wide[:, :outputs].tolist() == [
            [rounded(int(t), s) for t, s in zip(row, shifts, strict=True)] for row in totals
        ]
        units_of(lanes, channel, x, layer, narrow)
        assert narrow[:, :outputs].tolist() == units(totals, shifts)
        first_units_of(lanes, channel, x, layer, narrow, before)
        assert narrow[:, :outputs].tolist() == units(totals + before[:, :outputs], shifts)


def units(totals: np.ndarray, shifts: list[int]) -> list[list[int]]:
    return [
        [act(int(t), s, SMALLEST_UNIT, LARGEST_UNIT) for t, s in zip(row, shifts, strict=True)]
        for row in totals
    ]


@pytest.mark.parametrize("sizes", SIZES)
def test_layers_are_those_of_the_specification(sizes: tuple[int, int, int]) -> None:
    check(*sizes)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_they_are_so_on_every_processor(processor: str) -> None:
    needed = set(PROCESSORS[processor].replace("+", "").split(",")) - {""}
    missing = sorted(name for name in needed if not get_host_cpu_features().get(name))
    if missing:
        pytest.skip(f"this processor has no {', '.join(missing)}")
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": PROCESSORS[processor]}
    code = "from tests.codec.test_layers import SIZES, check\nfor sizes in SIZES: check(*sizes)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)


@pytest.mark.parametrize(
    ("features", "calls"),
    [
        ("+sse2,+avx2,+avx512bw", {"llvm.x86.avx512.pmaddw.d.512": 1}),
        ("+sse2,+avx2,+avx512f", {"llvm.x86.avx2.pmadd.wd": 2}),
        ("+sse2", {"llvm.x86.sse2.pmadd.wd": 4}),
        ("+neon", {}),
    ],
)
def test_a_processor_s_own_instruction_makes_sums_of_pairs(features: str, calls: dict[str, int]) -> None:
    module = ir.Module()
    pairs, sums = ir.VectorType(ir.IntType(16), 32), ir.VectorType(ir.IntType(32), 16)
    function = ir.Function(module, ir.FunctionType(sums, [pairs, pairs]), "sums")
    builder = ir.IRBuilder(function.append_basic_block())
    code = SimpleNamespace(magic_tuple=lambda: ("triple", "processor", features))
    context = SimpleNamespace(codegen=lambda: code)
    builder.ret(_sums_of_pairs(context, builder, *function.args))
    parse_assembly(str(module)).verify()
    assert Counter(re.findall(r"call .*@\"(llvm[^\"]*)", str(module))) == calls
    assert str(module).count("= mul ") == (0 if calls else 2)


@pytest.mark.parametrize("shift", [0, 1, 2, 7, 28])
def test_rounding_and_rectifying_is_that_of_the_specification_about_every_half(shift: int) -> None:
    most = 2**31 - 2**28 - 1
    totals = [-most, *(np.arange(-40, 40) * max(1, 2**shift // 8)), most]
    nothing = np.zeros((1, 1, 0), np.int16)
    for total in totals:
        layer = packed(nothing, np.array([[total]], np.int32), np.array([[shift]], np.int32))
        inputs, wide = np.zeros((1, 0), np.int16), np.empty((1, 16), np.int32)
        narrow = wide.astype(np.int16)
        outputs_of(1, 0, inputs, layer, wide)
        units_of(1, 0, inputs, layer, narrow)
        assert wide[0, 0] == rounded(int(total), shift)
        assert narrow[0, 0] == act(int(total), shift, SMALLEST_UNIT, LARGEST_UNIT)


def test_arrays_of_another_kind_are_refused() -> None:
    layer = packed(np.zeros((1, 1, 2), np.int16), np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32))
    wide = np.zeros((1, 16), np.int32)
    with pytest.raises(TypingError, match=r"argument is array\(int32, 2d, C\), expected array\(int16"):
        outputs_of(1, 0, np.zeros((1, 2), np.int32), layer, wide)


def test_a_layer_is_in_whole_vectors_of_pairs() -> None:
    weight = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    layer = packed(weight, np.array([[7, 8]], np.int32), np.array([[1, 2]], np.int32))
    assert layer.weight.shape == (1, 1, 2, 32)
    assert layer.weight[0, 0, :, :4].tolist() == [[0, 1, 3, 4], [2, 0, 5, 0]]
    assert not layer.weight[0, 0, :, 4:].any()
    assert layer.bias.tolist() == [[7, 8] + [0] * 14]


def test_a_later_channel_of_a_pixel_counts_nothing(rgb: CodecModel) -> None:
    own = np.ones_like(rgb.fast.own_weight)
    network = packed_network(ContextNetwork(**(rgb.fast._asdict() | {"own_weight": own})), 0, 1)
    before = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert network.own_levels.tolist() == before
    assert network.own_residuals.weight[:, 0, :, :2].reshape(3, -1)[:, :3].tolist() == before
