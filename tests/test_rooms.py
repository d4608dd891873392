"""The one import rule: app ─► codec ─► models ◄── training, and nothing against the arrows.

The client stands apart: it is installed where the service is not.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "models": set(),
    "codec": {"models"},
    "app": {"codec", "models"},
    "training": {"codec", "models"},
    "client": set(),
}
OWN_NAMES = {"client": "vaeserve_client"}
NAMES = MAY_IMPORT.keys() | {"tests", "benchmarks", "fuzzing", "vaeserve_client"}


def imported_rooms(source: str) -> set[str]:
    """Top-level names of every absolute import, wherever it stands in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names & NAMES


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if (ROOT / room).is_dir()])
def test_a_room_imports_only_along_the_arrows(room: str) -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imported_rooms(path.read_text(encoding="utf-8")) - {OWN_NAMES.get(room, room)}
        if name not in MAY_IMPORT[room]
    }
    assert found == set()


@pytest.mark.parametrize("source", ["import app", "from app.x import y", "def f():\n    import app.engine"])
def test_the_rule_sees_every_form_of_import(source: str) -> None:
    assert imported_rooms(source) == {"app"}
