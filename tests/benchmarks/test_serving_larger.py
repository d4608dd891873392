"""What a larger machine is measured by: the bare loop on either device, and how many front ends there are."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.serving.golden import golden_images
from benchmarks.serving.larger import front_ends, ours, parse_arguments
from benchmarks.serving.material import direct_posterior
from benchmarks.serving.torch_loop import Encode, answer, fastest, in_faster_layout, time_loop
from benchmarks.serving.workloads import NPY_1024, check_answer
from models.bundle import bundle_path, load_bundle


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4]), (16, [1, 2, 4, 8])])
def test_front_ends_double_up_to_the_cores(cores: int, counts: list[int]) -> None:
    assert front_ends(cores) == counts


def test_ours_runs_on_the_device_that_is_asked_for() -> None:
    server = ours("cuda", NPY_1024, {"VAE_FRONTENDS": "4"})
    assert (server.environment["VAE_DEVICE"], server.environment["VAE_FRONTENDS"]) == ("cuda", "4")
    assert server.paths == {NPY_1024: "/encode"}
    assert parse_arguments(["--device", "cuda"]).out.name == "larger_cuda"


def test_the_fastest_is_the_one_whose_best_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def taking(*seconds: float) -> Encode:
        turns = cycle(seconds)

        def encode() -> tuple[Tensor, Tensor]:
            clock[0] += next(turns)
            return torch.zeros(1), torch.zeros(1)

        return encode

    slow, uneven = taking(0.01), taking(0.02, 0.001)
    assert fastest([slow, uneven]) is uneven


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_loop_encodes(device: str) -> None:
    bundle = load_bundle(bundle_path("fashion-mnist"))
    images = golden_images(bundle)
    expected = direct_posterior(bundle, images)
    model = bundle.model.to(device)
    levels = model.to_levels(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device))
    encode = in_faster_layout(model, model.normalise(levels))
    found = {name: np.array(rows, np.float32) for name, rows in answer(encode).items()}
    check_answer(found, expected, "the loop", 1e-5 if device == "cpu" else 1e-4)
    timed = time_loop(encode, 0.1)
    assert timed["requests"] >= 1
    assert timed["seconds"] >= 0.1
