"""Whether a Nitro document's values are those a policy accepts (attestation sections 2 and 6).

The software TEE's section is read and judged here too: its documents have the
same registers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from ephemeralml.attestation.measurements import AnyOf, Difference, RegisterTuple
from ephemeralml.attestation.policy_fields import POLICY_CONTRADICTION, POLICY_EMPTY, Fields, hex_bytes, invalid
from ephemeralml.attestation.roots import AWS_NITRO, RootKind, TrustRoots
from ephemeralml.errors import MalformedError

PINNABLE = ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
"""Registers that an entry may name (attestation-codes, NITRO_MEASUREMENT_MISMATCH)."""

MINIMUM = ("pcr0", "pcr1", "pcr2")
"""An entry names these, unless it accepts every image of one signer."""


class Revocation(Enum):
    """Whether revocation lists must be at hand (N8)."""

    OFF = "off"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class NitroSection:
    """The `nitro` or the `local` section of a policy."""

    roots: TrustRoots
    allow: tuple[RegisterTuple, ...]
    revocation: Revocation = Revocation.OFF

    def has_live_entry(self, at: datetime) -> bool:
        """Return whether an entry has not ended at *at*."""
        return any(entry.live(at) for entry in self.allow)

    def differences(self, registers: Mapping[str, bytes], at: datetime) -> tuple[Difference, ...]:
        """Return in what *registers* differ from the nearest entry; at least one entry is needed."""
        return AnyOf(self.allow).differences(registers, at)


def parse_nitro(fields: Fields) -> NitroSection:
    """Read the `nitro` section.

    Raises:
        MalformedError: An unknown or mistyped field, a root that is no vendor's,
            an entry below the minimum tuple.
    """
    roots = _vendor_roots(fields)
    revocation = Revocation(fields.choice("revocation", ("off", "required"), "off"))
    allow = tuple(parse_entry(item) for item in fields.objects("allow", []))
    fields.done()
    return NitroSection(roots, allow, revocation)


def parse_local(fields: Fields) -> NitroSection:
    """Read the `local` section; its `allow` may be empty, its roots may not."""
    names = fields.texts("roots", [])
    if not names:
        raise invalid(f"{fields.at('roots')} names no software root", code=POLICY_EMPTY)
    digests = frozenset(_digest(name, fields.at("roots")) for name in names)
    allow = tuple(parse_entry(item) for item in fields.objects("allow", []))
    fields.done()
    return NitroSection(TrustRoots(RootKind.SOFTWARE, digests), allow)


def parse_entry(fields: Fields) -> RegisterTuple:
    """Read one entry of `allow` (section 6, rules 1 and 2).

    Raises:
        MalformedError: Below the minimum tuple, a zero register, a wrong length, upper-case hex.
    """
    name = fields.text("name")
    until = fields.instant("until", None)
    signer_only = fields.boolean("signer_only", default=False)
    registers = {register: fields.hex(register, 48) for register in PINNABLE if register in fields}
    fields.done()
    image = [register for register in MINIMUM if register in registers]
    if signer_only and ("pcr8" not in registers or image):
        raise invalid(
            f"{fields.path}: signer_only goes with pcr8 and without pcr0, pcr1, pcr2", code=POLICY_CONTRADICTION
        )
    if not signer_only and len(image) < len(MINIMUM):
        raise invalid(
            f"{fields.path}: an entry names pcr0, pcr1 and pcr2",
            code=POLICY_EMPTY,
            hint='for any image under one signing certificate, write "pcr8" and "signer_only": true',
        )
    return RegisterTuple(name, MappingProxyType(registers), until)


def _vendor_roots(fields: Fields) -> TrustRoots:
    names = fields.texts("roots", ["aws"])
    if not names:
        raise invalid(f"{fields.at('roots')} names no root", code=POLICY_EMPTY)
    if names == ("aws",):
        return AWS_NITRO
    pinned = frozenset(_digest(name, fields.at("roots")) for name in names if name != "aws")
    return TrustRoots(RootKind.VENDOR, pinned | (AWS_NITRO.digests if "aws" in names else frozenset()))


def _digest(name: str, place: str) -> bytes:
    try:
        return hex_bytes(name.removeprefix("sha256:"), 32, place) if name.startswith("sha256:") else _unknown(place)
    except MalformedError as error:
        raise invalid(f"{place}: a root is sha256: and 64 lower-case hex digits") from error


def _unknown(place: str) -> bytes:
    raise invalid(f"{place}: an unknown name")
