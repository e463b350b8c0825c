"""`ephemeralml kms policy`: the policies of keys that open models."""

from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode

app = typer.Typer(no_args_is_help=True, help="Key policies: who gets a model's key, and who must not.")

_Source = Annotated[str, typer.Argument(metavar="KEY|FILE", help="A key (ARN, alias, id, URI), or a policy in a file.")]
_Tuples = Annotated[
    list[Path] | None,
    typer.Option(
        "--tuple", metavar="FILE", help="An image: JSON of `enclave measure`, `eif describe` or registers; repeatable."
    ),
]
_Endpoint = Annotated[str | None, typer.Option(metavar="URL", help="Where the key service is. Default: the SDK's")]
_Grants = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The key's grants, as `aws kms list-grants` prints.")
]
_Identity = Annotated[
    list[str] | None, typer.Option(metavar="ARN=FILE", help="An identity policy of that principal; repeatable.")
]
_Administrators = Annotated[list[str] | None, typer.Option(metavar="ARN", help="Who administers the key; repeatable.")]
_Publishers = Annotated[list[str] | None, typer.Option(metavar="ARN", help="Who wraps models under it; repeatable.")]
_Parents = Annotated[list[str] | None, typer.Option(metavar="ARN", help="The role of the enclaves' host; repeatable.")]
_Phase = Annotated[
    str | None, typer.Option(metavar="add|remove", help="Let the --tuple in beside the others, or take it out.")
]
_VerifyPackage = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A package wrapped under the key, to verify with.")
]
_VerifyDocuments = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A genuine attestation document, to verify with; repeatable."),
]
_VerifyProfile = Annotated[
    str | None, typer.Option(metavar="NAME", help="AWS profile of the host's role. Default: the present one")
]
_VerifyCredentials = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Credentials of the host's role, in AWS's format; --verify-profile: its section."
    ),
]
_Wait = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, max=3_600, help="How long the service may take to follow.")
]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]
_Gcp = Annotated[bool, typer.Option("--gcp", help="FILE is Google Cloud's: provider, key and bindings in one JSON.")]


@app.command()
def render(
    *,
    administrator: _Administrators = None,
    publisher: _Publishers = None,
    parent: _Parents = None,
    model_id: Annotated[list[str] | None, typer.Option(metavar="ID", help="A model under the key; repeatable.")] = None,
    tuple_: _Tuples = None,
    signer_only: Annotated[
        bool, typer.Option("--signer-only", help="Release to any image under the tuple's certificate (PCR8).")
    ] = False,
    rewrap_role: Annotated[
        str | None, typer.Option(metavar="ARN", help="Let one role move data keys under another key.")
    ] = None,
    delegate_admin: Annotated[
        bool, typer.Option("--delegate-admin", help="Let identity policies of the account give administration.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it. Default: stdout")] = None,
    force: _Force = False,
) -> None:
    """Write a key policy that releases to listed images and nobody else.

    Without --tuple the policy is closed: it can wrap models, and releases nothing yet.
    """
    from ephemeralml.cli import kms_policy_run

    for name, given in (("administrator", administrator), ("publisher", publisher), ("parent", parent)):
        if not given:
            raise console.usage(f"--{name} is missing", hint="administrator, publisher and parent are three roles")
    if not model_id:
        raise console.usage("--model-id is missing", hint="the policy binds the key to its models")
    if out is not None:
        console.check_writable(out, force=force)
    kms_policy_run.render_policy(
        administrator or [],
        publisher or [],
        parent or [],
        model_id,
        tuple_,
        signer_only=signer_only,
        rewrap_role=rewrap_role,
        delegate_admin=delegate_admin,
        out=out,
        force=force,
    )


@app.command()
def lint(
    source: _Source,
    *,
    grants: _Grants = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key, as `aws kms describe-key` prints it.")
    ] = None,
    identity_policy: _Identity = None,
    tuple_: _Tuples = None,
    gcp: _Gcp = False,
    hsm: Annotated[bool, typer.Option("--hsm", help="With --gcp: the key has to be in an HSM.")] = False,
    kms_endpoint: _Endpoint = None,
) -> None:
    """Find the ways around the gate in a key policy.

    Exit 0 for warnings alone, 3 for an error, 6 where something cannot be proven.
    """
    from ephemeralml.cli import kms_policy_run
    from ephemeralml.keyrelease.policy.findings import Severity

    if gcp:
        found = kms_policy_run.lint_google(source, hsm=hsm)
    else:
        found = kms_policy_run.lint_policy(source, grants, key, identity_policy, tuple_, kms_endpoint)
    if found is not None:
        raise Exit(ExitCode.REJECTED if found is Severity.ERROR else ExitCode.INCOMPLETE)


@app.command()
def simulate(
    source: _Source,
    *,
    tuple_: _Tuples = None,
    matrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is expected where it differs from a safe policy, JSON.")
    ] = None,
    grants: _Grants = None,
    identity_policy: _Identity = None,
    scp: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A service control policy; its Denies count; repeatable.")
    ] = None,
    administrator: _Administrators = None,
    publisher: _Publishers = None,
    parent: _Parents = None,
    account: Annotated[str | None, typer.Option(metavar="DIGITS", help="The key's account, for a FILE.")] = None,
    gcp: _Gcp = False,
    token: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --gcp: a token, or its claims as JSON.")
    ] = None,
    kms_endpoint: _Endpoint = None,
) -> None:
    """Predict what the key answers to whom, and compare with what a safe policy answers.

    Exit 3 where an answer differs.
    """
    from ephemeralml.cli import kms_policy_run

    if gcp:
        if token is None:
            raise console.usage("--token is missing", hint="whose claims shall the condition be asked about?")
        ended = kms_policy_run.simulate_google(source, token)
    else:
        if not tuple_:
            raise console.usage("--tuple is missing", hint="which image is it about?")
        ended = kms_policy_run.simulate_policy(
            source,
            tuple_,
            matrix,
            grants,
            identity_policy,
            scp,
            {"administrator": administrator, "publisher": publisher, "parent": parent},
            account,
            kms_endpoint,
        )
    if ended is not ExitCode.OK:
        raise Exit(ended)


@app.command(name="apply")
def apply_(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key: ARN, alias, id or URI.")],
    *,
    phase: _Phase = None,
    tuple_: _Tuples = None,
    key_policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put this whole policy instead of a phase, such as the first.")
    ] = None,
    parent: _Parents = None,
    overlap_days: Annotated[
        int, typer.Option(metavar="N", min=0, max=3_650, help="With add: days until the other images end.")
    ] = 14,
    verify: Annotated[
        bool, typer.Option("--verify", help="Insist on asking the key; alone, ask it and change nothing.")
    ] = False,
    verify_package: _VerifyPackage = None,
    verify_document: _VerifyDocuments = None,
    verify_profile: _VerifyProfile = None,
    verify_credentials: _VerifyCredentials = None,
    wait: _Wait = 60.0,
    state_file: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the run stands, for going on after an interruption.")
    ] = Path("kms-policy-apply.json"),
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kms_endpoint: _Endpoint = None,
) -> None:
    """Change a key's policy: plan, confirm, put, verify; the old one is put back if the key answers otherwise.

    With --verify and no change the key is only asked: exit 3 for a wrong answer,
    6 where something needed for a question was not given.

    A run that was interrupted goes on with the same command and --state-file.
    """
    from ephemeralml.cli import kms_policy_apply

    kms_policy_apply.run(
        kms_policy_apply.Options(
            key=key,
            phase=phase,
            tuples=tuple_,
            policy=key_policy,
            parents=parent or [],
            overlap_days=overlap_days,
            verify=verify,
            package=verify_package,
            documents=verify_document,
            verify_profile=verify_profile,
            verify_credentials=verify_credentials,
            wait=wait,
            state=state_file,
        ),
        plan_only=plan_only,
        yes=yes,
        endpoint=kms_endpoint,
    )
