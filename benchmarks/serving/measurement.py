"""Cases, measured in turn round by round, so that what slows the machine down slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

Name = tuple[str, str]  # contender, workload


@dataclass(frozen=True)
class Sample:
    """One round of one case. A bare loop's request is one batch."""

    requests: int
    images: int
    seconds: float
    p50_seconds: float
    p99_seconds: float
    cpu_seconds: float  # of the contender, user and system, all threads

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    @property
    def cpu_seconds_per_request(self) -> float:
        """What a request costs the contender, waiting aside."""
        return self.cpu_seconds / self.requests


@dataclass
class Case:
    """A contender under a workload."""

    name: Name
    measure: Callable[[int], Sample]  # for so many seconds
    check: Callable[[], None]  # raises BenchmarkError for a wrong answer
    samples: list[Sample] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return ": ".join(self.name)

    def median(self, figure: Callable[[Sample], float]) -> float:
        """Return the median over the rounds of a figure."""
        return median(figure(sample) for sample in self.samples)


@dataclass(frozen=True)
class Measured:
    """Cases that belong in one table, and those among them that the others are divided by."""

    title: str
    cases: Sequence[Case]
    references: Sequence[Case]


def run_rounds(
    cases: Sequence[Case], rounds: int, seconds: int, announce: Callable[[str], None] = print
) -> None:
    """Measure every case once a round, after a round that only warms up."""
    for number in range(rounds + 1):
        for case in cases:
            sample = case.measure(seconds)
            if number:
                case.samples.append(sample)
                rate = f"{sample.images_per_second:>10,.0f} images/s"
                announce(f"round {number} of {rounds} {rate}  {case.label}")


def ratios(case: Case, reference: Case) -> list[float]:
    """Return, for each round, a case's images per second over the reference's."""
    pairs = zip(case.samples, reference.samples, strict=True)
    return [ours.images_per_second / theirs.images_per_second for ours, theirs in pairs]
