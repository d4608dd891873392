"""The README's questions are asked of the default bundle, and answered as it says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from models.bundle import SHIPPED
from tests.app.conftest import running

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def console_commands(document: str) -> list[tuple[str, str]]:
    """Commands after `$ ` in console blocks, each with the output shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", document, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output.strip()) for command, _, output in (part.partition("\n") for part in parts)]


def gist(output: str) -> object:
    """What must not change from machine to machine: the members of JSON, or the text but for its numbers."""
    return re.findall(r'"(\w+)":', output) or NUMBER.sub("0", output)


@pytest.mark.slow
def test_every_curl_answers_as_shown(tmp_path: Path) -> None:
    curls = [(command, shown) for command, shown in console_commands(README) if "localhost:8000" in command]
    routes = set(re.findall(r"localhost:8000(/\w+)", str(curls)))
    assert routes >= {
        "/encode",
        "/decode",
        "/reconstruct",
        "/score",
        "/sample",
        "/models",
        "/health",
        "/metrics",
    }
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with running(SHIPPED, models=("fashion-mnist",), max_batch=256) as server:
        address = f"{server.client.base_url.host}:{server.client.base_url.port}"
        for command, shown in curls:
            here = command.replace("localhost:8000", address)
            answered = subprocess.run(
                ["bash", "-c", here], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            assert gist(answered.stdout.strip()) == gist(shown), command


@pytest.mark.parametrize("document", [README, (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")])
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", document) + re.findall(r"training/configs/\S+\.toml", document)
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "docs" / name).exists(), name


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
