"""What training.json says of the process that trained."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from training.distributed import Place
from training.environment import PROJECT, environment

CPU = Place(torch.device("cpu"))


def test_it_names_the_versions_the_device_and_the_processes() -> None:
    described = environment(Place(torch.device("cpu"), rank=1, world_size=2))
    assert described["versions"] == {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scikit-learn", "safetensors", "numba")},
    }
    assert described["device"] == f"cpu, {torch.get_num_threads()} thread(s)"
    assert described["processes"] == 2


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA of {device}")
    assert environment(Place(torch.device("cuda", 1)))["device"] == "NVIDIA of cuda:1"


def install_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


# What git answers, by its subcommand.
ANSWERS = """case "$1" in
rev-parse) test "$2" = --show-toplevel && echo "{root}"; exit {status};;
*) echo "$*";;
esac"""


@pytest.mark.parametrize(
    ("root", "status", "commit"),
    [
        (PROJECT, 0, "describe --always --dirty --abbrev=40 --exclude=*"),
        (PROJECT.parent, 0, None),
        ("", 128, None),
    ],
    ids=["of this project", "of a folder above", "no repository"],
)
def test_the_commit_is_what_git_says_of_this_projects_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path | str, status: int, commit: str | None
) -> None:
    install_git(tmp_path, ANSWERS.format(root=root, status=status), monkeypatch)
    assert environment(CPU)["git_commit"] == commit


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment(CPU)["git_commit"] is None
