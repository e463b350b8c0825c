"""`ephemeralml bench`: measure this installation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console as Printer

    from ephemeralml.bench.report import Report

app = typer.Typer(no_args_is_help=True, help="Measure this installation, print ratios.")


@app.callback()
def _group() -> None: ...


_Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds: seconds, and more noise.")]
_Chart = Annotated[Path | None, typer.Option(help="Also draw the targets to this .svg or .html file.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite the chart file.")]


@app.command()
def core(quick: _Quick = False, chart: _Chart = None, force: _Force = False) -> None:
    """Measure the main job: engine, whole path, handshake, verification, records."""
    from ephemeralml.bench import core as bench

    _measure(bench.run, quick, chart, force)


@app.command()
def model(quick: _Quick = False, chart: _Chart = None, force: _Force = False) -> None:
    """Measure model packages: containers, packaging, loads from an object store, memory."""
    from ephemeralml.bench import model as bench

    _measure(bench.run, quick, chart, force)


@app.command()
def kms(quick: _Quick = False, chart: _Chart = None, force: _Force = False) -> None:
    """Measure the local key server: attested Decrypts on one core, with few keys and with 100,000."""
    from ephemeralml.bench import kms as bench

    _measure(bench.run, quick, chart, force)


def _measure(bench: "Callable[..., Report]", quick: bool, chart: Path | None, force: bool) -> None:
    out = console.current()
    if chart is not None:
        if chart.suffix not in {".svg", ".html"}:
            raise console.usage(f"cannot draw to {str(chart)!r}", hint="name a file that ends in .svg or .html")
        console.check_creatable(chart, force=force)
    with out.progress() as progress:
        report = bench(progress, quick=quick)
    if chart is not None:
        drawn = report.to_svg() if chart.suffix == ".svg" else report.to_html()
        console.write_file(chart, drawn.encode(), force=force)
        out.note(f"chart: {chart}")
    out.result(report.to_json(), lambda printer: _print(report, printer))


def _print(report: "Report", printer: "Printer") -> None:
    described = report.machine
    printer.print(
        f"{described['cpu']}, {described['cores']} cores, Python {described['python']}, load {described['load']}"
    )
    printer.print()
    printer.print(f"{'what':<60}{'p50':>10}{'p95':>10}  unit")
    for row in report.rows:
        printer.print(f"{row.name:<60}{_figure(row.p50):>10}{_figure(row.p95):>10}  {row.unit}  {row.note}")
    printer.print()
    for target in report.targets:
        sign, mark = ("≤" if target.at_most else "≥"), ("✓" if target.met else "✗")
        printer.print(f"{mark} {target.name:<58}{_figure(target.value):>10} {sign} {target.target:g} {target.unit}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
