"""What this enclave measures, and whether that is what somebody expects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.crypto import strict_json
from ephemeralml.enclave.attesters.nsm import NsmClient, NsmDevice
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.errors import MalformedError

MAX_EXPECTED_BYTES = 1 << 20
_INDICES = (0, 1, 2, 3, 4, 8)
_REGISTER_DIGITS = 96


@dataclass(frozen=True, slots=True)
class Difference:
    """A register that is not what was expected."""

    slot: str
    expected: str
    actual: str | None
    """None where this enclave has no such register."""


def registers(config: RuntimeConfig, *, authority: Path | None) -> dict[str, bytes]:
    """Return this enclave's registers: from the device, or for a software TEE computed.

    Without *authority* a software TEE's PCR4, which names it, is left out.

    Raises:
        UnavailableError: No device, or no such authority.
    """
    if config.attester == "nsm":
        client = NsmClient(NsmDevice())
        try:
            return {f"pcr{index}": client.pcr(index) for index in _INDICES}
        finally:
            client.close()
    name = Authority.load(authority).id if authority is not None else ""
    computed = measure(config.source, name)
    return {f"pcr{index}": value for index, value in computed.items() if index != 4 or authority is not None}


def parse_expected(data: bytes) -> dict[str, str]:
    """Read the registers of a document with an object ``measurements``, such as this command's own or `eif describe`'s.

    Raises:
        MalformedError: Not such a document, or it names no register.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_EXPECTED_BYTES)
    found = document.get("measurements")
    if not isinstance(found, dict):
        raise MalformedError("the expected measurements are not an object 'measurements'")
    wanted = {slot: _register(slot, value) for slot, value in found.items() if value is not None}
    if not wanted:
        raise MalformedError("the file expects no register at all")
    return wanted


def _register(slot: str, value: Any) -> str:
    if slot not in {f"pcr{index}" for index in range(32)}:
        raise MalformedError(f"no register is called {slot[:32]!a}")
    digits = value if isinstance(value, str) else ""
    if len(digits) != _REGISTER_DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise MalformedError(f"{slot} is not {_REGISTER_DIGITS} lower-case hex digits")
    return digits


def differences(actual: Mapping[str, bytes], expected: Mapping[str, str]) -> list[Difference]:
    """Return every expected register that differs or is missing; others are not looked at."""
    found = {slot: value.hex() for slot, value in actual.items()}
    return [Difference(slot, want, found.get(slot)) for slot, want in expected.items() if found.get(slot) != want]
