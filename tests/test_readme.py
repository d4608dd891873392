"""The README's questions are asked of the default bundle, and answered as it says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from models.bundle import SHIPPED
from tests.documents import console_commands, gist, made_targets, make_targets
from tests.servers import running

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_gist_of_an_answer_keeps_names_counts_and_words() -> None:
    answer = (
        '{"model":"mnist","elbo":[-1197.3768,2.5e-06,1e-05],"samples":16,"total":2.0,"digest":"sha256:37"}'
    )
    assert gist(answer) == (
        '{"model":"mnist","elbo":[<number>,<number>,<number>],"samples":16,"total":2.0,"digest":"<digest>"}'
    )
    assert gist('{"images":["' + 12 * "iVBORw0K" + '=="]}') == '{"images":["<base64>"]}'
    assert gist("/dev/stdin: PNG image data, 28 x 28") == "/dev/stdin: PNG image data, 28 x 28"


def test_the_tables_are_those_that_the_benchmarks_wrote() -> None:
    for benchmark in ("compression", "distortion"):
        table = (ROOT / "benchmarks" / benchmark / "results" / "results.md").read_text(encoding="utf-8")
        assert f"<!-- {benchmark} -->\n{table}<!-- /{benchmark} -->" in README


@pytest.mark.parametrize("shown", ["0.64,-0.19,1e-05,0.", "0.123456,-", "0.5,0.4,0.3,-0.2", "0.644,0"])
def test_the_gist_of_a_cut_list_does_not_depend_on_where_the_cut_fell(shown: str) -> None:
    assert gist(f'{{"mu":[[{shown}', is_cut=True) == '{"mu":[[<number>, …'


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
        "/compress",
        "/decompress",
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
            is_cut = "| cut " in command
            assert gist(answered.stdout.strip(), is_cut) == gist(shown, is_cut), command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(path: Path) -> None:
    document = path.read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)", document) + re.findall(r"training/configs/\S+\.toml", document)
    assert named
    for name in named:
        assert (ROOT / name).exists() or (path.parent / name).exists(), name


def test_every_make_target_that_the_readme_names_exists() -> None:
    assert "serve" in made_targets(README)
    assert made_targets(README) <= make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))


def test_targets_are_told_by_their_whole_names() -> None:
    document = "Make sense of `make fuzz-anything`.\n```console\n$ A=1 make image lock B='-c d'  # e\n```\n"
    assert made_targets(document) == {"fuzz-anything", "image", "lock"}
    makefile = "fuzz: .venv/dev ## all\n\tmake\nfuzz-hour:\nA := b\n.venv/serve .venv/dev:\n"
    assert make_targets(makefile) == {"fuzz", "fuzz-hour", ".venv/serve", ".venv/dev"}
