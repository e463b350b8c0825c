"""`ephemeralml deploy`: from a signed package to an attested endpoint."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.interruption import signals_interrupt

if TYPE_CHECKING:
    import rich.console

    from ephemeralml.cli.local_stack import LocalStack

app = typer.Typer(no_args_is_help=True, help="Deploy an attested endpoint.")


_State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="Keep keys, package, policy and logs here.")
]
_KmsEndpoint = Annotated[
    str | None,
    typer.Option(
        "--kms-endpoint",
        metavar="URL",
        help="Where the keys of encrypted packages are. Default: with a key server of this deployment",
    ),
]
_Authority = Annotated[
    Path | None,
    typer.Option(
        "--authority", metavar="DIR", help="The software root to attest under, such as a key server's. Default: its own"
    ),
]
_Seconds = Annotated[
    float | None,
    typer.Option("--for", metavar="SECONDS", min=0, envvar="EPHEMERALML_FOR", help="End by itself after this time."),
]


@app.callback()
def _group() -> None: ...


@app.command()
def local(
    demo_model: Annotated[bool, typer.Option("--demo-model", help="Serve MiniLM, packaged and signed here.")] = False,
    package: Annotated[
        list[Path] | None, typer.Option("--package", metavar="DIR", help="A signed package; repeatable.")
    ] = None,
    publisher_key: Annotated[
        str | None, typer.Option("--publisher-key", metavar="KEY", help="Who signed it: ed25519:HEX, HEX or a file.")
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="ADDR", help="Where clients connect: tcp, unix or ws; repeatable."),
    ] = None,
    state: _State = None,
    kms_endpoint: _KmsEndpoint = None,
    authority: _Authority = None,
    seconds: _Seconds = None,
) -> None:
    """Run runtime, relay and key server on this machine, with a software TEE.

    Prints the endpoint and the policy that clients need, and keeps running until
    SIGINT or SIGTERM. A software TEE proves nothing about hardware: it is for
    development, demonstration and tests.
    """
    from ephemeralml.cli.key_files import read_public_key
    from ephemeralml.cli.local_stack import StackRequest, child_error, local_stack
    from ephemeralml.host.supervisor import ChildFailedError

    _check(demo_model=demo_model, packages=package or [], publisher_key=publisher_key, listen=listen or [])
    if authority is not None and not authority.is_dir():
        raise console.usage(
            f"the authority {str(authority)!r} is no folder", hint="`ephemeralml enclave init` makes one"
        )
    if demo_model and kms_endpoint is not None:
        raise console.usage("--demo-model makes its own key, and --kms-endpoint names another server")
    if state is not None and (state.exists() or state.is_symlink()) and not state.is_dir():
        raise console.usage(f"the state folder {str(state)!r} is no folder", hint="name a folder with --state")
    request = StackRequest(
        packages=tuple(package or ()),
        publisher=read_public_key(publisher_key) if publisher_key is not None else None,
        listen=tuple(listen or ()),
        state=state,
        key_server=kms_endpoint,
        authority=authority,
        verbosity=console.current().verbosity,
    )
    with ExitStack() as whole:
        whole.enter_context(signals_interrupt())
        with console.current().progress() as progress:
            stack = whole.enter_context(local_stack(request, progress))
        try:
            _announce(stack)
            stack.supervisor.wait(seconds)
        except ChildFailedError as error:
            raise child_error(error) from error
        except KeyboardInterrupt:
            console.current().note("stopping")


def _check(*, demo_model: bool, packages: list[Path], publisher_key: str | None, listen: list[str]) -> None:
    """Refuse options that contradict each other, before anything is written."""
    from ephemeralml.cli.address_option import parse_address
    from ephemeralml.transport import Scheme

    if demo_model and (packages or publisher_key is not None):
        raise console.usage("--demo-model and --package exclude each other")
    if not demo_model and not packages:
        raise console.usage("nothing to serve", hint="give --demo-model, or --package DIR and --publisher-key KEY")
    if packages and publisher_key is None:
        raise console.usage("--package needs --publisher-key", hint="name the key that signed the package")
    for folder in packages:
        if not folder.is_dir():
            raise console.usage(f"the package {str(folder)!r} is no folder")
    for text in listen:
        if parse_address("--listen", text).scheme not in (Scheme.TCP, Scheme.UNIX, Scheme.WS):
            raise console.usage(f"a relay does not listen on {text}", hint="listen on tcp, unix or ws")


def _announce(stack: "LocalStack") -> None:
    """Print where the deployment is and what clients need."""
    pids = {**stack.supervisor.pids, "supervisor": os.getpid()}
    document = {
        "schema": "ephemeralml.deploy-local/1",
        "endpoint": stack.endpoint,
        "endpoints": list(stack.endpoints),
        "policy": str(stack.policy),
        "models": list(stack.models),
        "pids": pids,
        "receipt_public_key": stack.receipt_public_key,
        "state": str(stack.plan.state.path),
    }

    def text(out: "rich.console.Console") -> None:
        for line in (
            f"endpoint   {', '.join(stack.endpoints)}",
            f"policy     {stack.policy}",
            f"models     {', '.join(stack.models)}",
            f"receipts   ed25519:{stack.receipt_public_key}",
            f"processes  {', '.join(f'{name} {pid}' for name, pid in pids.items())}",
            "",
            "try it:",
            f"  ephemeralml infer --target {stack.endpoint} --policy {stack.policy} --embed --text hello",
        ):
            out.print(line, markup=False, soft_wrap=True)

    console.current().warning(
        "software TEE: it proves nothing about hardware, and whoever controls this machine can read everything"
    )
    console.current().result(document, text)
    sys.stdout.flush()
