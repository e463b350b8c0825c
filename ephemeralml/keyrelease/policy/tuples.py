"""The registers of one image as a key policy pins them: tuples, never mixed (key-release.md section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.nitro.policy import MINIMUM, PINNABLE
from ephemeralml.attestation.policy_render import MAX_MEASUREMENTS_BYTES, measurements_of_json
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError

REGISTER_BYTES = 48
ZERO = bytes(REGISTER_BYTES).hex()
ONE_RAMDISK_PCR2 = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
"""PCR2 of every image with one ramdisk: SHA384(48 zero bytes || SHA384("")) (nitro-platform.md section 3)."""

MAX_TUPLES = 16
_SIGNER = 8
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class ReleaseTuple:
    """Registers that must all be equal for the key to be released, until a date."""

    name: str
    registers: Mapping[int, bytes]
    until: datetime | None = None
    signer_only: bool = False
    """Any image under one signing certificate: PCR8 stands for it."""

    def value(self, index: int) -> str:
        """Return a register as the policy writes it: lower-case hex."""
        return self.registers[index].hex()

    def to_json(self) -> dict[str, Any]:
        """Return the tuple as a client policy's `allow` has it (attestation section 6)."""
        document: dict[str, Any] = {"name": self.name}
        document |= {f"pcr{index}": value.hex() for index, value in sorted(self.registers.items())}
        if self.signer_only:
            document["signer_only"] = True
        if self.until is not None:
            document["until"] = clock.format_rfc3339(self.until)
        return document


def parse_tuples(data: bytes, *, name: str) -> tuple[ReleaseTuple, ...]:
    """Read a tuple file.

    It is what `enclave measure` or `eif describe` printed (`measurements`), an
    entry of a client policy's `allow` (`pcr0`, `pcr1`, `pcr2`, … `name`,
    `until`), or a list of such entries.

    Args:
        data: The file.
        name: What a tuple without a name of its own is called.

    Raises:
        MalformedError: Not one of these, or a tuple that would not fix an image.
    """
    document = strict_json.parse(data, max_bytes=MAX_MEASUREMENTS_BYTES)
    if isinstance(document, dict) and "measurements" in document:
        registers = {int(slot[3:]): value for slot, value in measurements_of_json(data).registers.items()}
        return (_checked(ReleaseTuple(name, MappingProxyType(registers))),)
    entries = document if isinstance(document, list) else [document]
    if not 1 <= len(entries) <= MAX_TUPLES:
        raise _bad(f"{len(entries)} tuples, 1 to {MAX_TUPLES} are allowed")
    many = len(entries) > 1
    return tuple(_entry(entry, f"{name} {index}" if many else name) for index, entry in enumerate(entries, 1))


def _entry(entry: Any, default_name: str) -> ReleaseTuple:
    if not isinstance(entry, dict):
        raise _bad("neither measurements nor registers pcr0, pcr1, pcr2")
    if unknown := sorted(set(entry) - {*PINNABLE, "name", "until", "signer_only"}):
        raise _bad(f"unknown field {unknown[0][:64]!a}")
    name, signer_only = entry.get("name", default_name), entry.get("signer_only", False)
    if type(name) is not str or not 1 <= len(name) <= _MAX_NAME:
        raise _bad(f"name is not a text of 1 to {_MAX_NAME} characters")
    if type(signer_only) is not bool:
        raise _bad("signer_only is neither true nor false")
    registers = {int(slot[3:]): _register(entry[slot], slot) for slot in PINNABLE if slot in entry}
    return _checked(ReleaseTuple(name, MappingProxyType(registers), _until(entry.get("until")), signer_only))


def _register(value: Any, slot: str) -> bytes:
    if type(value) is not str or len(value) != 2 * REGISTER_BYTES or set(value) - set("0123456789abcdef"):
        raise _bad(f"{slot} is not {2 * REGISTER_BYTES} lower-case hex digits")
    return bytes.fromhex(value)


def _until(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return clock.parse_rfc3339(value if type(value) is str else "")
    except ValueError as error:
        raise _bad("until is no RFC 3339 time") from error


def _checked(made: ReleaseTuple) -> ReleaseTuple:
    """Return *made* if it fixes an image."""
    slots = {f"pcr{index}" for index in made.registers}
    zero = sorted(f"pcr{index}" for index, value in made.registers.items() if value.hex() == ZERO)
    if zero:
        raise _bad(
            f"{made.name!a}: {zero[0]} is zero, as in every debug launch", hint="measure the image as it will run"
        )
    if made.signer_only and (f"pcr{_SIGNER}" not in slots or slots & set(MINIMUM)):
        raise _bad(f"{made.name!a}: signer_only goes with pcr8 and without pcr0, pcr1, pcr2")
    if not made.signer_only and (missing := sorted(set(MINIMUM) - slots)):
        raise _bad(
            f"{made.name!a}: {', '.join(missing)} missing", hint="an image is fixed by pcr0, pcr1 and pcr2 together"
        )
    if made.registers.get(2) == bytes.fromhex(ONE_RAMDISK_PCR2):
        raise _bad(
            f"{made.name!a}: pcr2 is that of every image with one ramdisk",
            hint="build the image with `ephemeralml eif`",
        )
    return made


def signer_tuple(made: ReleaseTuple) -> ReleaseTuple:
    """Return the tuple that accepts every image under *made*'s certificate.

    Raises:
        MalformedError: The image is not signed: there is no PCR8.
    """
    if _SIGNER not in made.registers:
        raise _bad(
            f"{made.name!a}: no pcr8, so the image is not signed", hint="sign the image, or pin its own registers"
        )
    kept = {index: value for index, value in made.registers.items() if index not in (0, 1, 2)}
    return replace(made, registers=MappingProxyType(kept), signer_only=True)


def _bad(message: str, *, hint: str | None = None) -> MalformedError:
    return MalformedError(f"tuple: {message}", code="TUPLE_INVALID", hint=hint)
