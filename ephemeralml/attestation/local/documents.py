"""Documents of the software TEE, byte for byte of Nitro's structure, and their deliberate faults."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from ephemeralml.attestation.local.certificates import Issuer
from ephemeralml.crypto import cbor, cose


class Fault(Enum):
    """What can be wrong with a document, for tests; the cryptography stays real."""

    EXPIRED_LEAF = "expired-leaf"
    WRONG_ISSUER = "wrong-issuer"
    """The leaf names another issuer than the CA whose key signed it."""
    OTHER_ROOT = "other-root"
    """A complete chain below a root that nobody pinned."""
    BAD_SIGNATURE = "bad-signature"
    ZERO_PCR = "zero-pcr"
    """A debug enclave: PCR0, PCR1 and PCR2 are zero, the others real."""
    STALE_TIME = "stale-time"
    FUTURE_TIME = "future-time"
    WRONG_NONCE = "wrong-nonce"
    MISSING_FIELD = "missing-field"
    INDEFINITE_MAP = "indefinite-map"
    """No fault to a verifier: current module firmware emits such."""
    EXTRA_FIELD = "extra-field"
    OVERSIZE = "oversize"
    UNSIGNED = "unsigned"
    """As an emulator makes them: algorithm -1, 64 zero bytes for a signature."""
    TAGGED = "tagged"
    """No fault either: tag 18 around the array."""


STALE_BY = timedelta(minutes=10)
AHEAD_BY = timedelta(minutes=5)
_UNSIGNED_HEADER = bytes.fromhex("a10120")


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """What a document is to say."""

    module_id: str
    pcrs: Mapping[int, bytes]
    public_key: bytes | None = None
    user_data: bytes | None = None
    nonce: bytes | None = None


def encode_document(
    fields: DocumentFields, *, chain: tuple[bytes, ...], leaf: Issuer, at: datetime, faults: Collection[Fault] = ()
) -> bytes:
    """Return the document that says *fields* at *at*, signed by *leaf*.

    Args:
        fields: Its content.
        chain: The CA bundle, root first, DER.
        leaf: The signing certificate and key.
        at: Its timestamp.
        faults: What to get wrong.
    """
    payload = _payload(fields, chain, leaf, at, faults)
    protected, signature = _UNSIGNED_HEADER, bytes(64)
    if Fault.UNSIGNED not in faults:
        protected = cose.PROTECTED_ES384
        signature = cose.sign_es384(leaf.key, protected, payload)
    if Fault.BAD_SIGNATURE in faults:
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    return cose.encode(protected, payload, signature, tagged=Fault.TAGGED in faults)


def _payload(
    fields: DocumentFields, chain: tuple[bytes, ...], leaf: Issuer, at: datetime, faults: Collection[Fault]
) -> bytes:
    if Fault.STALE_TIME in faults:
        at -= STALE_BY
    if Fault.FUTURE_TIME in faults:
        at += AHEAD_BY
    pcrs = dict(sorted(fields.pcrs.items()))
    if Fault.ZERO_PCR in faults:
        pcrs |= {0: bytes(48), 1: bytes(48), 2: bytes(48)}
    nonce = fields.nonce
    if Fault.WRONG_NONCE in faults:
        nonce = bytes(byte ^ 0xFF for byte in nonce) if nonce else b"another nonce"
    values: dict[str, Any] = {
        "module_id": fields.module_id,
        "digest": "SHA384",
        "timestamp": int(at.timestamp()) * 1000 + at.microsecond // 1000,
        "pcrs": pcrs,
        "certificate": leaf.der,
        "cabundle": list(chain),
        "public_key": fields.public_key,
        "user_data": fields.user_data,
        "nonce": nonce,
    }
    if Fault.MISSING_FIELD in faults:
        del values["module_id"]
    if Fault.EXTRA_FIELD in faults:
        values["comment"] = "not a field of a Nitro document"
    if Fault.OVERSIZE in faults:
        values["user_data"] = bytes(40_000)
    if Fault.INDEFINITE_MAP in faults:
        pairs = b"".join(cbor.encode(name) + cbor.encode(value) for name, value in values.items())
        return b"\xbf" + pairs + b"\xff"
    return cbor.encode(values)
