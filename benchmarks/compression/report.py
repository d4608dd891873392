"""The figures as JSON, a file for each bundle, and those of all bundles as a table and a plot."""

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


def write_results(folder: Path, bundle: str, facts: Mapping[str, Any], rows: Sequence[Measured]) -> None:
    """Write a bundle's figures as BUNDLE.json."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {**facts, "published": PUBLISHED.get(bundle, {}), "rows": [asdict(row) for row in rows]}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{bundle}.json").write_text(text, encoding="utf-8")


def write_report(folder: Path) -> Results:
    """Write results.md and results.png of the figures in a folder, and return those."""
    results = {
        path.stem: [Measured(**row) for row in json.loads(path.read_bytes())["rows"]]
        for path in sorted(folder.glob("*.json"))
    }
    (folder / "results.md").write_text(summary(results), encoding="utf-8")
    _draw(results).savefig(folder / "results.png", dpi=110)
    return results


def summary(results: Results) -> str:
    """Return a Markdown table, a contender a row.

    For each bundle the bits/dim of one file of all images, the mean bytes of single images, and the speed of
    compressing and decompressing the file in MB/s of pixels.
    """
    heads = [f"{bundle} {unit}" for unit in ("bits/dim", "bytes", "MB/s") for bundle in results]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    by_name = {bundle: {row.name: row for row in rows} for bundle, rows in results.items()}
    for name in dict.fromkeys(row.name for rows in results.values() for row in rows):
        rows = [found.get(name) for found in by_name.values()]
        cells = [f"{row.whole_bits_per_dim:.3f}" if row else "" for row in rows]
        cells += [f"{row.single_bytes:.0f}" if row else "" for row in rows]
        cells += [_speeds(row) if row else "" for row in rows]
        lines.append(f"| {' | '.join([name, *cells])} |")
    published = [PUBLISHED.get(bundle, {}) for bundle in results]
    for name in dict.fromkeys(name for figures in published for name in figures):
        cells = [f"{figures[name]:.2f}" if name in figures else "" for figures in published]
        lines.append(f"| {' | '.join([f'{name}, published', *cells])} |{' |' * 2 * len(results)}")
    return "\n".join(lines) + "\n"


def _speeds(row: Measured) -> str:
    return f"{_speed(row.compress_mb_s)}, {_speed(row.decompress_mb_s)}"


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
    axes.bar_label(drawn, fmt="%.4g", padding=3)
    axes.margins(x=0.12)
    axes.set_title(title)
