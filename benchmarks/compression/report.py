"""The figures as JSON, a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.compression.measurement import Measured

# Coded lengths of whole sets, bits/dim, as their authors give them; a bits-back chain has no random access.
PUBLISHED = {
    "mnist": {"Bit-Swap": 1.29, "BB-ANS": 1.41},
    "fashion-mnist": {"Bit-Swap": 3.28},
    "cifar10": {"IDF++": 3.26, "HiLLoC": 3.56, "Bit-Swap": 3.82},
}
Results = Mapping[str, Sequence[Measured]]  # by bundle


def write_report(folder: Path, facts: Mapping[str, Any], results: Results) -> None:
    """Write results.json, results.md and results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    bundles = {bundle: [asdict(measured) for measured in rows] for bundle, rows in results.items()}
    document = {**facts, "published": PUBLISHED, "bundles": bundles}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "results.md").write_text(table(results), encoding="utf-8")
    _draw(results).savefig(folder / "results.png", dpi=110)


def table(results: Results) -> str:
    """Return Markdown tables, one for each bundle."""
    return "\n".join(_table(bundle, rows) for bundle, rows in results.items())


def _table(bundle: str, rows: Sequence[Measured]) -> str:
    lines = [
        f"| `{bundle}` | one file of all, bits/dim | single images, mean bytes "
        "| compress, MB/s | decompress, MB/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.name} | {row.whole_bits_per_dim:.3f} | {row.single_bytes:.0f} "
        f"| {_speed(row.compress_mb_s)} | {_speed(row.decompress_mb_s)} |"
        for row in rows
    ]
    lines += [f"| {name}, published | {bits:.2f} | | | |" for name, bits in PUBLISHED.get(bundle, {}).items()]
    return "\n".join(lines) + "\n"


def _speed(mb_s: float) -> str:
    return f"{mb_s:.2f}" if mb_s < 9.95 else f"{mb_s:.0f}"


def _draw(results: Results) -> Figure:
    figure = Figure(figsize=(11, 2 + 3 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), 2, squeeze=False)
    for (whole, single), (bundle, rows) in zip(grid, results.items(), strict=True):
        bars = [(row.name, row.whole_bits_per_dim) for row in rows]
        bars += [(f"{name}, published", bits) for name, bits in PUBLISHED.get(bundle, {}).items()]
        _bars(whole, bars, f"{bundle}: one file of all, bits/dim")
        _bars(single, [(row.name, row.single_bytes) for row in rows], f"{bundle}: single images, mean bytes")
    return figure


def _bars(axes: Any, bars: Sequence[tuple[str, float]], title: str) -> None:
    names, values = zip(*sorted(bars, key=lambda bar: -bar[1]), strict=True)
    colours = ["#c0392b" if name.startswith("vaeserve") else "#7f8c8d" for name in names]
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.margins(x=0.12)
    axes.set_title(title)
