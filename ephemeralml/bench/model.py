"""`bench model`: what encryption, transport and verification of a model cost here."""

from collections.abc import Callable

from ephemeralml.bench import cold_start, container_rates, host_services, machine, object_load, package_rates
from ephemeralml.bench.measure import Section
from ephemeralml.bench.report import Report
from ephemeralml.progress import Progress

_PARTS: tuple[tuple[str, Callable[..., Section]], ...] = (
    ("containers", container_rates.measure),
    ("packages", package_rates.measure),
    ("object store", object_load.measure),
    ("host services", host_services.measure),
    ("cold start", cold_start.measure),
)


def run(progress: Progress, *, quick: bool) -> Report:
    """Measure every part in turn.

    Raises:
        UnavailableError: The S3 server does not start, there is no room for a
            model of 1 GiB, or engine, key server or demo weights are not installed.
    """
    described = machine.describe()
    sections = []
    for name, measure in _PARTS:
        progress.step(name)
        sections.append(measure(quick=quick))
    return Report.of("model", described, sections)
