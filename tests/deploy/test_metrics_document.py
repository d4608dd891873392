"""docs/metrics.md has every metric that is exposed, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from app.metrics import DeviceMemory
from tests.bundles import save_small_bundle, small_config
from tests.exposition import DOCUMENT, ROOT, documented, exposed
from tests.servers import running


def test_the_table_is_what_is_exposed(tmp_path: Path) -> None:
    for name in ("grey", "colour"):
        save_small_bundle(tmp_path / name, small_config())
    with running(tmp_path) as server:
        server.service.metrics.show_memory(DeviceMemory("cuda:0", 4, 3, 2, 1))
        found = exposed(server.client.get("/metrics").text)
    assert found == documented()


def test_a_metric_is_documented_once() -> None:
    for name in documented():
        assert DOCUMENT.count(f"| `{name}` |") == 1


def test_every_file_and_section_that_it_names_is_there() -> None:
    links = re.findall(r"\]\(([^):]+)\)", DOCUMENT)
    assert links
    sections = {heading.lower() for heading in re.findall(r"^### (\w+)$", DOCUMENT, re.MULTILINE)}
    for link in links:
        assert link.removeprefix("#") in sections or (ROOT / "docs" / link).exists(), link
