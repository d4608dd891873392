from collections.abc import Iterator

import numpy as np
import pytest
import torch

from app.cuda import CudaEngine
from app.engine import (
    CPU_BATCH,
    MAX_JOINED_BYTES,
    CpuEngine,
    best_batch,
    build_engine,
    joined_rows,
)
from app.operations import GRAPHABLE, SCORE_SEED, SCORES, ModelTask, Operation, example_rows
from app.settings import Settings
from models.bundle import Bundle
from models.noise import normal_noise
from models.objectives import bounds


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def engine(grey: Bundle, colour: Bundle) -> CpuEngine:
    engine = CpuEngine([grey, colour], threads=1)
    engine.warm_up()
    return engine


def images(bundle: Bundle, count: int) -> np.ndarray:
    channels, height, width = bundle.config.input.shape
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def direct_encode(bundle: Bundle, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        levels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        mu, logvar = bundle.model.encode(bundle.model.normalise(levels))
    return mu.numpy(), logvar.numpy()


@pytest.mark.parametrize("count", [1, 7, 64])
def test_encode_is_the_bundles_within_the_tolerance_and_the_same_at_the_same_batch_shape(
    engine: CpuEngine, colour: Bundle, count: int
) -> None:
    pixels = images(colour, count)
    task = ModelTask("colour", Operation.ENCODE)
    found = engine.launch(task, [pixels]).result()
    for array, expected in zip(found, direct_encode(colour, pixels), strict=True):
        assert array.shape == expected.shape
        assert np.abs(array - expected).max() <= 1e-5 * np.abs(expected).max()
    for array, again in zip(found, engine.launch(task, [pixels]).result(), strict=True):
        np.testing.assert_array_equal(array, again)


@pytest.mark.parametrize("position", [0, 3, 63])
def test_encode_is_the_same_at_any_batch_position_and_size(
    engine: CpuEngine, grey: Bundle, position: int
) -> None:
    pixels = images(grey, 64)
    task = ModelTask("grey", Operation.ENCODE)
    together = engine.launch(task, [pixels]).result()[0]
    alone = engine.launch(task, [pixels[position : position + 1]]).result()[0]
    assert np.abs(together[position] - alone[0]).max() <= 1e-5 * np.abs(alone).max()


def test_parts_are_one_batch(engine: CpuEngine, grey: Bundle) -> None:
    pixels = images(grey, 9)
    task = ModelTask("grey", Operation.ENCODE)
    parts = engine.launch(task, [pixels[:4], pixels[4:5], pixels[5:]]).result()
    np.testing.assert_array_equal(parts[0], engine.launch(task, [pixels]).result()[0])


def test_parts_may_lie_in_memory_as_they_like(engine: CpuEngine, grey: Bundle) -> None:
    pixels = images(grey, 9)
    task = ModelTask("grey", Operation.ENCODE)
    parts = engine.launch(task, [pixels[::2], np.asfortranarray(pixels[:2])]).result()
    together = engine.launch(task, [np.concatenate([pixels[::2], pixels[:2]])]).result()
    np.testing.assert_array_equal(parts[0], together[0])


@pytest.mark.parametrize("count", [1, 100, MAX_JOINED_BYTES])
def test_parts_are_joined_whatever_their_size(count: int) -> None:
    parts = [np.full((count, 1), value, np.uint8) for value in (1, 2)]
    rows = joined_rows(parts)
    np.testing.assert_array_equal(rows, np.concatenate(parts))
    assert rows.flags.writeable


def test_read_only_rows_are_taken(engine: CpuEngine, grey: Bundle) -> None:
    pixels = images(grey, 2)
    pixels.flags.writeable = False
    assert engine.launch(ModelTask("grey", Operation.ENCODE), [pixels]).result()[0].shape == (2, 4)


def test_decode_gives_the_rounded_means(engine: CpuEngine, colour: Bundle) -> None:
    z = np.random.default_rng(1).standard_normal((5, 3), np.float32)
    (decoded,) = engine.launch(ModelTask("colour", Operation.DECODE), [z]).result()
    with torch.inference_mode():
        x_hat = colour.model.x_hat(torch.from_numpy(z)).numpy()
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.rint((x_hat + 1) * 127.5).clip(0, 255).transpose(0, 2, 3, 1))


def test_reconstruct_is_decode_of_mu(engine: CpuEngine, colour: Bundle) -> None:
    pixels = images(colour, 6)
    mu = engine.launch(ModelTask("colour", Operation.ENCODE), [pixels]).result()[0]
    expected = engine.launch(ModelTask("colour", Operation.DECODE), [mu]).result()[0]
    np.testing.assert_array_equal(
        engine.launch(ModelTask("colour", Operation.RECONSTRUCT), [pixels]).result()[0], expected
    )


def test_scores_are_the_bounds_with_the_same_noise_for_every_image(engine: CpuEngine, grey: Bundle) -> None:
    pixels = images(grey, 5)
    scores = engine.launch(ModelTask("grey", Operation.SCORE, 20), [pixels]).result()
    alone = engine.launch(ModelTask("grey", Operation.SCORE, 20), [pixels[3:4]]).result()
    for name, together, single in zip(SCORES, scores, alone, strict=True):
        assert together.shape == (5,)
        np.testing.assert_allclose(together[3], single[0], rtol=1e-5, err_msg=name)
    elbo, nll, kl, distortion = scores
    np.testing.assert_allclose(elbo, -(kl + distortion), rtol=1e-6)
    assert (nll <= -elbo + 1e-3).all()


def test_scores_do_not_depend_on_how_samples_are_split(engine: CpuEngine, grey: Bundle) -> None:
    pixels = images(grey, 3)
    eps = torch.from_numpy(normal_noise(SCORE_SEED, 0, 300, 4))[:, None]
    with torch.inference_mode():
        levels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = bounds(grey.model, levels, eps.expand(-1, 3, -1))
    scores = engine.launch(ModelTask("grey", Operation.SCORE, 300), [pixels]).result()
    for name, found in zip(SCORES, scores, strict=True):
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=1e-5, err_msg=name)


def test_example_rows_fit_each_operation(colour: Bundle) -> None:
    assert example_rows(colour.model, Operation.DECODE, 2).shape == (2, 3)
    assert example_rows(colour.model, Operation.ENCODE, 2).shape == (2, 16, 12, 3)


@pytest.mark.parametrize("operation", [*GRAPHABLE, Operation.SCORE])
def test_bfloat16_stays_near_and_is_another_computation(
    engine: CpuEngine, grey: Bundle, operation: Operation
) -> None:
    mixed = CpuEngine([grey], threads=1, precision="bf16")
    mixed.warm_up()
    assert str(mixed) == "cpu, 1 thread(s), bf16"
    latents = np.random.default_rng(0).standard_normal((7, 4), np.float32)
    task, rows = ModelTask("grey", operation), latents if operation.takes_latents else images(grey, 7)
    found, expected = mixed.launch(task, [rows]).result(), engine.launch(task, [rows]).result()
    for array, exact in zip(found, expected, strict=True):
        assert array.dtype == exact.dtype
        np.testing.assert_allclose(array.astype(float), exact, atol=2e-2 * np.abs(exact).max())
    if operation.takes_latents or operation is Operation.ENCODE:
        assert (found[0] != expected[0]).any()


def test_threads_are_torch_s_own_unless_set(grey: Bundle) -> None:
    engine = CpuEngine([grey], threads=None)
    engine.warm_up()
    assert str(engine) == "cpu, 1 thread(s), float32"
    assert str(CpuEngine([grey], threads=3)) == "cpu, 3 thread(s), float32"
    assert not engine.is_lost()


def test_the_cpu_is_used_where_there_is_no_gpu(grey: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(build_engine([grey], Settings()), CpuEngine)


def test_the_gpu_is_used_where_there_is_one(grey: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert isinstance(build_engine([grey], Settings()), CudaEngine)
    assert isinstance(build_engine([grey], Settings(device="cuda:1", precision="bf16")), CudaEngine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(device="cuda:1"), "VAE_DEVICE=cuda:1: there are 0 CUDA devices"),
        (Settings(precision="tf32"), "VAE_PRECISION=tf32 needs CUDA, and the device is the CPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    grey: Bundle, settings: Settings, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        build_engine([grey], settings)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({32: 0.008}, 32),
        ({32: 0.002, 64: 0.003, 128: 0.006, 256: 0.011}, 128),  # the largest within the time
        ({32: 0.002, 64: 0.0039, 128: 0.0095}, 64),  # which takes more time for an image
        ({32: 0.03}, 32),
    ],
)
def test_a_batch_is_as_large_as_is_quick(seconds: dict[int, float], best: int) -> None:
    assert best_batch(seconds) == best


def test_batches_of_small_networks_are_larger_where_that_is_faster(
    grey: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def seconds_of(self: CpuEngine, task: ModelTask, count: int) -> float:
        asked.append(count)
        return count * (5e-5 if task.operation is Operation.ENCODE else 2e-4)

    monkeypatch.setattr(CpuEngine, "_seconds_of", seconds_of)
    engine = CpuEngine([grey], threads=1)
    engine.warm_up()
    rooms = [engine.room(ModelTask("grey", operation)) for operation in Operation if operation in GRAPHABLE]
    assert rooms == [128, 32, 32]
    assert engine.room(ModelTask("grey", Operation.SCORE, samples=5)) == CPU_BATCH // 5
    assert sorted(set(asked)) == [32, 64, 128]  # no more, as twice what is too slow is too slow
    given = CpuEngine([grey], threads=1, max_batch=8)
    given.warm_up()
    assert given.room(ModelTask("grey", Operation.ENCODE)) == given.max_batch == 8


def test_the_time_of_a_batch_is_the_least_of_some(grey: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CpuEngine([grey], threads=1, max_batch=8)
    engine.warm_up()
    launched: list[int] = []
    monkeypatch.setattr(engine, "launch", lambda task, parts: launched.append(len(parts[0])))
    monkeypatch.setattr("app.engine.LARGER_SECONDS", 60)
    assert 0 < engine._seconds_of(ModelTask("grey", Operation.ENCODE), 16) < 60
    assert launched == [16, 16, 16, 16]
    monkeypatch.setattr("app.engine.LARGER_SECONDS", 0)
    engine._seconds_of(ModelTask("grey", Operation.ENCODE), 64)
    assert launched[4:] == [64]
