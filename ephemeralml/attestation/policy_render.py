"""Write a policy file from measurements (attestation section 6, rule 10).

What comes out was read back by `Policy.parse`, so a policy that would be
refused is never written.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.appraisal import T4
from ephemeralml.attestation.evidence import AppraisalTime, Format
from ephemeralml.attestation.local.measure import extend
from ephemeralml.attestation.model_rules import ModelEntry
from ephemeralml.attestation.nitro.document import parse as parse_document
from ephemeralml.attestation.nitro.policy import MINIMUM, PINNABLE
from ephemeralml.attestation.policy import Policy, section_name
from ephemeralml.attestation.policy_fields import hex_bytes
from ephemeralml.attestation.recognise import evidence_of
from ephemeralml.attestation.roots import ANY_SOFTWARE_ROOT, AWS_NITRO, is_software_root
from ephemeralml.attestation.verdict import Status
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.crypto import strict_json
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import MalformedError, RejectedError

MAX_MEASUREMENTS_BYTES = 1_048_576
MAX_TEMPLATE_BYTES = 65_536

_ROOT = re.compile(r"sha256:([0-9a-f]{64})")
_SOFTWARE_PCR3 = extend(b"local")
"""What every software TEE measures there (attestation section 3); hardware has zero or a hash of a role's name."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a policy is to pin, and where it was read."""

    format: Format
    registers: Mapping[str, bytes]
    root: bytes | None = None
    """SHA-256 of the software root; None for a vendor's."""


@dataclass(frozen=True, slots=True)
class Printed:
    """What `eif describe`, `enclave measure` or `enclave run` printed."""

    registers: Mapping[str, bytes]
    """Those that a policy pins, zero ones left out."""
    software: bool | None
    """Whether a software TEE measured them; None where the document does not say who did."""
    root: bytes | None
    """SHA-256 of the software root, where it is named."""


@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """Everything a new policy says that the template does not."""

    policy_id: str
    version: int
    created_at: datetime
    expires_at: datetime
    measured: Measured
    entry_name: str
    models: tuple[ModelEntry, ...]
    publisher_keys: tuple[PublicKey, ...]


def measurements_of_document(document: bytes) -> Measured:
    """Return what an evidence document states, after checking that it is authentic at its own time.

    Raises:
        MalformedError: It does not parse, or is of an unknown format.
        RejectedError: Its signature or its chain does not hold.
    """
    evidence = evidence_of(document)
    parsed = parse_document(document)
    software = is_software_root(parsed.cabundle[0])
    roots = ANY_SOFTWARE_ROOT if software else AWS_NITRO
    appraisal = verify_evidence(
        evidence, expected=None, policy=None, roots=roots, at=AppraisalTime.of_document(), live=False
    )
    for row in appraisal.rows:
        if row.status is Status.FAIL and row.layer != T4:
            raise RejectedError(
                f"the evidence is not authentic: {row.id}: {row.detail}",
                code=row.code or row.id,
                expected=row.expected,
                actual=row.actual,
            )
    root = hashlib.sha256(parsed.cabundle[0]).digest() if software else None
    registers = {slot: value for slot, value in appraisal.registers.items() if slot in MINIMUM}
    return Measured(Format.LOCAL if software else Format.NITRO, registers, root)


def measurements_of_json(data: bytes) -> Printed:
    """Read what `eif describe` or `enclave measure` printed.

    Raises:
        MalformedError: No such document, registers that are none, or it says
            two things about who measured.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_MEASUREMENTS_BYTES)
    registers = document.get("measurements")
    if type(registers) is not dict:
        raise MalformedError("there is no object measurements in this JSON document")
    zero = "00" * 48
    software = _software(document.get("attester"), registers.get("pcr3"))
    root = _root(document.get("root")) if software else None
    pinned = {
        slot: hex_bytes(registers[slot], 48, f"measurements.{slot}")
        for slot in (*MINIMUM, "pcr8")
        if registers.get(slot) not in (None, zero)
    }
    return Printed(pinned, software, root)


def _root(name: object) -> bytes | None:
    if name is None:
        return None
    found = _ROOT.fullmatch(name) if type(name) is str else None
    if found is None:
        raise MalformedError("root in the measurements is not sha256: and 64 lower-case hex digits")
    return bytes.fromhex(found[1])


def _software(attester: object, pcr3: object) -> bool | None:
    """Return whether a software TEE measured, by its own word or by the register that gives it away."""
    marked = pcr3 == _SOFTWARE_PCR3.hex()
    match attester:
        case None:
            return True if marked else None
        case "local":
            return True
        case "nsm" if not marked:
            return False
        case "nsm":
            raise MalformedError("the measurements say that hardware made them, and pcr3 is the software TEE's")
        case _:
            raise MalformedError("attester in the measurements is neither 'nsm' nor 'local'")


def render_policy(draft: PolicyDraft, template: bytes) -> bytes:
    """Return the policy file that *draft* and *template* make.

    Raises:
        MalformedError: What comes out would be refused: too few registers, no
            constraint on models, a field that is not as it must be.
    """
    document = strict_json.parse_object(template, max_bytes=MAX_TEMPLATE_BYTES)
    measured = draft.measured
    local = measured.format is Format.LOCAL
    document |= {
        "policy_id": draft.policy_id,
        "version": draft.version,
        "created_at": clock.format_rfc3339(draft.created_at),
        "expires_at": clock.format_rfc3339(draft.expires_at),
        "formats": [measured.format.value],
        "models": {
            "publisher_keys": [str(key) for key in draft.publisher_keys],
            "allow": [_model(entry) for entry in draft.models],
        },
    }
    if local:
        document |= {"min_assurance": "document", "security_modes": ["evaluation"], "allow_local": True}
    document[section_name(measured.format)] = {
        "roots": [f"sha256:{measured.root.hex()}"] if measured.root is not None else [] if local else ["aws"],
        "allow": [_entry(draft.entry_name, measured.registers)] if measured.registers else [],
    }
    data = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    Policy.parse(data, now=draft.created_at)
    return data


def _entry(name: str, registers: Mapping[str, bytes]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    entry |= {slot: registers[slot].hex() for slot in PINNABLE if slot in registers}
    if "pcr8" in registers and not any(slot in registers for slot in MINIMUM):
        entry["signer_only"] = True
    return entry


def _model(entry: ModelEntry) -> dict[str, str]:
    values = {
        "model_id": entry.model_id,
        "min_version": str(entry.min_version) if entry.min_version is not None else None,
        "model_hash": entry.model_hash.hex() if entry.model_hash is not None else None,
        "scheme": entry.scheme,
    }
    return {name: value for name, value in values.items() if value is not None}
