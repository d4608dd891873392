"""Results as JSON with every round, as a table, and as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.serving.contenders import LOOP
from benchmarks.serving.measurement import Case, Measured, ratios
from benchmarks.serving.workloads import TOLERANCE

OURS, PEER, LIMIT, INK = "#2563a8", "#d9722e", "#9aa5b1", "#1f2933"


def write_report(folder: Path, facts: Mapping[str, Any], results: Sequence[Measured]) -> None:
    """Write results.json, results.md and results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {**facts, "comparisons": [_document(measured) for measured in results]}
    (folder / "results.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(markdown(facts, results))
    plot(results, folder / "results.png")


def _document(measured: Measured) -> dict[str, Any]:
    return {"title": measured.title, "cases": [_case(case, measured) for case in measured.cases]}


def _case(case: Case, measured: Measured) -> dict[str, Any]:
    contender, workload = case.name
    found = {
        reference.label: ratios(case, reference) for reference in measured.references if reference is not case
    }
    return {
        "contender": contender,
        "workload": workload,
        "median_images_per_second": case.median(lambda sample: sample.images_per_second),
        "median_p50_seconds": case.median(lambda sample: sample.p50_seconds),
        "median_p99_seconds": case.median(lambda sample: sample.p99_seconds),
        "median_cpu_seconds_per_request": case.median(lambda sample: sample.cpu_seconds_per_request),
        "ratios": {name: {"median": median(values), "rounds": values} for name, values in found.items()},
        "rounds": [asdict(sample) for sample in case.samples],
    }


def markdown(facts: Mapping[str, Any], results: Sequence[Measured]) -> str:
    """Return the tables, under what was measured and above where."""
    settings, machine = facts["settings"], facts["machine"]
    gpu = f" and {machine['gpu']}" if "gpu" in machine else ""
    lines = [
        "# Serving benchmark",
        "",
        f"`{facts['command']}`, bundle `{settings['bundle']}`, {settings['threads']} torch thread(s) each, "
        f"{settings['rounds']} round(s) of {settings['seconds']} s in turn. Medians over the rounds; × is "
        "the median of the rounds' ratios of images/s. A round's answers are counted from when there are as "
        "many as connections to the last one; latencies are of all. CPU is the contender's own, all threads. "
        "A request of the torch loop, which is `model.encode` in the faster memory layout and nothing else, "
        "is one batch. "
        "Answers were checked against torch before and after, within "
        f"{settings.get('tolerance', TOLERANCE):g} of an output's largest magnitude.",
        "",
        "![images per second](results.png)",
    ]
    for measured in results:
        lines += ["", f"## {measured.title}", "", *table(measured)]
    lines += [
        "",
        f"Measured on {machine['cores']} cores of {machine['cpu']}{gpu}, the load generator on the same "
        f"machine; servers on CPUs {settings['server_cpus'] or 'any'}, "
        f"load on CPUs {settings['load_cpus'] or 'any'}; "
        f"load average before the start {machine['load_average_before']:.2f}.",
        "",
        ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        + f"; commit {facts['commit']}.",
    ]
    return "\n".join(lines) + "\n"


def table(measured: Measured) -> list[str]:
    """Return the lines of a Markdown table of the cases."""
    headings = ["", "images/s", "p50 ms", "p99 ms", "CPU ms a request", "cores busy"]
    headings += [f"× {reference.label}" for reference in measured.references]
    lines = [_row(headings), _row(["---", *["---:"] * (len(headings) - 1)])]
    for case in measured.cases:
        cells = [
            case.label,
            f"{case.median(lambda sample: sample.images_per_second):,.0f}",
            f"{case.median(lambda sample: sample.p50_seconds * 1e3):.2f}",
            f"{case.median(lambda sample: sample.p99_seconds * 1e3):.2f}",
            f"{case.median(lambda sample: sample.cpu_seconds_per_request * 1e3):.3f}",
            f"{case.median(lambda sample: sample.cpu_seconds / sample.seconds):.2f}",
        ]
        cells += [_ratio(median(ratios(case, reference))) for reference in measured.references]
        lines.append(_row(cells))
    return lines


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(results: Sequence[Measured], path: Path) -> None:
    """Draw the median images per second of every case as a bar, and each round as a dot on it."""
    heights = [len(measured.cases) for measured in results]
    figure = Figure(figsize=(9, 0.9 * len(results) + 0.42 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, measured in zip(panels, results, strict=True):
        labels = [case.label for case in measured.cases]
        medians = [case.median(lambda sample: sample.images_per_second) for case in measured.cases]
        axes.barh(labels, medians, color=[_colour(case) for case in measured.cases], height=0.65)
        for row, case in enumerate(measured.cases):
            rates = [sample.images_per_second for sample in case.samples]
            axes.plot(rates, [row] * len(rates), "o", color=INK, markersize=3, alpha=0.6)
            axes.annotate(
                f"{medians[row]:,.0f}",
                (max(rates), row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_title(measured.title, fontsize=10, loc="left")
        axes.set_xlabel("images/s: bar the median, dots the rounds", fontsize=8)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _colour(case: Case) -> str:
    return {"vaeserve": OURS, LOOP: LIMIT}.get(case.name[0], PEER)
