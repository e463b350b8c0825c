"""`bench core`: what the main job costs here."""

from collections.abc import Callable

from ephemeralml.bench import evidence, machine, path, receipts, records, startup
from ephemeralml.bench.measure import Section
from ephemeralml.bench.report import Report
from ephemeralml.progress import Progress

_PARTS: tuple[tuple[str, Callable[..., Section]], ...] = (
    ("records", records.measure),
    ("receipts", receipts.measure),
    ("evidence", evidence.measure),
    ("command line", startup.measure),
    ("bare engine and whole path", path.measure),
)


def run(progress: Progress, *, quick: bool) -> Report:
    """Measure every part in turn.

    Raises:
        UnavailableError: The engine or the demonstration's weights are not installed.
    """
    described = machine.describe()
    sections = []
    for name, measure in _PARTS:
        progress.step(name)
        sections.append(measure(quick=quick))
    return Report.of("core", described, sections)
