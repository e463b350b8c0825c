"""`ephemeralml host`: the blind relay beside the enclave."""

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.host.limits import Limits
    from ephemeralml.transport import Address

app = typer.Typer(no_args_is_help=True, help="The blind relay beside the enclave.")

DEFAULT_LISTEN = "tcp://127.0.0.1:7443"
DEFAULT_PER_PEER = 256

_Target = Annotated[
    str, typer.Option(metavar="ADDR", help="Where the enclave listens: vsock://CID:PORT, unix:///PATH or tcp://H:P.")
]
_Listen = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDR", help=f"Where clients connect: tcp, unix or ws; repeatable. Default: {DEFAULT_LISTEN}"),
]
_Connections = Annotated[int, typer.Option(metavar="N", min=1, max=65_536, help="Most connections at once.")]
_PerPeer = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=65_536,
        help=f"Most connections of one peer. Default: {DEFAULT_PER_PEER}, this machine exempt",
    ),
]
_Connect = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, max=600, help="Seconds for the target to answer a connection.")
]
_Idle = Annotated[
    float, typer.Option(metavar="SECONDS", min=1, max=86_400, help="Seconds without a byte until a connection is cut.")
]
_Drain = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, max=3_600, help="Seconds that connections get to end after SIGTERM.")
]


_Services = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="Where the enclave finds packages and key release: vsock://3:8001, or unix. Default: no services",
    ),
]
_Package = Annotated[
    list[str] | None,
    typer.Option(
        "--package",
        metavar="[NAME=]SRC",
        help="A package for the enclave: a folder, s3://… or gs://…; repeatable.",
    ),
]
_Key = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="URI", help="A KMS key whose release the enclave may ask for; repeatable."),
]
_Endpoint = Annotated[
    str | None, typer.Option("--kms-endpoint", metavar="URL", help="Where the KMS is. Default: the SDK's own")
]


@app.callback()
def _group() -> None: ...


@app.command()
def run(  # noqa: PLR0917 - one per option
    target: _Target,
    listen: _Listen = None,
    connections: _Connections = 1024,
    per_peer: _PerPeer = None,
    connect_timeout: _Connect = 10.0,
    idle_timeout: _Idle = 3_900.0,
    drain: _Drain = 10.0,
    services: _Services = None,
    package: _Package = None,
    key: _Key = None,
    kms_endpoint: _Endpoint = None,
) -> None:
    """Relay bytes between clients and the enclave; parses nothing, sees no plaintext.

    It can also hand the enclave its encrypted packages and pass its
    key release on to the KMS, with this machine's credentials.

    Prints where it listens once it is ready, logs sizes and times to stderr, and
    runs until SIGTERM or SIGINT; a second signal ends it at once.
    """
    from ephemeralml.cli.address_option import parse_address
    from ephemeralml.cli.host_inputs import services_request
    from ephemeralml.host.limits import Limits, allow_open_files
    from ephemeralml.transport import Scheme

    addresses = [parse_address("--listen", text) for text in listen or [DEFAULT_LISTEN]]
    for address in addresses:
        if address.scheme not in (Scheme.TCP, Scheme.UNIX, Scheme.WS):
            raise console.usage(f"a relay does not listen on {address}", hint="listen on tcp, unix or ws")
    destination = parse_address("--target", target)
    if destination.scheme not in (Scheme.TCP, Scheme.UNIX, Scheme.VSOCK):
        raise console.usage(f"a relay does not forward to {destination}", hint="forward to vsock, unix or tcp")
    limits = Limits(
        connections=connections,
        per_peer=per_peer or DEFAULT_PER_PEER,
        local_exempt=per_peer is None,
        connect_seconds=connect_timeout,
        idle_seconds=idle_timeout,
        drain_seconds=drain,
    )
    if not allow_open_files(limits):
        console.current().warning(f"too few open files are allowed for {connections} connections; raise ulimit -Hn")
    offered = services_request(services, package or (), key or (), kms_endpoint, destination)
    _log_to_stderr()
    if offered is not None:
        offered.look()
    made = offered.make() if offered is not None else None
    served = str(made.start()) if made is not None else None
    try:
        asyncio.run(_serve(addresses, destination, limits, served))
    finally:
        if made is not None:
            made.stop()


async def _serve(addresses: "list[Address]", target: "Address", limits: "Limits", services: str | None) -> None:
    from ephemeralml.host.relay import Relay

    relay = Relay(addresses, target, limits)
    stopping, hurrying = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurrying if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    bound = [str(address) for address in await relay.start()]
    document = {"schema": "ephemeralml.relay/1", "listen": bound, "target": str(target), "pid": os.getpid()}
    lines = [f"relaying {', '.join(bound)} to {target}"]
    if services is not None:
        document["services"] = services
        lines.append(f"services on {services}")
    console.current().result(
        document, lambda out: out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    )
    sys.stdout.flush()
    await stopping.wait()
    draining = asyncio.create_task(relay.stop())
    hurry = asyncio.create_task(hurrying.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not draining.done():
        draining.cancel()
        await asyncio.wait({draining})
        await relay.stop(drain=False)


def _log_to_stderr() -> None:
    """Show the relay's log: sizes and times, no peers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    logger = logging.getLogger("ephemeralml.host")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING if console.current().quiet else logging.INFO)
