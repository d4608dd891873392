"""Integer convolutions: exact sums by either product, and faults where they might not be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from codec import integer
from codec.integer import Layer, activations, convolved, product, shifted
from codec.model import CodecModel
from tests.codecs import pictures


def random_bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, shape, np.int8)


@pytest.mark.parametrize("exact_int8", [True, False])
def test_products_are_exact_by_integers_and_by_floats(
    exact_int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "_int8_products_are_exact", lambda: exact_int8)
    a, weight = random_bytes(50, 600), random_bytes(600, 7)
    a[0], weight[:, 0] = -128, -128  # the largest sum of all
    expected = a.astype(np.int64) @ weight.astype(np.int64)
    np.testing.assert_array_equal(product(torch.from_numpy(a), weight).numpy(), expected)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_convolutions_are_those_of_float64(kernel: int, stride: int) -> None:
    a, weight = random_bytes(3, 12, 11, 4), random_bytes(kernel * kernel * 4, 6)
    by_axes = torch.from_numpy(weight).double().unflatten(0, (kernel, kernel, 4)).permute(3, 2, 0, 1)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(a).double().permute(0, 3, 1, 2), by_axes, stride=stride
    )
    np.testing.assert_array_equal(convolved(a, weight, kernel, stride), expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("total", "shift", "expected"),
    [(7, 1, 4), (-7, 1, -3), (5, 1, 3), (5, 2, 1), (6, 2, 2), (5, 0, 5), (5, -2, 20)],
)
def test_shifts_round_to_the_nearest_halves_up(total: int, shift: int, expected: int) -> None:
    assert shifted(total, shift) == expected


@pytest.mark.parametrize(("total", "expected"), [(100, 50), (-100, -6), (-104, -6), (-1e6, -32), (1e6, 223)])
def test_activations_leak_an_eighth_and_are_clamped(total: float, expected: int) -> None:
    sums = np.full((1, 1, 1, 1), int(total), np.int32)
    a = activations(sums, np.zeros(1, np.int32), np.ones(1, np.int32))
    assert int(a[0, 1, 1, 0]) + integer.OFFSET == expected
    assert (np.delete(a.ravel(), 4) == -integer.OFFSET).all(), "the border is an activation of zero"


def test_the_largest_sum_counts_weights_bias_and_rounding() -> None:
    layer = Layer(
        np.array([[1, -2], [3, 4]], np.int8), np.array([-10, 5], np.int32), np.array([3, -1], np.int32)
    )
    assert layer.largest_sums.tolist() == [4 * 223 + 10 + 4, 6 * 223 + 5]
    assert layer.largest_output == 2 * (6 * 223 + 5) + 1


def test_sums_of_trained_networks_are_proven_exact(codec: CodecModel) -> None:
    assert codec.encoder.faults() == codec.pictures.faults("pictures") == []
    assert codec.decoder is None or codec.decoder.faults("decoder") == []


def test_a_sum_that_might_not_be_exact_is_named(grey: CodecModel) -> None:
    linear = replace(grey.decoder.linear, bias=grey.decoder.linear.bias + np.int32(2**24))
    [fault] = replace(grey.decoder, linear=linear).faults("decoder")
    assert fault.startswith("decoder.linear: a sum may reach 16")


def test_a_stream_that_might_leave_its_bits_is_named(grey: CodecModel) -> None:
    linear = replace(grey.encoder.stages[0].convolution, shift=grey.encoder.stages[0].convolution.shift - 20)
    stage = replace(grey.encoder.stages[0], convolution=linear)
    [fault] = replace(grey.encoder, stages=(stage,)).faults()
    assert fault.startswith("encoder: h of stage 0 may reach ")


def test_a_shift_out_of_range_is_named(grey: CodecModel) -> None:
    linear = replace(grey.encoder.linear, shift=grey.encoder.linear.shift + np.int32(60))
    assert replace(grey.encoder, linear=linear).faults() == ["encoder.linear: a shift is outside ±24"]


@pytest.mark.parametrize("threads", [1, 2])
def test_networks_give_the_same_in_any_batch_on_any_number_of_threads(
    codec: CodecModel, threads: int
) -> None:
    images = pictures(codec.config.shape, 70, seed=5)
    k = codec.latents_of(images)
    features = codec.features_of(k)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for start, stop in ((0, 1), (69, 70), (3, 36)):
            np.testing.assert_array_equal(codec.latents_of(images[start:stop]), k[start:stop])
            np.testing.assert_array_equal(codec.features_of(k[start:stop]), features[start:stop])
    finally:
        torch.set_num_threads(before)
    assert features.shape == (70, *codec.config.shape[1:], codec.config.features)
