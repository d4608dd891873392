"""The client's README is true: its examples give what they show, its tables leave nothing out."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import json
import math
import re
import shutil
import traceback
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import vaeserve_client
from models.bundle import SHIPPED
from tests.servers import running
from tests.test_readme import gist
from vaeserve_client import Client, ProblemError, Retries, VaeserveError
from vaeserve_client.errors import DeadlineExceeded
from vaeserve_client.exchange import CONNECT_SECONDS, TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "client" / "README.md").read_text(encoding="utf-8")


def shown_by(example: doctest.Example, names: dict[str, object]) -> str:
    """Return what an interpreter shows for an example: what it prints, or how its exception ends."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(example.source, "<README>", "single"), names)
        except VaeserveError as error:
            return traceback.format_exception_only(error)[-1]
    return printed.getvalue()


@pytest.mark.slow
def test_every_example_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "photos").mkdir()
    for number in range(150):
        PIL.Image.fromarray(np.full((40, 30, 3), number, np.uint8)).save(tmp_path / f"photos/{number}.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    examples = doctest.DocTestParser().get_examples(README)
    assert len(examples) > 10
    with running(SHIPPED, models=("fashion-mnist",)) as server:
        for example in examples:
            example.source = example.source.replace("http://127.0.0.1:8000", server.url)
            shown = gist(shown_by(example, names))
            assert shown == gist(example.exc_msg or example.want), example.source
        names["client"].close()  # type: ignore[attr-defined]
    with PIL.Image.open("boot-decoded.png") as image:
        assert image.size == (28, 28)


def test_every_method_is_in_its_table() -> None:
    methods = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert set(
        re.findall(r"`(\w+)\([\w, ]*\)`", README.partition("## Methods")[2].partition("**Images")[0])
    ) == (methods | {"to_pil"})


def test_every_parameter_is_in_the_table_of_methods() -> None:
    table = README.partition("## Methods")[2].partition("**Images")[0]
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            for parameter in list(inspect.signature(method).parameters)[1:]:
                assert re.search(rf"\b{parameter}\b", table), (name, parameter)


def test_every_error_is_in_its_table_under_what_it_is() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`[^|]*`) \|", README.partition("## Errors")[2], re.MULTILINE))
    exported = {
        name: value
        for name in vaeserve_client.__all__
        if isinstance(value := getattr(vaeserve_client, name), type) and issubclass(value, VaeserveError)
    }
    assert rows.keys() == exported.keys() - {"VaeserveError", "ProblemError"}
    for name, bases in rows.items():
        assert [f"`{base.__name__}`" for base in exported[name].__bases__] == bases.split(", ")
    assert issubclass(ProblemError, VaeserveError)
    assert issubclass(DeadlineExceeded, VaeserveError)


def test_the_defaults_are_those_that_it_tells() -> None:
    retries = Retries()
    assert retries.count == math.inf
    shown = f"first_seconds={retries.first_seconds}, most_seconds={retries.most_seconds:g}"
    assert f"`Retries(count=math.inf, {shown})`" in README
    assert f"of the client ({TIMEOUT_SECONDS:g})" in README
    assert f"`connect_timeout`, {CONNECT_SECONDS:g} seconds" in README


def test_the_table_of_costs_is_the_one_that_the_benchmark_wrote() -> None:
    table = (ROOT / "benchmarks/client/results.md").read_text(encoding="utf-8")
    assert f"<!-- client -->\n{table}<!-- /client -->" in README


def test_the_clients_own_cpu_time_is_told() -> None:
    medians = json.loads((ROOT / "benchmarks/client/results.json").read_text(encoding="utf-8"))["medians"]
    more = {kind: round(100 * (found["cpu_ratio"] - 1)) for kind, found in medians.items()}
    assert f"{more['Client']} % more than bare httpx's with `Client`" in README
    assert f"{more['AsyncClient']} % more with `AsyncClient`" in README


def test_every_file_that_it_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README)
    assert named
    for name in named:
        assert (ROOT / "client" / name).exists(), name
