"""The curves as JSON, a table of bytes at equal PSNR, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.distortion.measurement import Point, bytes_at

PSNRS = (20, 22, 24, 26, 28, 30, 35, 40, 45)  # dB, of the table
BYTES = (20, 50, 100, 200, 500)  # ticks
BITS_PER_DIM = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
Curves = Mapping[str, list[Point]]  # by contender
Results = Mapping[str, Curves]  # by bundle


def write_report(folder: Path, facts: Mapping[str, Any], results: Results) -> None:
    """Write results.json, results.md and results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    bundles = {
        bundle: {name: [asdict(point) for point in points] for name, points in curves.items()}
        for bundle, curves in results.items()
    }
    text = json.dumps({**facts, "bundles": bundles}, indent=2, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "results.md").write_text(table(results), encoding="utf-8")
    _draw(results).savefig(folder / "results.png", dpi=110)


def table(results: Results) -> str:
    """Return Markdown tables, one for each bundle: the mean bytes of a single image at equal PSNR."""
    return "\n".join(_table(bundle, curves) for bundle, curves in results.items())


def _table(bundle: str, curves: Curves) -> str:
    lines = [
        f"| `{bundle}`, bytes at | " + " | ".join(f"{psnr} dB" for psnr in PSNRS) + " |",
        "| --- |" + " ---: |" * len(PSNRS),
    ]
    for name, points in curves.items():
        sizes = [bytes_at(points, psnr) for psnr in PSNRS]
        lines.append(f"| {name} | " + " | ".join("" if s is None else f"{s:.0f}" for s in sizes) + " |")
    return "\n".join(lines) + "\n"


def _draw(results: Results) -> Figure:
    figure = Figure(figsize=(15, 1 + 4 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), 3, squeeze=False)
    for row, (bundle, curves) in zip(grid, results.items(), strict=True):
        single, similar, whole = row
        for name, points in curves.items():
            style = {"marker": ".", "label": name, "linewidth": 2 if name.startswith("vaeserve") else 1}
            sizes = [point.single_bytes for point in points]
            single.plot(sizes, [point.single_psnr for point in points], **style)
            similar.plot(sizes, [point.single_ssim for point in points], **style)
            whole.plot(
                [point.whole_bits_per_dim for point in points], [p.whole_psnr for p in points], **style
            )
        _label(single, f"{bundle}: single images", "mean bytes", "PSNR, dB", BYTES)
        _label(similar, f"{bundle}: single images", "mean bytes", "SSIM", BYTES)
        _label(whole, f"{bundle}: one file of all", "bits/dim", "PSNR, dB", BITS_PER_DIM)
    return figure


def _label(axes: Any, title: str, x: str, y: str, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
