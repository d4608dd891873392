"""The engine on a GPU; the bucket arithmetic needs none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from app.cuda import CudaEngine, bucket
from app.engine import CpuEngine, build_engine
from app.operations import ModelTask, Operation
from app.settings import Settings
from models.bundle import Bundle


def images(bundle: Bundle, count: int) -> np.ndarray:
    channels, height, width = bundle.config.input.shape
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_a_bucket_is_the_next_power_of_two(count: int, size: int) -> None:
    assert bucket(count) == size


@pytest.fixture(scope="module")
def engine(grey: Bundle, colour: Bundle) -> CudaEngine:
    engine = CudaEngine([grey, colour], torch.device("cuda", 0), "float32", max_batch=100)
    engine.warm_up()
    return engine


@pytest.fixture
def on_cpu(grey: Bundle, colour: Bundle) -> CpuEngine:
    return CpuEngine([grey, colour], threads=1)


@pytest.mark.gpu
def test_the_gpu_is_chosen_where_there_is_one(grey: Bundle) -> None:
    assert isinstance(build_engine([grey], Settings()), CudaEngine)


@pytest.mark.gpu
@pytest.mark.parametrize("operation", [Operation.ENCODE, Operation.SCORE])
@pytest.mark.parametrize("count", [1, 3, 64, 100])
def test_figures_on_the_gpu_are_those_on_the_cpu(
    engine: CudaEngine, on_cpu: CpuEngine, colour: Bundle, operation: Operation, count: int
) -> None:
    task, pixels = ModelTask("colour", operation, samples=4), images(colour, count)
    for found, expected in zip(
        engine.launch(task, [pixels]).result(), on_cpu.launch(task, [pixels]).result(), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.gpu
@pytest.mark.parametrize("operation", [Operation.DECODE, Operation.RECONSTRUCT])
def test_pixels_on_the_gpu_are_those_on_the_cpu_but_for_rounding(
    engine: CudaEngine, on_cpu: CpuEngine, colour: Bundle, operation: Operation
) -> None:
    z = np.random.default_rng(0).standard_normal((70, 3), np.float32)
    task, rows = ModelTask("colour", operation), z if operation.takes_latents else images(colour, 70)
    (found,), (expected,) = engine.launch(task, [rows]).result(), on_cpu.launch(task, [rows]).result()
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.gpu
def test_two_batches_in_flight_keep_their_own_outputs(
    engine: CudaEngine, colour: Bundle, grey: Bundle
) -> None:
    tasks = [
        (ModelTask("colour", Operation.ENCODE), images(colour, 37)),
        (ModelTask("grey", Operation.ENCODE), images(grey, 9)),
    ]
    alone = [engine.launch(task, [pixels]).result() for task, pixels in tasks]
    in_flight = [engine.launch(task, [pixels[:4], pixels[4:]]) for task, pixels in tasks]
    for pending, expected in zip(in_flight, alone, strict=True):
        for found, array in zip(pending.result(), expected, strict=True):
            np.testing.assert_array_equal(found, array)


@pytest.mark.gpu
def test_a_launch_that_fails_leaves_the_batch_in_flight_alone(
    engine: CudaEngine, colour: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ModelTask("colour", Operation.ENCODE)
    first, second = images(colour, 37), images(colour, 41)
    expected = engine.launch(task, [first]).result()
    in_flight = engine.launch(task, [first])
    with monkeypatch.context() as broken:
        broken.setattr(engine, "_fetch", lambda slot, outputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.launch(task, [second])
    after = engine.launch(task, [second])
    for found, array in zip(in_flight.result(), expected, strict=True):
        np.testing.assert_array_equal(found, array)
    after.result()


@pytest.fixture
def precision_as_before() -> Iterator[None]:
    """Set back what an engine sets of the whole process."""
    backends: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [backend.fp32_precision for backend in backends]
    yield
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


@pytest.mark.gpu
@pytest.mark.usefixtures("precision_as_before")
@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-2), ("bf16", 1e-1)])
def test_lower_precisions_stay_near(
    grey: Bundle, on_cpu: CpuEngine, precision: str, tolerance: float
) -> None:
    engine = CudaEngine([grey], torch.device("cuda", 0), precision, max_batch=16)  # type: ignore[arg-type]
    engine.warm_up()
    task, pixels = ModelTask("grey", Operation.ENCODE), images(grey, 16)
    found, expected = engine.launch(task, [pixels]).result()[0], on_cpu.launch(task, [pixels]).result()[0]
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.gpu
def test_the_memory_of_the_device_is_what_torch_and_the_driver_say(engine: CudaEngine) -> None:
    memory = engine.memory()
    assert memory is not None
    assert memory.device == "cuda:0"
    assert memory.total == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.05)
    weights = sum(parameter.nbytes for parameter in engine._models["grey"].parameters())
    assert weights < memory.allocated <= memory.reserved < memory.used <= memory.total


@pytest.mark.gpu
def test_the_device_is_not_lost(engine: CudaEngine) -> None:
    assert not engine.is_lost()
    assert "cuda:0" in str(engine)
