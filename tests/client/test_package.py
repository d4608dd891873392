"""The package as others install it: small, typed, alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
MODULES = {"pillow": "PIL"}  # imported by another name than they are installed by


def imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_it_imports_what_it_depends_on_and_depends_on_what_it_imports() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[a-z-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    found = {name for path in CLIENT.rglob("*.py") for name in imported(path.read_text(encoding="utf-8"))}
    own = {MODULES.get(name, name) for name in declared}
    assert found - set(sys.stdlib_module_names) - {"vaeserve_client"} == own


def test_importing_it_imports_nothing_of_the_service() -> None:
    program = "import sys, vaeserve_client; print(*{name.partition('.')[0] for name in sys.modules})"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    loaded = set(shown.stdout.split())
    assert "vaeserve_client" in loaded
    assert not loaded & {"torch", "app", "codec", "models", "training", "fastapi", "numba"}


def test_a_wheel_has_the_code_and_its_types_alone(tmp_path: Path) -> None:
    sources = tmp_path / "client"  # building leaves files beside the sources
    sources.mkdir()
    for name in ("pyproject.toml", "README.md"):
        (sources / name).write_bytes((CLIENT / name).read_bytes())
    (sources / "vaeserve_client").mkdir()
    for path in (CLIENT / "vaeserve_client").iterdir():
        if path.is_file():
            (sources / "vaeserve_client" / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", str(sources)]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("vaeserve_client-*-py3-none-any.whl")
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {f"vaeserve_client/{path.name}" for path in (CLIENT / "vaeserve_client").glob("*.py")}
    assert names == code | {"vaeserve_client/py.typed"}
