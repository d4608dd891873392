"""One run over several processes: each takes its share of a batch, and together they are one process."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from tests.training.conftest import write_run
from training.__main__ import main
from training.config import read_config
from training.datasets import load_dataset
from training.distributed import Place, joined_processes
from training.errors import RunError
from training.running import CHECKPOINT, train
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
# Gradients are summed in another order, so that weights near 1 differ by rounding: by 6e-8 after 3 steps,
# and by less than this after 120.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


# ---- a process's place


@pytest.mark.parametrize(("rank", "share"), [(0, slice(0, 4)), (1, slice(4, 8)), (2, slice(8, 12))])
def test_each_process_takes_its_share_of_a_batch(rank: int, share: slice) -> None:
    assert Place(CPU, rank, world_size=3).share(12) == share


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(RunError, match="batch_size 10 does not divide among 3 processes"):
        Place(CPU, 0, world_size=3).share(10)


def test_the_first_process_is_the_one_that_writes() -> None:
    assert [Place(CPU, rank, world_size=2).is_first for rank in (0, 1)] == [True, False]


@pytest.mark.parametrize("flag", [True, False])
def test_one_process_agrees_with_itself(flag: bool) -> None:
    assert Place(CPU).agree(flag) is flag


# ---- joining


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record what would be joined, on a machine with two GPUs."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed, "init_process_group", calls.append)
    monkeypatch.setattr(distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: calls.append("destroyed"))
    return calls


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes() as place:
        assert place == Place(CPU, rank=0, world_size=1)


def test_one_process_takes_the_first_gpu(joined: list[Any]) -> None:
    with joined_processes() as place:
        assert place == Place(torch.device("cuda", 0))
    assert joined == [torch.device("cuda", 0)]


def test_a_launched_process_takes_the_gpu_of_its_local_rank_and_leaves_the_group_after_a_fault(
    joined: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")

    def fail_inside() -> None:
        with joined_processes() as place:
            assert place == Place(torch.device("cuda", 1), rank=3, world_size=4)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert joined == [torch.device("cuda", 1), "nccl", "destroyed"]


# ---- two real processes


def weights(state: dict[str, Any]) -> dict[str, Tensor]:
    return {**state["model"], **{f"ema.{name}": tensor for name, tensor in state["ema"].items()}}


def model_weights(checkpoint: Path) -> dict[str, Tensor]:
    return weights(torch.load(checkpoint, weights_only=True))


def weights_of_one_process(config: Path, runs: Path) -> dict[str, Tensor]:
    read = read_config(config)
    assert train(Trainer(read, load_dataset(read.data), Place(CPU)), runs / read.id)
    return model_weights(runs / read.id / CHECKPOINT)


def environment(**variables: str) -> dict[str, str]:
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **quiet, **variables}


def test_a_batch_that_does_not_divide_among_launched_processes_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(CPU, rank=1, world_size=2)
    monkeypatch.setattr("training.__main__.joined_processes", lambda: nullcontext(place))
    config = write_run(tmp_path, optimisation={"batch_size": 7})
    assert main(["train", str(config), "--runs", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().err == "error: batch_size 7 does not divide among 2 processes\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
# DDP says so of a 5×5 kernel of one input channel, whose strides can be written in two ways.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning")
def test_two_processes_train_as_one_does_and_only_the_first_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_run(tmp_path)
    expected = weights_of_one_process(config, tmp_path / "one")
    capsys.readouterr()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ["train", str(config), "--runs"]
    first = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments, str(tmp_path / "two")],
        env=environment(**group, RANK="0", LOCAL_RANK="0"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {**group, "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    # A first process that dies before it joins must not be waited for half an hour.
    join = partial(distributed.init_process_group, timeout=timedelta(minutes=2))
    monkeypatch.setattr(distributed, "init_process_group", join)
    with first:
        try:
            status = main([*arguments, str(tmp_path / "elsewhere")])  # the second process is this one
            _, errors = first.communicate()
        finally:
            first.kill()
    assert (status, first.returncode) == (0, 0), errors
    torch.testing.assert_close(model_weights(tmp_path / "two" / "tiny" / CHECKPOINT), expected, **TOLERANCE)
    assert list((tmp_path / "elsewhere" / "tiny").iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_torchrun_stops_cleanly_at_sigterm_where_one_process_would_be(tmp_path: Path) -> None:
    steps = 3 * 10_000
    config = write_run(tmp_path, optimisation={"epochs": 10_000})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with subprocess.Popen(
        [*launcher, "-m", "training", "train", str(config), "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("epoch 1: ")
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate()
    checkpoint = tmp_path / "runs" / "tiny" / CHECKPOINT
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 3 <= step < steps
    assert f"stopped at step {step} of {steps}; the same command resumes" in errors
    read = read_config(config)
    alone = Trainer(read, load_dataset(read.data), Place(CPU))
    while alone.step < step:
        alone.train_step(next(alone.epoch_batches()))
    torch.testing.assert_close(model_weights(checkpoint), weights(alone.state()), **TOLERANCE)
