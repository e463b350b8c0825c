"""`ephemeralml verify`: receipts, offline."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli import console, verify_inputs
from ephemeralml.cli.exit_codes import Exit, ExitCode, worst
from ephemeralml.cli.verify_inputs import Expectations, PlatformName, Request
from ephemeralml.cli.verify_run import Outcome, judge_file
from ephemeralml.receipt.codes import explain_warning

app = typer.Typer()

_EXPECT = "What the receipt must say"
_TRUST = "Whom to trust"


_Receipts = Annotated[
    list[Path], typer.Argument(metavar="RECEIPT...", help="Receipts, or folders of *.cbor files.", show_default=False)
]
_PublicKey = Annotated[
    str | None,
    typer.Option(metavar="HEX|FILE", help="The key that signs receipts, from outside.", rich_help_panel=_TRUST),
]
_Attestation = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The session's evidence document, which names the key.", rich_help_panel=_TRUST),
]
_PolicyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What evidence and models are accepted.", rich_help_panel=_TRUST)
]
_PolicyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="The key that signed the policy.", rich_help_panel=_TRUST)
]
_Manifest = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The model's signed manifest.", rich_help_panel=_TRUST)
]
_Collateral = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Revocation lists and the like.", rich_help_panel=_TRUST)
]
_At = Annotated[
    str, typer.Option(metavar="now|document|RFC3339", help="When the evidence is judged.", rich_help_panel=_TRUST)
]
_Profile = Annotated[
    str,
    typer.Option(metavar="strict|compat", help="compat also reads receipts of older emitters.", rich_help_panel=_TRUST),
]
_Model = Annotated[str | None, typer.Option(metavar="ID", help="Model id.", rich_help_panel=_EXPECT)]
_ModelHash = Annotated[str | None, typer.Option(metavar="HEX", help="Model hash.", rich_help_panel=_EXPECT)]
_RequestHash = Annotated[
    str | None, typer.Option(metavar="HEX", help="SHA-256 of the request body.", rich_help_panel=_EXPECT)
]
_RequestFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The request body itself.", rich_help_panel=_EXPECT)
]
_ResponseHash = Annotated[
    str | None, typer.Option(metavar="HEX", help="SHA-256 of the response body.", rich_help_panel=_EXPECT)
]
_ResponseFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The response body itself.", rich_help_panel=_EXPECT)
]
_Platform = Annotated[PlatformName | None, typer.Option(help="Measurement type.", rich_help_panel=_EXPECT)]
_Registers = Annotated[
    list[str] | None, typer.Option(metavar="N=HEX", help="A register; repeatable.", rich_help_panel=_EXPECT)
]
_Nonce = Annotated[
    str | None, typer.Option(metavar="HEX", help="The nonce sent with the request.", rich_help_panel=_EXPECT)
]
_MaxAge = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="Greatest age of the receipt.", rich_help_panel=_EXPECT)
]
_AllowEvaluation = Annotated[
    bool, typer.Option("--allow-evaluation", help="Accept receipts of evaluation mode.", rich_help_panel=_EXPECT)
]
_ReplayStore = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Accept each receipt once; remembered here.", rich_help_panel=_EXPECT),
]
_Html = Annotated[Path | None, typer.Option(metavar="OUT", help="Also write the result as one page.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT.")]


@app.command()
def verify(  # noqa: PLR0917 - one parameter per option
    receipts: _Receipts,
    public_key: _PublicKey = None,
    attestation: _Attestation = None,
    policy: _PolicyFile = None,
    policy_key: _PolicyKey = None,
    manifest: _Manifest = None,
    collateral: _Collateral = None,
    at: _At = "document",
    profile: _Profile = "strict",
    expect_model: _Model = None,
    expect_model_hash: _ModelHash = None,
    expect_request_hash: _RequestHash = None,
    request: _RequestFile = None,
    expect_response_hash: _ResponseHash = None,
    response: _ResponseFile = None,
    expect_platform: _Platform = None,
    expect_pcr: _Registers = None,
    nonce: _Nonce = None,
    max_age: _MaxAge = None,
    allow_evaluation: _AllowEvaluation = False,
    replay_store: _ReplayStore = None,
    html: _Html = None,
    force: _Force = False,
) -> None:
    """Verify receipts offline: form, signature, claims, your demands, and the evidence behind them.

    With neither --public-key nor --attestation, RECEIPT.att and RECEIPT.json
    beside the receipt are used. Exit 0 verified, 3 rejected, 4 malformed,
    6 something required could not be checked.
    """
    expectations = Expectations(
        expect_model, expect_model_hash, expect_request_hash, request, expect_response_hash, response,
        expect_platform, tuple(expect_pcr or ()), nonce, max_age, allow_evaluation,
    )  # fmt: skip
    if html is not None:
        console.check_writable(html, force=force)
    trust = (policy, policy_key, collateral)
    judged_by = _request(expectations, public_key, attestation, trust, manifest, at, profile, replay_store)
    files = verify_inputs.receipt_files(receipts)
    outcomes = [judge_file(path, judged_by) for path in files]
    _finish(outcomes, several=len(files) > 1 or any(map(verify_inputs.is_folder, receipts)), html=html, force=force)


def _request(
    expectations: Expectations,
    public_key: str | None,
    attestation: Path | None,
    trust: tuple[Path | None, str | None, Path | None],
    manifest: Path | None,
    at: str,
    profile: str,
    replay_store: Path | None,
) -> Request:
    policy_path, policy_key, collateral = trust
    if policy_key is not None and policy_path is None:
        raise console.usage("--policy-key is given without --policy")
    time = verify_inputs.time_option(at)
    now = verify_inputs.present(time)
    policy = verify_inputs.load_policy(policy_path, policy_key, now) if policy_path is not None else None
    return Request(
        demands=verify_inputs.with_policy(expectations.demands(), policy),
        profile=verify_inputs.profile_option(profile),
        at=time,
        now=int(now.timestamp()),
        public_key=verify_inputs.public_key("--public-key", public_key).raw if public_key is not None else None,
        document=verify_inputs.read_document(attestation) if attestation is not None else None,
        document_name=str(attestation) if attestation is not None else "",
        policy=policy,
        collateral=verify_inputs.load_collateral(collateral) if collateral is not None else None,
        manifest=verify_inputs.load_manifest(manifest) if manifest is not None else None,
        replay_store=replay_store,
    )


def _finish(outcomes: list[Outcome], *, several: bool, html: Path | None, force: bool) -> None:
    """Print and write everything, then end with the worst code."""
    if not several and outcomes[0].error is not None:
        raise outcomes[0].error
    output = console.current()
    for warning in dict.fromkeys(w for outcome in outcomes if outcome.result for w in outcome.result.warnings):
        output.warning(f"{warning}: {explain_warning(warning)}")
    for outcome in outcomes:
        if outcome.error is not None:
            hint = f" ({outcome.error.hint})" if outcome.error.hint else ""
            print(f"error: {str(outcome.path)!r}: {outcome.error.message}{hint}", file=sys.stderr)
    if html is not None:
        from ephemeralml.cli.verify_page import page

        console.write_file(html, page(outcomes), force=force)
        output.note(f"wrote {html}")
    documents = [_document(outcome) for outcome in outcomes]
    output.result(documents if several else documents[0], lambda out: _render(out, outcomes))
    code = worst(outcome.code for outcome in outcomes)
    if code is not ExitCode.OK:
        raise Exit(code)


def _document(outcome: Outcome) -> dict[str, object]:
    if outcome.result is not None:
        return outcome.result.to_json()
    assert outcome.error is not None
    return {
        "schema": "ephemeralml.error/1",
        "error": outcome.error.message,
        "hint": outcome.error.hint,
        "code": getattr(outcome.error, "code", None),
        "exit_code": int(outcome.code),
    }


def _render(out: object, outcomes: list[Outcome]) -> None:
    from ephemeralml.cli.verify_text import render, render_quiet

    show = render_quiet if console.current().quiet else render
    show(out, outcomes)  # type: ignore[arg-type]
