"""`ephemeralml attestation`: evidence in people's terms."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode

if TYPE_CHECKING:
    from ephemeralml.attestation.roots import TrustRoots
    from ephemeralml.attestation.verdict import Row

app = typer.Typer(no_args_is_help=True, help="Evidence documents: look into them.")


@app.callback()
def _group() -> None:
    """Keep `attestation` a group while it has one command."""


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An evidence document, such as RECEIPT.att.")],
    at: Annotated[str, typer.Option(metavar="now|document|RFC3339", help="When it is judged.")] = "document",
) -> None:
    """Show what an evidence document says, and every check that needs no policy.

    Exit 0 if it is authentic, 3 if its signature or chain does not hold, 4 if it
    does not parse. Whether to accept it is a policy's to say: see `policy check`.
    """
    from ephemeralml.attestation.appraisal import T1, T4
    from ephemeralml.attestation.nitro.verify import WARN_DEBUG
    from ephemeralml.attestation.recognise import evidence_of
    from ephemeralml.attestation.verdict import Status
    from ephemeralml.attestation.verify import verify_evidence
    from ephemeralml.cli import policy_inputs
    from ephemeralml.cli.render_policy import print_appraisal
    from ephemeralml.cli.verify_inputs import time_option
    from ephemeralml.receipt.codes import explain_warning

    time = time_option(at)
    evidence = evidence_of(policy_inputs.read_evidence(file))
    appraisal = verify_evidence(
        evidence, expected=None, policy=None, roots=_roots(evidence.document), at=time, live=False
    )
    debug = (WARN_DEBUG,) if appraisal.debug else ()
    for warning in (*appraisal.warnings, *debug):
        console.current().warning(f"{warning}: {explain_warning(warning)}")
    broken = [row for row in appraisal.rows if row.status is Status.FAIL and row.layer != T4]
    who = "a software root that anybody can make" if appraisal.software else "its vendor"
    text = f"not authentic: {broken[0].code}" if broken else f"authentic: signed under {who}; a policy decides the rest"
    appraisal = replace(appraisal, rows=tuple(_unasked(row) for row in appraisal.rows))
    document = {"schema": "ephemeralml.attestation/1", "authentic": not broken, **appraisal.to_json()}
    # Nobody asked a policy, so there is no verdict to give.
    del document["verdict"], document["assurance"]
    style = "bold red" if broken else "bold"
    console.current().result(document, lambda out: print_appraisal(out, appraisal, text, style))
    if broken:
        raise Exit(ExitCode.MALFORMED if broken[0].layer == T1 else ExitCode.REJECTED)


def _unasked(row: "Row") -> "Row":
    """Return a row that a policy or a session would have judged as not asked: neither was given."""
    from ephemeralml.attestation.appraisal import T4
    from ephemeralml.attestation.verdict import Status

    if row.layer != T4 or row.status is not Status.FAIL:
        return row
    detail = f"not asked: {row.detail}"
    return replace(row, status=Status.SKIP, code=None, detail=detail, expected=None, actual=None, required=False)


def _roots(document: bytes) -> "TrustRoots":
    """Return the vendor's root, or any software one for a document that says it is of the software TEE."""
    from ephemeralml.attestation.nitro.document import parse
    from ephemeralml.attestation.roots import ANY_SOFTWARE_ROOT, AWS_NITRO, is_software_root
    from ephemeralml.errors import MalformedError

    try:
        return ANY_SOFTWARE_ROOT if is_software_root(parse(document).cabundle[0]) else AWS_NITRO
    except MalformedError:
        return AWS_NITRO
