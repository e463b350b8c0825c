"""`ephemeralml kms`: a local key server, and the policies of keys."""

from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.commands import kms_create_key, kms_policy

app = typer.Typer(no_args_is_help=True, help="Key release: a local KMS that enforces attestation, and key policies.")
app.add_typer(kms_policy.app, name="policy")
app.command("create-key")(kms_create_key.create_key)

DEFAULT_LISTEN = "127.0.0.1:8480"

_State = Annotated[Path, typer.Option(metavar="DIR", help="The server's folder.")]
_Listen = Annotated[str | None, typer.Option(metavar="ADDR", help=f"HOST:PORT or unix:PATH. Default: {DEFAULT_LISTEN}")]
_Tls = Annotated[
    tuple[Path, Path] | None, typer.Option("--tls", metavar="CERT KEY", help="Serve HTTPS with these PEM files.")
]
_Insecure = Annotated[
    bool, typer.Option("--insecure-http", help="Let other machines connect without TLS: data keys cross in the clear.")
]
_Trust = Annotated[
    str,
    typer.Option(
        metavar="ROOTS",
        help="Who vouches for attestation documents: local (a software root, no hardware), aws, or a FILE of roots.",
    ),
]
_Authority = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The software root's folder. Default: authority in the state's")
]
_Account = Annotated[str | None, typer.Option(metavar="DIGITS", help="With --init: the account. Default: 000000000000")]
_Region = Annotated[str | None, typer.Option(metavar="NAME", help="With --init: the region. Default: local")]
_Init = Annotated[bool, typer.Option("--init", help="Make the state and an administrator first.")]
_Add = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Add a role, root, or an ARN, with credentials; repeatable."),
]
_Identity = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --add-principal: its identity policy, JSON.")
]
_StateKey = Annotated[
    str,
    typer.Option(
        metavar="SOURCE", help="What the state is sealed under: file, file:PATH, passphrase:PATH or systemd:NAME."
    ),
]
_MaxAge = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=1, help="Refuse older attestation documents. Default: off, as AWS does"),
]
_CmsForm = Annotated[
    str, typer.Option(metavar="FORM", help="Content for recipients: primitive, constructed, or both by turns.")
]
_Drain = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, max=600, help="Seconds that requests get to end after SIGTERM.")
]
_Audit = Annotated[bool, typer.Option("--verify-audit", help="Verify the audit log and end.")]
_Export = Annotated[Path | None, typer.Option(metavar="FILE", help="Write an encrypted backup and end.")]
_Import = Annotated[Path | None, typer.Option("--import", metavar="FILE", help="Restore a backup and end.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite the backup file.")]


@app.callback()
def _group() -> None: ...


@app.command()
def serve(
    state: _State,
    *,
    listen: _Listen = None,
    tls: _Tls = None,
    insecure_http: _Insecure = False,
    trust: _Trust = "local",
    authority: _Authority = None,
    account: _Account = None,
    region: _Region = None,
    init: _Init = False,
    add_principal: _Add = None,
    identity_policy: _Identity = None,
    state_key: _StateKey = "file",
    max_document_age: _MaxAge = None,
    cms_form: _CmsForm = "both",
    drain: _Drain = 10.0,
    verify_audit: _Audit = False,
    export: _Export = None,
    import_: _Import = None,
    force: _Force = False,
) -> None:
    """Serve AWS KMS's protocol from this machine, with attestation really enforced.

    Prints its endpoint once it is ready and runs until SIGTERM or SIGINT. With
    --add-principal and neither --init nor --listen it adds and ends.
    """
    from ephemeralml.cli import kms_serve, kms_state

    source = kms_state.key_source(state_key)
    jobs = kms_state.Jobs(init, verify_audit, export, import_)
    jobs.check(place=(account, region), identity=identity_policy, names=add_principal or [])
    if kms_state.do(jobs, state, source, force=force):
        return
    plan = None
    if init or listen is not None or not add_principal:
        roots = kms_serve.RootsWish(trust, authority, init)
        where = kms_serve.Where(listen or DEFAULT_LISTEN, tls, insecure_http)
        plan = kms_serve.plan(where, roots, state, max_document_age=max_document_age, cms_form=cms_form, drain=drain)
        kms_serve.make_authority(plan, state)
    made = kms_state.prepare(
        state, source, place=(account, region), init=init, names=add_principal or [], identity=identity_policy
    )
    if plan is None:
        kms_state.print_made(made)
    else:
        kms_serve.run(plan, state, source, made)
