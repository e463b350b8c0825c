"""A booted runtime in this process: real boot, real engine or a tiny one, software TEE."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.attestation.local.nsm import SoftwareNsm
from ephemeralml.enclave.attesters.base import Attester
from ephemeralml.enclave.attesters.nitro import NitroAttester
from ephemeralml.enclave.attesters.nsm import NsmClient, NsmDirect
from ephemeralml.enclave.boot import BootInputs, boot
from ephemeralml.enclave.config import RuntimeConfig, render
from ephemeralml.enclave.hardening import Hardening
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.server import Server
from tests.fakes.packages import PUBLISHER, signed_package

AUTHORITY = Authority.ephemeral()


def config_source(
    *, limits: Mapping[str, Any] | None = None, listen: str = "tcp://127.0.0.1:0", **changes: Any
) -> bytes:
    """Return a configuration for `tiny-bert`; *limits* go into its table, *changes* to `render`."""
    values: dict[str, Any] = {
        "attester": "local",
        "security_mode": "evaluation",
        "listen": listen,
        "publisher_key": PUBLISHER.public,
        "model_id": "tiny-*",
        "allow_plaintext": True,
        **changes,
    }
    table = "".join(f"{name} = {value}\n" for name, value in (limits or {}).items())
    return render(**values) + f"\n[limits]\n{table}".encode()


def software_attester(config: RuntimeConfig, *, pcrs: Mapping[int, bytes] | None = None) -> Attester:
    """Return an attester over a software module in this process."""
    module = SoftwareNsm(AUTHORITY, pcrs if pcrs is not None else measure(config.source, AUTHORITY.id))
    return NitroAttester(NsmClient(NsmDirect(module.handle)), software=True)


@dataclass(frozen=True)
class Files:
    """What a boot reads."""

    config: Path
    packages: tuple[Path, ...]


def write_files(folder: Path, source: bytes | None = None, **package: Any) -> Files:
    """Write a configuration and one package below *folder*."""
    config = folder / "enclave.toml"
    config.write_bytes(config_source() if source is None else source)
    return Files(config, (signed_package(folder, **package),))


def inputs(files: Files, **changes: Any) -> BootInputs:
    """Return boot inputs for *files*, without hardening the test's own process."""
    values: dict[str, Any] = {
        "config": files.config,
        "packages": files.packages,
        "open_attester": software_attester,
        "harden": lambda: Hardening(core_dumps_off=False, memory_locked=False),
        **changes,
    }
    return BootInputs(**values)


@contextlib.contextmanager
def booted(files: Files, **changes: Any) -> Iterator[Runtime]:
    """Boot a runtime and close it."""
    runtime = boot(inputs(files, **changes))
    try:
        yield runtime
    finally:
        runtime.close()


@contextlib.asynccontextmanager
async def serving(
    runtime: Runtime, *, tick: float = 0.02, clock: Callable[[], float] | None = None
) -> AsyncIterator[Server]:
    """Serve *runtime* until the block ends."""
    server = Server(runtime, tick=tick, **({"clock": clock} if clock else {}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
