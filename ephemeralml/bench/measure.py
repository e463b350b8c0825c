"""Taking times: interleaved, with medians, without a verdict."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure."""

    name: str
    value: float | None
    """What to quote, in `unit`; None where it could not be measured, and `note` says why."""
    unit: str
    p50: float | None = None
    p95: float | None = None
    n: int = 0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row of the command line's JSON contract."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "p50": _rounded(self.p50),
            "p95": _rounded(self.p95),
            "n": self.n,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that a specification or an issue states, and whether this run met it."""

    name: str
    value: float | None
    target: float
    unit: str
    at_most: bool
    """True where less is better."""

    @property
    def met(self) -> bool:
        """Whether the measured value is on the right side; an unmeasured one is not."""
        if self.value is None:
            return False
        return self.value <= self.target if self.at_most else self.value >= self.target

    def to_json(self) -> dict[str, Any]:
        """Return the target of the command line's JSON contract."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "target": self.target,
            "unit": self.unit,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Section:
    """The rows and targets of one part of a bench."""

    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which *share* of the samples lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleaved(
    subjects: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Call each subject once a round and return its times in seconds.

    What is compared is measured in turn, so that a machine whose speed drifts
    slows all of them alike. Garbage collection waits until the end.
    """
    for _ in range(warmup):
        for call in subjects.values():
            call()
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in subjects.items():
                start = time.perf_counter()
                call()
                samples[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return samples


def row(name: str, samples: Sequence[float], *, scale: float, unit: str, note: str = "") -> Row:
    """Return the row of *samples* in seconds, scaled to *unit*; its value is the median."""
    p50 = quantile(samples, 0.5) * scale
    return Row(name, p50, unit, p50=p50, p95=quantile(samples, 0.95) * scale, n=len(samples), note=note)
