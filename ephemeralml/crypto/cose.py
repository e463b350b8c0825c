"""COSE_Sign1: RFC 9052, section 4.2, with EdDSA and ES384 (RFC 9053, section 2).

Receipts and Nitro documents are both read and checked here. Parsing keeps the
protected header and the payload as received; what was signed is built from
those bytes and never from a re-encoding. Which headers and which tag a format
allows is the format's business.
"""

from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ephemeralml.crypto import cbor
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.errors import MalformedError

TAG = 18
"""CBOR tag of COSE_Sign1 (RFC 9052, section 2)."""

ALG_EDDSA = -8
ALG_ES384 = -35

PROTECTED_EDDSA = bytes.fromhex("a10127")
PROTECTED_ES384 = bytes.fromhex("a1013822")

ES384_SIGNATURE_BYTES = 96
"""r and s, 48 bytes each (RFC 9053, section 2.1)."""


@dataclass(frozen=True, slots=True)
class Sign1:
    """A parsed COSE_Sign1 whose signature nobody has checked."""

    tagged: bool
    """Whether tag 18 stood around the array."""
    protected: bytes
    """The protected header's byte string, as received."""
    protected_header: cbor.Pairs
    """The map inside it; empty for a zero-length byte string."""
    unprotected: cbor.Pairs
    payload: bytes | None
    signature: bytes


def parse(data: bytes, *, max_bytes: int, max_depth: int = 8) -> Sign1:
    """Read a COSE_Sign1, tagged with 18 or not (RFC 9052, section 4.2).

    Takes any well-formed encoding; a format that wants the deterministic one
    compares with `encode`.

    Raises:
        MalformedError: Not one item, another tag, not the four parts, a header
            that is no map or repeats a label.
    """
    item = cbor.decode_wellformed(data, max_bytes=max_bytes, max_depth=max_depth)
    tagged = isinstance(item, cbor.Tag)
    if isinstance(item, cbor.Tag):
        if item.number != TAG:
            raise MalformedError(f"CBOR tag {item.number} instead of {TAG}")
        item = item.value
    if type(item) is not tuple or len(item) != 4:
        raise MalformedError("not a COSE_Sign1: an array of four is needed")
    protected, unprotected, payload, signature = item
    if type(protected) is not bytes or type(signature) is not bytes:
        raise MalformedError("not a COSE_Sign1: protected header and signature are byte strings")
    if payload is not None and type(payload) is not bytes:
        raise MalformedError("not a COSE_Sign1: the payload is a byte string or nil")
    header = (
        cbor.decode_wellformed(protected, max_bytes=max_bytes, max_depth=max_depth) if protected else cbor.Pairs(())
    )
    for part in (header, unprotected):
        if not isinstance(part, cbor.Pairs):
            raise MalformedError("a COSE header is not a map")
        if part.duplicate() is not None:
            raise MalformedError("a COSE header repeats a label")
    return Sign1(tagged, protected, header, unprotected, payload, signature)


def encode(protected: bytes, payload: bytes, signature: bytes, *, tagged: bool) -> bytes:
    """Write a COSE_Sign1 with an empty unprotected header, deterministically."""
    array: Any = (protected, {}, payload, signature)
    return cbor.encode(cbor.Tag(TAG, array) if tagged else array)


def sig_structure(protected: bytes, payload: bytes) -> bytes:
    """Return the bytes that are signed (RFC 9052, section 4.4), without external data."""
    return cbor.encode(("Signature1", protected, b"", payload))


def sign_eddsa(key: PrivateKey, protected: bytes, payload: bytes) -> bytes:
    """Return the Ed25519 signature over *protected* and *payload*."""
    return key.sign(sig_structure(protected, payload))


def verify_eddsa(key: PublicKey, protected: bytes, payload: bytes, signature: bytes) -> bool:
    """Return whether *signature* holds, by the strict rules of `PublicKey.verify`."""
    return key.verify(signature, sig_structure(protected, payload))


def sign_es384(key: ec.EllipticCurvePrivateKey, protected: bytes, payload: bytes) -> bytes:
    """Return the ECDSA P-384 signature, r ‖ s, over *protected* and *payload*."""
    r, s = decode_dss_signature(key.sign(sig_structure(protected, payload), ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def verify_es384(key: ec.EllipticCurvePublicKey, protected: bytes, payload: bytes, signature: bytes) -> bool:
    """Return whether the ECDSA P-384 signature, r ‖ s, holds."""
    if len(signature) != ES384_SIGNATURE_BYTES or not isinstance(key.curve, ec.SECP384R1):
        return False
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), sig_structure(protected, payload), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
