"""What `ephemeralml enclave run` does: boot, serve until told to stop, drain."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.cli import console
from ephemeralml.cli.enclave_inputs import require_attester_inputs
from ephemeralml.enclave import log
from ephemeralml.enclave.attesters.opening import open_attester
from ephemeralml.enclave.boot import BootInputs, boot
from ephemeralml.enclave.boot_report import Step, StepReport
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.enclave.host_log import to_host
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.server import Server
from ephemeralml.errors import EphemeralError

if TYPE_CHECKING:
    from rich.console import Console


def run(config: Path, packages: Sequence[Path], authority: Path | None, nsm_socket: Path | None) -> None:
    """Boot from *config* and serve.

    Raises:
        UsageError: The options do not fit the configuration.
        EphemeralError: The boot failed.
    """
    parsed = _parsed(config)
    if parsed is not None:
        if not packages and parsed.services is None:
            raise console.usage(
                "no package",
                hint="name a folder with --package, or the host's services in [services] of the configuration",
            )
        authority = require_attester_inputs(config, parsed.attester, authority, nsm_socket)
    _log_to_stderr()
    with to_host(parsed.services if parsed is not None else None):
        runtime = boot(
            BootInputs(
                config=config,
                packages=packages,
                open_attester=lambda read: open_attester(
                    read, authority=authority, nsm_socket=str(nsm_socket) if nsm_socket is not None else None
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


def _parsed(config: Path) -> RuntimeConfig | None:
    """Return the configuration, or None: that it cannot be read is the boot's to report."""
    try:
        return RuntimeConfig.load(config)
    except EphemeralError:
        return None


def _show_step(report: StepReport) -> None:
    console.current().note(report.line())
    log.note(log.Event.BOOT_STEP, step=report.step, status=report.status, milliseconds=int(report.milliseconds))


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


def _serve(runtime: Runtime) -> None:
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ephemeralml")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if console.current().verbosity else logging.WARNING)
    logger.propagate = False
    # The console has shown the boot's steps already; this log is for the host.
    logging.getLogger(log.BOOT_LOGGER).propagate = False
