"""Every command of the guides runs, and answers as it is shown, in a copy of the repository."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.serving.processes import free_port
from models.images import encode_png
from tests.documents import console_commands, gist
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
SERVE = "make serve"
# No container engine is here, CI checks by itself, and what would be installed is in the environment.
NOT_RUN = ("docker ", "make image ", "make check", ".venv/bin/pip install ")
# Left out where the data set is not here; the images are made up then.
OF_THE_DATA_SET = ("make data ", ".venv/bin/python docs/frogs.py ")
# A run of minutes, cut to seconds.
SHORTER = {
    "training/configs/folder.toml": {"epochs = 20": "epochs = 1", "warmup_steps = 200": "warmup_steps = 1"},
    "docs/frogs.py": {"data.train_labels == FROG]": "data.train_labels == FROG][:200]"},
    "docs/train.md": {"5000 images": "200 images"},
}
pytestmark = pytest.mark.slow


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository, with what is installed and fetched beside it."""
    # Not __pycache__: the codec's inner loops are there, compiled.
    left_out = shutil.ignore_patterns(".*cache", ".git", ".venv*", "data", "runs", ".coverage*")
    folder = tmp_path / "vaeserve"
    shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # Older than the environment, which is not to be made anew.
    for file in (*folder.rglob("pyproject.toml"), *folder.glob("*.lock")):
        os.utime(file, (0, 0))
    if (ROOT / "data").exists():
        (folder / "data").symlink_to(ROOT / "data")
    for name, changes in SHORTER.items():
        text = (folder / name).read_text(encoding="utf-8")
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@contextmanager
def serving(command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a command that serves, and give its address once it is ready."""
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env={**environment, "VAE_PORT": str(port)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: is_ready(port) or process.poll() is not None, seconds=120)
        assert process.poll() is None, command
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def is_ready(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    return False


@pytest.mark.parametrize("guide", ["deploy", "call", "train", "extend"])
def test_every_command_of_a_guide(guide: str, copy: Path) -> None:
    document = (copy / "docs" / f"{guide}.md").read_text(encoding="utf-8")
    commands = [each for each in console_commands(document) if not each[0].startswith(NOT_RUN)]
    if not (ROOT / "data" / "cifar10").exists():
        commands = [each for each in commands if not each[0].startswith(OF_THE_DATA_SET)]
        write_images(copy / "images")
    # Not measured: coverage would look for the copy's files afterwards.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "VAE_"))}
    if SERVE not in commands[0][0] and "localhost:8000" in document:
        commands.insert(0, (SERVE, ""))
    while commands:
        command, shown = commands.pop(0)
        if SERVE not in command:
            run(command, shown, copy, environment)
            continue
        with serving(command, copy, environment) as address:
            while commands and SERVE not in commands[0][0]:
                command, shown = commands.pop(0)
                run(command.replace("localhost:8000", address), shown, copy, environment)


def run(command: str, shown: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if shown:
        assert gist(done.stdout.strip()) == gist(shown), command


def write_images(folder: Path) -> None:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    for index, image in enumerate(images):
        (folder / f"{index}.png").write_bytes(encode_png(image))
