"""`ephemeralml policy`: what a client accepts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode, of_verdict

if TYPE_CHECKING:
    import rich.console

    from ephemeralml.attestation.policy import Policy

app = typer.Typer(no_args_is_help=True, help="Policies: what a client accepts.")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="The policy, bare or signed.")]
_PolicyKey = Annotated[str | None, typer.Option(metavar="KEY", help="The key that must have signed it.")]


@app.command()
def init(  # noqa: PLR0917 - one parameter per option
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the policy.")],
    policy_id: Annotated[str, typer.Option(metavar="ID", help="Its name; versions count within it.")],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="ID[@MIN_VERSION][=HASH]", help="A model that is accepted; repeatable."),
    ] = None,
    publisher_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A key that must have signed the model; repeatable.")
    ] = None,
    measurements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of `enclave measure`, or with an object `measurements`.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An evidence document of the image to accept.")
    ] = None,
    pcr: Annotated[list[str] | None, typer.Option(metavar="N=HEX", help="A register; repeatable.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="For the software TEE, where the registers do not say so.")
    ] = False,
    root: Annotated[
        str | None, typer.Option(metavar="sha256:HEX", help="The software TEE's root, where nothing else names it.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="Name of the accepted image.")] = "runtime",
    version: Annotated[int, typer.Option(metavar="N", min=0, help="Version of the policy; only ever rises.")] = 1,
    valid_days: Annotated[int, typer.Option(metavar="N", min=1, max=3_650, help="Days until it expires.")] = 90,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write a policy that pins one image, for you to read, sign and hand out.

    What a software TEE measured makes a policy for software TEEs alone.
    """
    from ephemeralml.attestation.evidence import Format
    from ephemeralml.cli import policy_inputs
    from ephemeralml.cli.key_files import read_public_key

    console.check_writable(out, force=force)
    measured = policy_inputs.measured(
        measurements=measurements, evidence=evidence, pcrs=pcr or [], root=root, local=local
    )
    models = tuple(policy_inputs.model_entry(text) for text in model or ())
    keys = tuple(read_public_key(text) for text in publisher_key or ())
    made = policy_inputs.new_policy(measured, models, keys, policy_id, version, name, valid_days)
    console.write_file(out, made.document, force=force)
    if measured.format is Format.LOCAL:
        console.current().warning(
            "a policy for a software TEE: it proves nothing about hardware, and no production enclave satisfies it"
        )
    if evidence is not None:
        console.current().warning("the registers are those of this document: compare them with your own build")
    _show(made, written=out)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy as JSON.")],
    key: Annotated[Path, typer.Option(metavar="KEY", help="The private key (PEM).")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the signed policy.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the signed policy.")] = False,
) -> None:
    """Sign a policy (Ed25519, DSSE), after checking that a client could accept it."""
    from ephemeralml import clock
    from ephemeralml.cli import policy_inputs
    from ephemeralml.cli.key_files import read_private_key

    console.check_writable(out, force=force)
    private = read_private_key(key)
    policy, envelope = policy_inputs.sealed_policy(file, private, clock.now())
    console.write_file(out, envelope, force=force)
    document = {
        "schema": "ephemeralml.policy-signed/1",
        "policy_id": policy.policy_id,
        "version": policy.version,
        "digest": policy.digest.hex(),
        "signed_by": str(private.public),
        "keyid": private.public.keyid,
        "file": str(out),
    }
    lines = [
        f"{'signed':<12}{out}",
        f"{'digest':<12}{document['digest']}",
        f"{'signed by':<12}{document['signed_by']}",
    ]
    console.current().result(document, lambda to: to.print("\n".join(lines), markup=False, soft_wrap=True))


@app.command()
def show(file: _File, policy_key: _PolicyKey = None) -> None:
    """Print a policy's digest, expiry, tuples and limits, defaults filled in."""
    from ephemeralml import clock
    from ephemeralml.cli import policy_inputs

    _show(policy_inputs.load_policy(file, policy_key, clock.now(), allow_expired=True))


@app.command()
def check(
    file: _File,
    policy_key: _PolicyKey = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also run every check on this evidence document.")
    ] = None,
    at: Annotated[str, typer.Option(metavar="now|document|RFC3339", help="When the evidence is judged.")] = "document",
    collateral: Annotated[Path | None, typer.Option(metavar="DIR", help="Revocation lists and the like.")] = None,
) -> None:
    """Check that a policy can be used, and whether it accepts a document.

    Exit 0 accepted, 3 rejected or expired, 4 malformed, empty or contradictory,
    6 something required could not be checked.
    """
    from ephemeralml import clock
    from ephemeralml.attestation.collateral import NO_COLLATERAL
    from ephemeralml.attestation.collateral_folder import load_collateral
    from ephemeralml.attestation.recognise import evidence_of
    from ephemeralml.attestation.verify import verify_evidence
    from ephemeralml.cli import policy_inputs
    from ephemeralml.cli.render_policy import print_appraisal
    from ephemeralml.cli.verify_inputs import time_option

    time = time_option(at)
    if collateral is not None and not collateral.is_dir():
        raise console.usage(f"the collateral {str(collateral)!r} is no folder")
    at_hand = load_collateral(collateral) if collateral is not None else NO_COLLATERAL
    policy = policy_inputs.load_policy(file, policy_key, clock.now(), allow_expired=evidence is not None)
    if evidence is None:
        _show(policy, conclusion=_usable(policy))
        return
    given = evidence_of(policy_inputs.read_evidence(evidence))
    roots = policy.trust_roots(given.format)
    appraisal = verify_evidence(
        given, expected=None, policy=policy, roots=roots, collateral=at_hand, at=time, live=False
    )
    _warn(appraisal.warnings)
    verdict = appraisal.verdict
    document = {"schema": "ephemeralml.policy-check/1", "policy_id": policy.policy_id, **appraisal.to_json()}
    accepted = "accepts" if verdict.value == "verified" else "does not accept"
    style = "bold green" if verdict.value == "verified" else "bold red"
    text = f"{verdict.value}, assurance {appraisal.assurance.label}: the policy {accepted} this document"
    console.current().result(document, lambda out: print_appraisal(out, appraisal, text, style))
    if (code := of_verdict(verdict)) is not ExitCode.OK:
        raise Exit(code)


def _usable(policy: "Policy") -> str:
    """Return the verdict on a policy that was read without complaint."""
    from ephemeralml import clock

    until = f" until {clock.format_rfc3339(policy.expires_at)}" if policy.expires_at is not None else ""
    whose = f"signed by {policy.signer}" if policy.signer is not None else "not signed"
    formats = ", ".join(item.value for item in policy.formats)
    return f"usable: clients can accept {formats} evidence under it{until}; {whose}"


def _show(policy: "Policy", written: Path | None = None, conclusion: str | None = None) -> None:
    from ephemeralml.cli.render_policy import policy_document, print_policy

    _warn(policy.warnings if written is None else ())
    document = policy_document(policy)
    if written is not None:
        document["file"] = str(written)

    def text(out: "rich.console.Console") -> None:
        print_policy(out, document)
        if conclusion is not None:
            out.print(conclusion, style="bold green", markup=False, soft_wrap=True)

    console.current().result(document, text)


def _warn(warnings: tuple[str, ...]) -> None:
    from ephemeralml.receipt.codes import explain_warning

    for warning in warnings:
        console.current().warning(f"{warning}: {explain_warning(warning)}")
