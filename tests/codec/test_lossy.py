"""Lossy coding: a ladder that quality climbs, and bytes that are kept to."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from codec import rans
from codec.encoding import LOSSLESS, Manner, MannerError, compress
from codec.ladder import (
    BINS,
    PARTS,
    RUNGS,
    RUNGS_OF_LATENTS,
    Modes,
    fit_ladder,
    ladder_faults,
    quantised,
    whole_modes,
)
from codec.latents import LatentTables
from codec.lossy import (
    BEST_QUALITY,
    Costs,
    at_quality,
    decode_lossy_chunk,
    encode_lossy_chunk,
    least_cost,
    rung_costs,
    within_cost,
)
from codec.mixture import cumulative, make_tables, mean_level, set_mixtures, workplace
from codec.model import CodecModel
from codec.payload import Kind, PayloadError, decompress, decompress_one, images_a_chunk, parsed
from tests.codecs import pictures

COSTS = Costs(
    np.array([[900, 500, 400, 90, 0], [800, 640, 100, 50, 10]]),
    np.array([[10, 20, 90, 70, 300], [10, 20, 30, 200, 900]]) * rans.COSTS_A_BIT,
)


def squared_error(images: np.ndarray, others: np.ndarray) -> int:
    return int(((images.astype(np.int64) - others) ** 2).sum())


def test_a_symbol_costs_the_logarithm_of_its_share() -> None:
    for frequency in [*range(1, 3000), 2**19 - 1, 2**19, 700_001, rans.TOTAL]:
        bits = rans.TOTAL_BITS - math.log2(frequency)
        assert rans.cost(frequency) == pytest.approx(bits * rans.COSTS_A_BIT, abs=1)


def test_no_entry_of_the_table_of_costs_depends_on_the_machine_s_logarithm() -> None:
    exact = rans.COSTS_A_BIT * (11 - np.log2(np.arange(1024, 2048)))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6


@pytest.mark.parametrize(("low", "high"), [(3, 4), (97, 104), (-5, 60), (0, 256), (250, 270), (30, 47)])
def test_the_mean_of_levels_is_that_of_their_shares(low: int, high: int) -> None:
    tables, each = make_tables(), (0, 0)
    weights, locations, steepnesses = workplace(1, each)
    outputs = np.array([[40, 60, 16 * 20, 16 * 110, 30, 60]], np.int32)
    set_mixtures(outputs, 1, tables, each, weights, locations, steepnesses)
    mixture = (0, weights, locations, steepnesses, each, tables.logistic)
    first = np.array([cumulative(x, *mixture) for x in range(257)])
    start, end = first[max(low, 0)], first[min(high, 256)]
    found = mean_level(low, high, start, end, *mixture)
    levels = np.arange(max(low, 0), min(high, 256))
    expected = (np.diff(first)[levels] * levels).sum() / (end - start)
    assert abs(found - expected) <= (0.5 if len(levels) <= 8 else 0.5 + len(levels) / 32)
    assert low <= found < high


def test_latents_are_rounded_towards_zero_from_two_thirds() -> None:
    finer = np.arange(-17, 18, dtype=np.int16)
    found = quantised(finer, np.full(finer.shape, 6))
    assert found.tolist() == [-3] * 2 + [-2] * 6 + [-1] * 6 + [0] * 7 + [1] * 6 + [2] * 6 + [3] * 2
    np.testing.assert_array_equal(quantised(finer, np.ones_like(finer)), finer)
    farthest = np.full(4, 1016, np.int16)
    assert quantised(farthest, np.array([12, 8, 7, 3])).tolist() == [84, 127, 145, 338]  # none beyond


def test_latents_that_leave_their_bits_are_named() -> None:
    tables = fit_ladder(np.array([[-100, 3], [90, 4]], np.int16))
    assert ladder_faults(tables) == []
    lowest = tables.lowest.copy()
    lowest[0] = -64  # in steps of 16
    assert ladder_faults(tables._replace(lowest=lowest)) == [
        "ladder.lowest: a latent in its steps is outside ±1016"
    ]
    lowest[0] = tables.lowest[0]
    lowest[2 * 2] = -128
    assert "ladder.lowest: a latent of rung 2 is outside ±127" in ladder_faults(
        tables._replace(lowest=lowest)
    )
    broken = LatentTables(tables.lowest, tables.first, tables.starts + 1)
    assert "ladder.starts: those of dimension 0 do not rise from 0 to 2^20" in ladder_faults(broken)


def test_the_tiny_codecs_have_latents_on_every_rung(codec: CodecModel) -> None:
    values = np.diff(codec.ladder.first).reshape(RUNGS_OF_LATENTS, -1) - 1
    assert (values.max(axis=1) > 2).all()


@pytest.mark.parametrize("part", [0, 1, 19, PARTS - 1])
def test_every_rung_comes_back(codec: CodecModel, part: int) -> None:
    rungs = np.tile(np.arange(RUNGS), 2)
    images = pictures(codec.config.shape, len(rungs), seed=4)
    stream, levels = encode_lossy_chunk(codec, images, Modes(rungs, np.full_like(rungs, part), rungs % BINS))
    np.testing.assert_array_equal(decode_lossy_chunk(codec, stream, len(rungs)), levels)


def test_what_a_rung_costs_is_what_it_takes(codec: CodecModel) -> None:
    images = pictures(codec.config.shape, 20, seed=4)
    costs = rung_costs(codec, images)
    for rung in range(RUNGS):
        stream, levels = encode_lossy_chunk(codec, images, whole_modes(np.full(len(images), rung)))
        assert squared_error(levels, images) == costs.errors[:, rung].sum()
        bytes_ = costs.costs[:, rung].sum() / rans.COSTS_A_BIT / 8
        assert bytes_ - 4 <= len(stream) <= bytes_ + 4
        alone, _ = encode_lossy_chunk(codec, images[:1], whole_modes(np.array([rung])))
        assert rung_costs(codec, images[:1]).costs[0, rung] == len(alone) * 8 * rans.COSTS_A_BIT


def test_images_are_coded_as_they_are_alone(codec: CodecModel) -> None:
    images = pictures(codec.config.shape, 9, seed=4)
    together = rung_costs(codec, images)
    for n in range(len(images)):
        alone = rung_costs(codec, images[n : n + 1])
        np.testing.assert_array_equal(alone.errors[0], together.errors[n])
        saved = together.costs[n] - alone.costs[0]  # by the end of the stream
        assert (np.abs(saved) <= 4 * 8 * rans.COSTS_A_BIT).all()


def test_quality_is_monotone_in_bytes_and_in_error(codec: CodecModel) -> None:
    find, seen = {codec.prefix: codec}.get, set()
    for image in pictures(codec.config.shape, 3, seed=5)[:, None]:
        costs = rung_costs(codec, image)
        fewest, error = 0, 2**62
        for quality in range(1, BEST_QUALITY + 1):
            seen.add(int(at_quality(costs, quality).rungs[0]))
            payload = compress(image, codec, Manner(quality=quality))
            header = parsed(payload, find)
            assert header.kind == Kind.LOSSY
            now = squared_error(decompress(header), image)
            assert len(payload) >= fewest
            assert now <= error
            fewest, error = len(payload), now
    assert len(seen) >= 5


def test_fast_is_of_latents_alone(codec: CodecModel) -> None:
    images = pictures(codec.config.shape, 4)
    costs = rung_costs(codec, images, RUNGS_OF_LATENTS)
    levels = encode_lossy_chunk(codec, images, at_quality(costs, 90))[1]
    payload = compress(images, codec, Manner("fast", quality=90))
    np.testing.assert_array_equal(decompress(parsed(payload, {codec.prefix: codec}.get)), levels)


def test_images_are_read_out_of_a_lossy_payload_one_by_one(codec: CodecModel) -> None:
    size = images_a_chunk(codec.config.shape)
    images = pictures(codec.config.shape, size + 2)
    with ThreadPoolExecutor(2) as pool:
        payload = compress(images, codec, Manner("fast", quality=30), pool.map)
    header = parsed(payload, {codec.prefix: codec}.get)
    assert len(header.chunks) == 2
    whole = decompress(header)
    for index in (0, size - 1, size + 1):
        np.testing.assert_array_equal(decompress_one(header, index), whole[index, None])


def test_rungs_within_a_cost_have_the_least_error() -> None:
    assert least_cost(COSTS) == 20 * rans.COSTS_A_BIT
    errors = []
    for bits in range(20, 1300, 5):
        rungs, left = within_cost(COSTS, bits * rans.COSTS_A_BIT)
        images = np.arange(2)
        assert left == bits * rans.COSTS_A_BIT - COSTS.costs[images, rungs].sum() >= 0
        errors.append(COSTS.errors[images, rungs].sum())
        every = [
            COSTS.errors[0, a] + COSTS.errors[1, b]
            for a in range(5)
            for b in range(5)
            if COSTS.costs[0, a] + COSTS.costs[1, b] <= bits * rans.COSTS_A_BIT
        ]
        assert errors[-1] <= 1.5 * min(every) + 50
    assert (errors[0], errors[-1]) == (1700, 10)


def test_the_cheapest_rungs_are_taken_where_no_worth_leads_to_them() -> None:
    rungs, left = within_cost(Costs(np.array([[0, 10**12]]), np.array([[2, 1]])), 1)
    assert (rungs.tolist(), left) == ([1], 0)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_target_is_reached_and_never_passed(codec: CodecModel, count: int) -> None:
    images = pictures(codec.config.shape, count, seed=6)
    find = {codec.prefix: codec}.get
    lossless = len(compress(images, codec, LOSSLESS))
    with pytest.raises(PayloadError, match="target_bytes is 13; these images need ") as told:
        compress(images, codec, Manner(target_bytes=13))
    least = int(str(told.value).split("need ")[1].split()[0])
    filled = []
    for target in np.linspace(least, lossless, 12).astype(int):
        payload = compress(images, codec, Manner(target_bytes=int(target)))
        assert len(payload) <= target
        filled.append(len(payload) >= 0.95 * target - 1)
        decompress(parsed(payload, find))
    assert np.mean(filled) > 0.5  # eight rows or so make few parts; shipped codecs fill 98 %
    assert compress(images, codec, Manner(target_bytes=lossless)) == compress(images, codec, LOSSLESS)


def test_a_target_has_the_least_error_that_fits(codec: CodecModel) -> None:
    images = pictures(codec.config.shape, 6, seed=6)
    find = {codec.prefix: codec}.get
    for quality in (10, 30, 60):
        payload = compress(images, codec, Manner(quality=quality))
        same = compress(images, codec, Manner(target_bytes=len(payload) + 1))
        error, at_target = (squared_error(decompress(parsed(data, find)), images) for data in (payload, same))
        assert at_target <= error * 1.02


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        (Manner(quality=0), "quality is 0, outside 1 … 99"),
        (Manner(quality=100), "quality is 100, outside 1 … 99"),
        (
            Manner(quality=50, target_bytes=99),
            "quality = 50 and target_bytes = 99 together; one of them at most",
        ),
        (Manner(target_bytes=12), "target_bytes is 12; what is not the images takes 12"),
        (Manner(target_bytes=13), "target_bytes is 13; these images need "),
    ],
)
def test_a_manner_out_of_range_is_refused(grey: CodecModel, manner: Manner, message: str) -> None:
    with pytest.raises(PayloadError) as refused:
        compress(pictures(grey.config.shape, 1), grey, manner)
    assert str(refused.value).startswith(message)


def test_a_refusal_names_what_was_asked_for_and_what_can_be_had(grey: CodecModel) -> None:
    with pytest.raises(MannerError) as refused:
        compress(pictures(grey.config.shape, 3), grey, Manner(target_bytes=13))
    assert refused.value.value == 13
    assert str(refused.value).endswith(f"need {refused.value.limit} at least")
    with pytest.raises(MannerError, match="needs images of the model's shape 1×8×8, these are 3×9×7"):
        compress(pictures((3, 9, 7), 1), grey, Manner(quality=50))
    with pytest.raises(MannerError, match="quality = 50 needs a model with a codec, and there is none"):
        compress(pictures((3, 9, 7), 1), None, Manner(quality=50))


def test_what_is_shorter_without_loss_has_none(codec: CodecModel) -> None:
    channels, height, width = codec.config.shape
    size = images_a_chunk(codec.config.shape)
    board = 255 * (np.add.outer(np.arange(height), np.arange(width)) % 2).astype(np.uint8)
    boards = np.broadcast_to(board, (size, channels, height, width))
    payload = compress(np.ascontiguousarray(boards[:1]), codec, Manner(quality=95))
    assert parsed(payload, {codec.prefix: codec}.get).kind == Kind.CLASSICAL
    mixed = np.concatenate([boards, pictures(codec.config.shape, 2)])
    payload = compress(mixed, codec, Manner("fast", quality=40))
    header = parsed(payload, {codec.prefix: codec}.get)
    assert [chunk.kind for chunk in header.chunks] == [Kind.CLASSICAL, Kind.LOSSY]
    np.testing.assert_array_equal(decompress(header)[:size], boards)
