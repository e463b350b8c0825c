"""`ephemeralml enclave`: the runtime inside the TEE."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from ephemeralml.enclave.boot_report import StepReport
    from ephemeralml.enclave.measured import Difference
    from ephemeralml.enclave.runtime import Runtime

app = typer.Typer(no_args_is_help=True, help="The runtime inside the TEE.")

_Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The measured configuration.")]
_Authority = Annotated[
    Path | None,
    typer.Option("--authority", metavar="DIR", help="Software TEE: the folder of its certificate authority."),
]


@app.command()
def run(
    config: _Config,
    package: Annotated[
        list[Path], typer.Option("--package", metavar="DIR", help="A model package; may be given several times.")
    ],
    authority: _Authority = None,
    nsm_socket: Annotated[
        Path | None, typer.Option("--nsm-socket", metavar="PATH", help="Software TEE: the socket of its module.")
    ] = None,
) -> None:
    """Boot, serve until SIGINT or SIGTERM, then drain.

    Only the configuration is measured; the other options come from the host
    and can make the boot fail, never change whose models run. Prints one
    document when ready.
    """
    from ephemeralml.enclave.attesters.opening import open_attester
    from ephemeralml.enclave.boot import BootInputs, boot

    _require_file(config)
    for folder in package:
        if not folder.is_dir():
            raise console.usage(f"the package {str(folder)!r} is no folder")
    if authority is not None and nsm_socket is not None:
        raise console.usage("--authority and --nsm-socket exclude each other")
    _log_to_stderr()
    runtime = boot(
        BootInputs(
            config=config,
            packages=tuple(package),
            open_attester=lambda parsed: open_attester(
                parsed, authority=authority, nsm_socket=str(nsm_socket) if nsm_socket is not None else None
            ),
            observer=_show_step,
        )
    )
    try:
        if runtime.attester.software:
            console.current().warning("software TEE: not protected from this machine")
        _serve(runtime)
    finally:
        runtime.close()


@app.command()
def measure(
    config: _Config,
    authority: _Authority = None,
    expect: Annotated[
        Path | None,
        typer.Option("--expect", metavar="FILE", help="Compare with the measurements in this JSON document."),
    ] = None,
) -> None:
    """Print this enclave's measurements, and compare them with those expected.

    For the software TEE they are computed from this installation and the
    configuration; otherwise the device is asked.
    """
    from ephemeralml.enclave import measured
    from ephemeralml.enclave.config import RuntimeConfig

    _require_file(config)
    wanted = None
    if expect is not None:
        data = console.read_file(expect, max_bytes=measured.MAX_EXPECTED_BYTES, what="the expected measurements")
        wanted = measured.parse_expected(data)
    parsed = RuntimeConfig.load(config)
    registers = measured.registers(parsed, authority=authority)
    found = None if wanted is None else measured.differences(registers, wanted)
    document = {
        "schema": "ephemeralml.measure/1",
        "attester": parsed.attester,
        "measurement_type": "nitro-pcr",
        "config_sha256": parsed.digest.hex(),
        "measurements": {slot: value.hex() for slot, value in registers.items()},
        "matches": None if found is None else not found,
        "differences": [
            {"register": item.slot, "expected": item.expected, "actual": item.actual} for item in found or []
        ],
    }
    console.current().result(document, lambda out: _show_measurements(out, document, found))
    if found:
        raise Exit(ExitCode.REJECTED)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise console.usage(f"the configuration {str(path)!r} is no file", hint="templates/enclave.toml is a start")


def _show_step(report: "StepReport") -> None:
    console.current().note(report.line())


def _show_measurements(out: "Console", document: dict[str, Any], found: "list[Difference] | None") -> None:
    for slot, value in document["measurements"].items():
        out.print(f"{slot:<6}{value}", markup=False, soft_wrap=True)
    out.print(f"config sha256 {document['config_sha256']}", markup=False, soft_wrap=True)
    for item in found or []:
        out.print(f"✗ {item.slot} expected {item.expected}", markup=False, soft_wrap=True)
    if found is not None:
        out.print("✗ not the expected measurements" if found else "✓ the expected measurements", markup=False)


def _show_ready(document: dict[str, Any]) -> None:
    """Print the ready document at once: whoever started us waits for it."""

    def text(out: "Console") -> None:
        models = ", ".join(f"{model['id']}@{model['version']}" for model in document["models"])
        for line in (
            f"ready on {', '.join(document['addresses'])}",
            f"models {models}",
            f"receipts ed25519:{document['receipt_public_key']}",
        ):
            out.print(line, markup=False, soft_wrap=True)

    console.current().result(document, text)
    sys.stdout.flush()


def _serve(runtime: "Runtime") -> None:
    import asyncio
    import gc
    import signal

    from ephemeralml.enclave import log
    from ephemeralml.enclave.boot_report import Step
    from ephemeralml.enclave.server import Server

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        # asyncio's own words about a failed callback may hold anything.
        loop.set_exception_handler(
            lambda _, context: log.note(
                log.Event.TASK_FAILED, fault=log.Fault.of(context.get("exception", Exception()))
            )
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        server = Server(runtime)
        with runtime.report.step(Step.READY) as note:
            await server.start()
            note.detail = ", ".join(server.addresses)
        # What the boot left is there to stay: no collection need look at it again.
        gc.collect()
        gc.freeze()
        _show_ready(runtime.describe(server.addresses))
        await stop.wait()
        await server.drain()

    asyncio.run(main())


def _log_to_stderr() -> None:
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ephemeralml")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if console.current().verbosity else logging.WARNING)
    logger.propagate = False
