"""A booted runtime: everything a server needs, nothing that is half-ready."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ephemeralml.channel.hello import Identity, Limits
from ephemeralml.enclave.api.router import Router
from ephemeralml.enclave.attesters.base import Attester, SessionEvidence
from ephemeralml.enclave.boot_report import BootReport
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.enclave.hardening import Hardening
from ephemeralml.enclave.keys import ReceiptKey
from ephemeralml.enclave.models import ModelRegistry
from ephemeralml.enclave.receipts import ReceiptIssuer

BOOT_SCHEMA = "ephemeralml.boot/1"


@dataclass(slots=True)
class Lifecycle:
    """Whether new work is taken; shared by the server and what reports on it."""

    draining: bool = False


@dataclass(frozen=True, slots=True)
class Runtime:
    """What boot leaves behind. `close` wipes the keys and stops the engines."""

    config: RuntimeConfig
    attester: Attester
    key: ReceiptKey
    registry: ModelRegistry
    identity: Identity
    limits: Limits
    issuer: ReceiptIssuer
    router: Router
    lifecycle: Lifecycle
    probe: SessionEvidence = field(repr=False)
    """Evidence made at boot, for its registers; no session uses it."""
    hardening: Hardening
    report: BootReport
    undo: ExitStack = field(repr=False)

    @property
    def attest(self) -> Callable[..., SessionEvidence]:
        """The attester's blocking call."""
        return self.attester.attest

    def close(self) -> None:
        """Wipe the keys, stop the engines, release the attester; harmless twice."""
        self.undo.close()

    def describe(self, addresses: tuple[str, ...]) -> dict[str, Any]:
        """Return the boot report's document, `ephemeralml.boot/1`."""
        return {
            "schema": BOOT_SCHEMA,
            "ready": True,
            "version": self.identity.runtime_version,
            "listen": addresses[0],
            "addresses": list(addresses),
            "attester": self.config.attester,
            "format": self.attester.format.value,
            "software": self.attester.software,
            "debug": self.probe.debug,
            "security_mode": self.identity.security_mode,
            "config_sha256": self.config.digest.hex(),
            "receipt_public_key": self.key.public.hex(),
            "measurement_type": self.probe.measurement_type.value,
            "measurements": hexadecimal(self.probe.registers),
            "models": [
                {
                    "id": entry.id,
                    "version": entry.version,
                    "model_hash": entry.hash.hex(),
                    "model_hash_scheme": entry.scheme,
                }
                for entry in self.identity.models
            ],
            "aliases": {alias: model.full_name for alias, model in self.registry.aliases.items()},
            "core_dumps_off": self.hardening.core_dumps_off,
            "memory_locked": self.hardening.memory_locked,
            "key_releases": [record.to_json() for record in self.report.releases],
            "steps": self.report.to_json(),
        }


def hexadecimal(registers: Mapping[str, bytes]) -> dict[str, str]:
    """Return registers as JSON carries them."""
    return {slot: value.hex() for slot, value in registers.items()}
