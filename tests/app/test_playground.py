"""GET /: the files of the playground, and what protects the people who open it."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from app.routes.playground import FILES, FOLDER
from tests.app.test_routes import problem
from tests.servers import Running

ROOT = Path(__file__).parents[2]
PARTS = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")
KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
KINDS |= {"svg": "image/svg+xml", "png": "image/png"}


def policy(response: httpx.Response) -> dict[str, list[str]]:
    parts = [part.split() for part in response.headers["content-security-policy"].split(";")]
    return {name: sources for name, *sources in parts}


def test_the_root_is_the_page(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_page_has_its_type(client: httpx.Client, name: str) -> None:
    response = client.get(f"/playground/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == KINDS[name.rpartition(".")[2]]
    assert response.content == (FOLDER / name).read_bytes()


def test_the_page_names_parts_that_are_there() -> None:
    texts = {name: file.content.decode() for name, file in FILES.items() if not name.endswith(".png")}
    imported = {name for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    loaded = set(re.findall(r'(?:href|src)="playground/([^"]+)"', texts["index.html"]))
    assert loaded == {"icon.svg", "main.js", "playground.css"}
    assert imported | loaded | {name for name in PARTS if name.endswith(".png")} == set(PARTS)


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
def test_it_runs_and_loads_nothing_from_elsewhere(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    rules = policy(response)
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert rules["img-src"] == ["'self'", "blob:", "data:"]
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == ["'none'"]


def test_no_file_names_another_origin() -> None:
    for name, file in FILES.items():
        addresses = re.findall(rb"https?://[\w./-]+", file.content) if not name.endswith(".png") else []
        assert {*addresses} <= {b"http://www.w3.org/2000/svg"}, name


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
def test_what_a_browser_has_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}'):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
def test_head_answers_without_the_content(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["etag"] == client.get(path).headers["etag"]


@pytest.mark.parametrize("name", ["nope.js", "index.html", "..%2Froutes%2Fplayground.py", "playground.py"])
def test_nothing_else_is_there(client: httpx.Client, name: str) -> None:
    problem(client.get(f"/playground/{name}"), 404, "not-found")


def test_requests_for_files_are_counted_under_one_label(client: httpx.Client, live: Running) -> None:
    def counted() -> float:
        labels = {"route": "/playground/{name}", "status": "200"}
        return live.service.metrics.registry.get_sample_value("vae_requests_total", labels) or 0.0

    before = counted()
    client.get("/playground/main.js")
    client.get("/playground/api.js")
    assert counted() == before + 2


@pytest.mark.slow
def test_an_installation_has_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", wheel, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert {name.removeprefix("app/playground/") for name in archive.namelist()} >= set(FILES)
