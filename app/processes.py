"""The processes of one service, as Prometheus sees them: memory, CPU time, open files, restarts.

The supervisor of several notes each in the folder that they share, under a name that it keeps when it is
started anew, so that whichever process answers a scrape tells the same series of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, values
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # set, the figures are those of all processes that share it
ALONE = "service"  # the name of a process that has no others
_SUFFIX = ".process"


def keep_figures_as(name: str) -> None:
    """Keep this process's figures in files of its name; call it before the first of them is made.

    A process that is started anew under the name goes on with what the one before it counted. By their ids,
    which prometheus_client takes, the files of all that ever ended would stay, and be read by every scrape.
    """
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]


def note_process(folder: Path, name: str, pid: int, restarts: int = 0) -> None:
    """Note which process now has a name, and how often it was started anew."""
    draft = folder / f"{name}.draft"
    draft.write_text(f"{pid} {restarts}")
    draft.replace(folder / f"{name}{_SUFFIX}")


def noted_processes() -> dict[str, tuple[int, int]]:
    """Return each process's id and restarts by its name."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return {ALONE: (os.getpid(), 0)}
    found = {}
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}")):
        pid, restarts = path.read_text().split()
        found[path.stem] = (int(pid), int(restarts))
    return found


class Processes(Collector):
    """What Prometheus's own process collector tells, of every process by the label `process`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Look at every process; one that has ended has restarts alone."""
        restarts = Metric("vae_process_restarts", "Processes started anew after they ended.", "counter")
        families = {restarts.name: restarts}
        for name, (pid, count) in noted_processes().items():
            labels = {"process": name}
            restarts.add_sample(f"{restarts.name}_total", labels, count)
            for own in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(own.name, Metric(own.name, own.documentation, own.type))
                for sample in own.samples:
                    family.add_sample(sample.name, labels, sample.value)
        return families.values()
