"""What `ephemeralml kms policy render`, `lint` and `simulate` do, and how it is shown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.cli import kms_policy_inputs as inputs
from ephemeralml.cli.exit_codes import ExitCode
from ephemeralml.keyrelease.policy.findings import Finding, Severity
from ephemeralml.keyrelease.policy.lint import Subject, worst
from ephemeralml.keyrelease.policy.lint import lint as lint_subject
from ephemeralml.resources import bundled

if TYPE_CHECKING:
    import rich.console

    from ephemeralml.keyrelease.policy.simulate import Cell

LEGEND = {
    "A1": "a genuine document of this image",
    "A2": "a genuine document of another image",
    "A3": "no document",
    "A4": "random bytes for a document",
    "A5": "a document with one bit flipped",
    "A6": "A1's document again",
    "A7": "a document of a debug launch, whose registers are zero",
    "A8": "A1's document, another encryption context",
    "A9": "a document without an RSA key, such as a session's",
    "A10": "A1's document, a data key that another key wrapped",
    "ReEncryptFrom": "move a data key under another key",
    "CreateGrant": "give somebody the key beside its policy",
    "PutKeyPolicy": "change the policy",
    "AfterExpiry": "A1 after the image's end",
}
"""What each request of the matrix is."""
_STYLES = {"error": "bold red", "unproven": "bold yellow", "warning": "yellow", "info": "cyan"}


def render_policy(
    administrators: Sequence[str],
    publishers: Sequence[str],
    parents: Sequence[str],
    models: Sequence[str],
    tuples: list[Path] | None,
    *,
    signer_only: bool,
    rewrap_role: str | None,
    delegate_admin: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Render a policy, and write or print it."""
    from ephemeralml.keyrelease.policy.principals import identity
    from ephemeralml.keyrelease.policy.render import Roles, render
    from ephemeralml.keyrelease.policy.tuples import signer_tuple

    images = inputs.tuples_of(tuples)
    if signer_only:
        if not images:
            raise console.usage("--signer-only needs a --tuple of a signed image")
        images = tuple(one if one.signer_only else signer_tuple(one) for one in images)
    who = identity(administrators[0])
    if delegate_admin and who is None:
        raise console.usage(f"--administrator {administrators[0][:200]!r} is no ARN of a role or user")
    root = f"arn:{who.partition}:iam::{who.account}:root" if delegate_admin and who is not None else None
    roles = Roles(tuple(administrators), tuple(publishers), tuple(parents), rewrap_role, root)
    template = bundled("templates", "kms-policy.json.j2").read_text(encoding="utf-8")
    policy = render(roles, models, images, template)
    findings = lint_subject(Subject(policy, tuples=images))
    if out is not None:
        console.write_file(out, policy.text.encode(), force=force)
    _tell(findings)
    if not images:
        console.current().note("the policy is closed: nothing is released until `kms policy apply --phase add`")
    document = {
        "schema": "ephemeralml.kms-policy/1",
        "policy": json.loads(policy.text),
        "bytes": len(policy.text.encode()),
        "findings": [finding.to_json() for finding in findings],
        "file": str(out) if out is not None else None,
    }
    text = policy.text.rstrip("\n") if out is None else f"written {out}"
    console.current().result(document, lambda to: to.print(text, markup=False, soft_wrap=True))


def lint_policy(
    source: str,
    grants: Path | None,
    key: Path | None,
    identity_policies: list[str] | None,
    tuples: list[Path] | None,
    endpoint: str | None,
) -> Severity | None:
    """Lint a policy, print the findings, and return what decides: None for warnings alone."""
    given = inputs.policy_of(source, endpoint=endpoint, grants=grants, key=key)
    own = inputs.identity_policies_of(identity_policies)
    found = lint_subject(Subject(given.policy, given.grants, given.key, own, inputs.tuples_of(tuples)))
    show_findings(given.name, found)
    return worst(found)


def lint_google(source: str, *, hsm: bool) -> Severity | None:
    """Lint a Google Cloud export; as `lint_policy`."""
    from ephemeralml.keyrelease.policy.gcp_export import MAX_EXPORT_BYTES, parse_export
    from ephemeralml.keyrelease.policy.gcp_lint import lint_export

    data = console.read_file(Path(source), max_bytes=MAX_EXPORT_BYTES, what="export")
    with inputs.of_file(Path(source)):
        export = parse_export(data)
    found = lint_export(export, hsm=hsm)
    show_findings(source, found)
    return worst(found)


def show_findings(name: str, found: Sequence[Finding]) -> None:
    """Print findings as the command's result."""
    decides = worst(found)
    warnings = sum(finding.severity is Severity.WARNING for finding in found)
    fine = "no way around the gate" + (f", {warnings} warnings" if warnings else "")
    verdict = {None: fine, Severity.ERROR: "not safe", Severity.UNPROVEN: "not proven"}[decides]
    document = {
        "schema": "ephemeralml.kms-lint/1",
        "policy": name,
        "verdict": {None: "ok", Severity.ERROR: "error", Severity.UNPROVEN: "unproven"}[decides],
        "findings": [finding.to_json() for finding in found],
    }

    def text(out: "rich.console.Console") -> None:
        for finding in found:
            where = f" {finding.statement}:" if finding.statement else ""
            _line(out, f"{finding.severity.value:<9}{finding.rule.name}{where} {finding.path}", finding.severity.value)
            _line(out, f"{'':<9}fix: {finding.fix}")
        _line(out, f"{verdict}: {name}", "error" if decides is Severity.ERROR else None)

    console.current().result(document, text)


def _line(out: "rich.console.Console", text: str, style: str | None = None) -> None:
    out.print(console.visible(text), markup=False, soft_wrap=True, style=_STYLES.get(style or "", ""))


def _tell(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.severity is not Severity.INFO:
            console.current().warning(f"{finding.rule.name}: {finding.path}")


def simulate_policy(  # noqa: PLR0917 - the command's options
    source: str,
    tuples: list[Path],
    matrix: Path | None,
    grants: Path | None,
    identity_policies: list[str] | None,
    scps: list[Path] | None,
    people: Mapping[str, list[str] | None],
    account: str | None,
    endpoint: str | None,
) -> ExitCode:
    """Print the matrix; return REJECTED where an answer is not the expected one."""
    from dataclasses import replace

    from ephemeralml.keyrelease.policy.cast import Cast, account_in
    from ephemeralml.keyrelease.policy.simulate import World, simulate

    given = inputs.policy_of(source, endpoint=endpoint, grants=grants)
    owner = given.arn.split(":")[4] if given.arn else account or account_in(given.policy)
    if owner is None:
        raise console.usage("the policy names no account", hint="give --account")
    for name, arns in people.items():
        if arns and len(arns) > 1:
            raise console.usage(f"--{name} is given twice", hint="a simulation has one of each")
    named = {name: arns[0] for name, arns in people.items() if arns}
    cast = replace(Cast.of(given.policy, owner), **named)
    world = World(
        given.policy,
        given.arn or f"arn:aws:kms:local:{owner}:key/00000000-0000-0000-0000-000000000000",
        owner,
        clock.now(),
        given.grants or (),
        inputs.identity_policies_of(identity_policies),
        inputs.service_control_policies(scps),
    )
    cells = list(simulate(world, cast, inputs.tuples_of(tuples), matrix=inputs.matrix_of(matrix)))
    _show_matrix(given.name, cells)
    return ExitCode.REJECTED if any(cell.differs for cell in cells) else ExitCode.OK


def _cell(cell: "Cell") -> dict[str, Any]:
    return {
        "image": cell.image,
        "who": cell.who,
        "principal": cell.principal,
        "request": cell.request,
        "allowed": cell.answer.allowed,
        "answer": cell.answer.name,
        "statement": cell.answer.statement,
        "reason": cell.answer.reason,
        "expected": {None: "either", True: "allow", False: "deny"}[cell.expected],
        "differs": cell.differs,
    }


def _show_matrix(name: str, cells: Sequence["Cell"]) -> None:
    wrong = [cell for cell in cells if cell.differs]
    document = {
        "schema": "ephemeralml.kms-simulate/1",
        "policy": name,
        "verdict": "differs" if wrong else "as expected",
        "cells": [_cell(cell) for cell in cells],
    }

    def text(out: "rich.console.Console") -> None:
        for image in dict.fromkeys(cell.image for cell in cells):
            rows = [cell for cell in cells if cell.image == image]
            who = list(dict.fromkeys(cell.who for cell in rows))
            _line(out, f"{image:<15}" + "".join(f"{name:>15}" for name in who))
            for request in dict.fromkeys(cell.request for cell in rows):
                marks = [_mark(next(c for c in rows if c.request == request and c.who == one)) for one in who]
                _line(out, f"{request:<15}" + "".join(f"{mark:>15}" for mark in marks))
        for request, what in LEGEND.items():
            _line(out, f"{request:<15}{what}")
        for cell in wrong:
            wanted = "allowed" if cell.expected else "denied"
            _line(out, f"✗ {cell.image}: {cell.who} {cell.request} should be {wanted}: {cell.answer.reason}", "error")
        _line(out, f"{len(cells)} answers, {len(wrong)} not as expected", "error" if wrong else None)

    console.current().result(document, text)


def _mark(cell: "Cell") -> str:
    return f"{'allow' if cell.answer.allowed else 'deny'}{' !' if cell.differs else ''}"


def simulate_google(source: str, token: Path) -> ExitCode:
    """Evaluate an attribute condition on a token's claims; print the answer."""
    from ephemeralml.keyrelease.policy.gcp_export import MAX_EXPORT_BYTES, claims_of, parse_export
    from ephemeralml.keyrelease.policy.gcp_simulate import judge

    exported = console.read_file(Path(source), max_bytes=MAX_EXPORT_BYTES, what="export")
    with inputs.of_file(Path(source)):
        export = parse_export(exported)
    given = console.read_file(token, max_bytes=MAX_EXPORT_BYTES, what="token")
    with inputs.of_file(token):
        claims = claims_of(given)
    judged = judge(export, claims)
    document = {"schema": "ephemeralml.kms-simulate-gcp/1", "policy": source, **judged.to_json()}
    console.current().result(document, lambda out: _line(out, "\n".join(judged.lines())))
    return {True: ExitCode.OK, False: ExitCode.REJECTED, None: ExitCode.INCOMPLETE}[judged.allowed]
