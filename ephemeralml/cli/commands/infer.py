"""`ephemeralml infer`: attest, ask, print, keep the receipt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console, infer_inputs

if TYPE_CHECKING:
    from ephemeralml.cli.infer_run import Request

app = typer.Typer()

_ASK = "What to ask"
_TRUST = "Whom to trust"
_KEEP = "What to keep"
_LOAD = "Load test"

_Source = Annotated[
    str | None, typer.Argument(metavar="[-]", help="- alone: read the prompt from stdin.", show_default=False)
]
_Target = Annotated[str, typer.Option(metavar="TARGET", help="tcp://H:P, unix:///PATH, vsock://CID:PORT or ws(s)://….")]
_Text = Annotated[str | None, typer.Option(metavar="S", help="The prompt itself.", rich_help_panel=_ASK)]
_File = Annotated[Path | None, typer.Option(metavar="F", help="A file with the prompt.", rich_help_panel=_ASK)]
_Chat = Annotated[bool, typer.Option("--chat", help="Ask for an answer.", rich_help_panel=_ASK)]
_Embed = Annotated[bool, typer.Option("--embed", help="Ask for an embedding.", rich_help_panel=_ASK)]
_Model = Annotated[
    str | None, typer.Option(metavar="ID", help="The model; default the runtime's only one.", rich_help_panel=_ASK)
]
_MaxTokens = Annotated[int | None, typer.Option(metavar="N", min=1, help="With --chat.", rich_help_panel=_ASK)]
_Stream = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="With --chat: print as it comes.", rich_help_panel=_ASK)
]
_Policy = Annotated[
    Path | None, typer.Option("--policy", metavar="POLICY.json", help="What is accepted.", rich_help_panel=_TRUST)
]
_PolicyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="The key that signed the policy.", rich_help_panel=_TRUST)
]
_Insecure = Annotated[
    bool,
    typer.Option("--insecure-accept-local", help="Accept any software TEE, and nothing else.", rich_help_panel=_TRUST),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A bearer token for the runtime, sent inside the channel.", rich_help_panel=_ASK),
]
_Nonce = Annotated[
    str | None, typer.Option(metavar="HEX", help="8..64 bytes for the receipt; else random.", rich_help_panel=_KEEP)
]
_Receipt = Annotated[
    Path | None,
    typer.Option(metavar="OUT.cbor", help="Write receipt, evidence, facts and manifest.", rich_help_panel=_KEEP),
]
_EvidenceDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write every receipt, named by its id.", rich_help_panel=_KEEP)
]
_SaveBodies = Annotated[
    bool,
    typer.Option("--save-bodies", help="Keep what was asked and answered beside each receipt.", rich_help_panel=_KEEP),
]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT.cbor and its companions.", rich_help_panel=_KEEP)]
_Count = Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask N times and measure.", rich_help_panel=_LOAD)]
_Concurrency = Annotated[
    int | None, typer.Option(metavar="M", min=1, max=256, help="So many at once.", rich_help_panel=_LOAD)
]
_Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="For each whole reply, and for the session.")]


@app.command()
def infer(  # noqa: PLR0917 - one parameter per option
    target: _Target,
    source: _Source = None,
    text: _Text = None,
    file: _File = None,
    chat: _Chat = False,
    embed: _Embed = False,
    model: _Model = None,
    max_tokens: _MaxTokens = None,
    stream: _Stream = None,
    policy: _Policy = None,
    policy_key: _PolicyKey = None,
    insecure_accept_local: _Insecure = False,
    token_file: _TokenFile = None,
    nonce: _Nonce = None,
    receipt: _Receipt = None,
    evidence_dir: _EvidenceDir = None,
    save_bodies: _SaveBodies = False,
    force: _Force = False,
    count: _Count = None,
    concurrency: _Concurrency = None,
    timeout: _Timeout = 600.0,
) -> None:
    """Verify the runtime, ask it, verify the receipt, print the answer.

    Nothing of the prompt leaves before the evidence has passed the policy.
    Exit 3: evidence, model or receipt refused. 4: bytes that do not parse.
    5: no connection, or no complete reply. 6: something could not be checked.
    """
    from ephemeralml.cli import infer_run

    task = infer_inputs.task_option(chat=chat, embed=embed, stream=stream, max_tokens=max_tokens)
    _check_load(count, concurrency, single={"--receipt": receipt, "--nonce": nonce, "--stream": stream or None})
    infer_inputs.check_target(target)
    infer_inputs.check_outputs(receipt, evidence_dir, save_bodies=save_bodies, force=force)
    request = infer_run.Request(
        target=target,
        policy=infer_inputs.accepted(policy, policy_key, insecure=insecure_accept_local),
        prompt=infer_inputs.Prompt(infer_inputs.prompt_text(text, file, source), task, model, max_tokens, bool(stream)),
        headers=infer_inputs.authorization(token_file),
        nonce=infer_inputs.nonce_option(nonce),
        receipt=receipt,
        evidence_dir=evidence_dir,
        save_bodies=save_bodies,
        force=force,
        timeout=timeout,
    )
    _run(request, count, concurrency)


def _run(request: "Request", count: int | None, concurrency: int | None) -> None:
    from ephemeralml.cli import infer_run

    if count is None:
        infer_run.ask_once(request)
    else:
        infer_run.ask_often(request, count, concurrency or 1)


def _check_load(count: int | None, concurrency: int | None, *, single: dict[str, object]) -> None:
    if count is None:
        if concurrency is not None:
            raise console.usage("--concurrency is given without --count")
        return
    for option, value in single.items():
        if value is not None:
            raise console.usage(f"{option} goes with one request", hint="--evidence-dir keeps every receipt")
