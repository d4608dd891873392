"""The fast network computes what the specification says, whatever the shifts."""

from __future__ import annotations

import numpy as np
import pytest

from codec.context import ContextNetwork
from codec.fast import FAST_LANES, _set_hidden, _set_outputs, fast_network
from codec.model import CodecModel
from tests.codec.reference import act, rounded

TOTALS = np.arange(-40, 40)


@pytest.mark.parametrize("shift", [0, 1, 2, 7, 28])
def test_units_are_those_of_the_specification(shift: int) -> None:
    scale = max(1, 2**shift // 8)
    inputs = np.zeros((1, FAST_LANES), np.int32)
    weight = np.ones((1, 1, 1), np.int32)
    bias, shifts = np.zeros((1, 1), np.int32), np.full((1, 1), shift, np.int32)
    hidden, outputs = np.zeros((1, FAST_LANES), np.int32), np.zeros((1, FAST_LANES), np.int32)
    for first in range(0, len(TOTALS), FAST_LANES):
        totals = TOTALS[first : first + FAST_LANES] * scale
        inputs[0] = totals
        _set_hidden(inputs, weight, bias, shifts, np.uint64(0), (0,), hidden)
        assert hidden[0].tolist() == [act(int(t), shift, -512, 4095) for t in totals]
        _set_outputs(inputs, weight, bias, shifts, np.uint64(0), (0,), outputs)
        assert outputs[0].tolist() == [rounded(int(t), shift) for t in totals]


def test_a_later_channel_of_a_pixel_counts_nothing(rgb: CodecModel) -> None:
    own = np.ones_like(rgb.fast.own_weight)
    network = fast_network(ContextNetwork(**(rgb.fast._asdict() | {"own_weight": own})))
    seen = 3 * len(rgb.fast.offsets)
    before = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert network.first_weight[:, 0, seen:].tolist() == [[0, 0, 0, *row] for row in before]
    assert network.prediction_weight[:, 0, seen:].tolist() == [[*row, 0, 0, 0] for row in before]
