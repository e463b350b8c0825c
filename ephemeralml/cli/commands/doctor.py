"""`ephemeralml doctor`: is this machine ready; every finding with its fix."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode
from ephemeralml.deploy.doctor import Finding, Status, Target

if TYPE_CHECKING:
    import rich.console

app = typer.Typer()

_MARKS = {Status.OK: "[green]✓[/]", Status.WARN: "[yellow]![/]", Status.FAIL: "[red]✗[/]"}


@app.command()
def doctor(
    target: Annotated[Target, typer.Option(help="What the machine is wanted for.")] = Target.LOCAL,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where state and packages would be written.")] = Path(),
) -> None:
    """Check this machine and say what to do about each finding; changes nothing.

    Exit 0 if nothing fails (warnings are allowed), else 5.
    """
    from ephemeralml import clock
    from ephemeralml.deploy.doctor import examine, worst
    from ephemeralml.deploy.machine import Machine

    findings = examine(Machine(), target, folder=folder, now=clock.now())
    verdict = worst(findings)
    document = {
        "schema": "ephemeralml.doctor/1",
        "target": target.value,
        "verdict": verdict.value,
        "findings": [
            {"check": f.check, "status": f.status.value, "code": f.code, "seen": f.seen, "fix": f.fix} for f in findings
        ],
    }
    console.current().result(document, lambda out: _render(out, findings, target))
    if verdict is Status.FAIL:
        raise Exit(ExitCode.UNAVAILABLE)


def _render(out: "rich.console.Console", findings: list[Finding], target: Target) -> None:
    from rich.markup import escape

    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        out.print(f"{_MARKS[finding.status]} {escape(finding.check):<{width}}  {escape(finding.seen)}")
        if finding.fix:
            out.print(f"  {'':<{width}}  fix: {escape(finding.fix)}")
    counts = {status: sum(f.status is status for f in findings) for status in Status}
    ready = "not ready" if counts[Status.FAIL] else "ready"
    warnings, failures = _counted(counts[Status.WARN], "warning"), _counted(counts[Status.FAIL], "failure")
    out.print(f"{target.value}: {ready}, {warnings}, {failures}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
