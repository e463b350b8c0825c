"""Layer L1 on the envelope: air-v1, section 1 and the first rows of section 8."""

from collections.abc import Iterator
from typing import Any

from ephemeralml.attestation.verdict import printable
from ephemeralml.crypto import cbor, cose
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import MAX_RECEIPT_BYTES, AirClaims, KeyOrder
from ephemeralml.receipt.codes import Code, Fault, Warn
from ephemeralml.receipt.decode import decode_claims
from ephemeralml.receipt.rules import Profile
from ephemeralml.receipt.trail import PARSE, Trail

PROTECTED = bytes.fromhex("a2012703183d")
"""The protected header, ``{1: -8, 3: 61}``."""

MAX_ENVELOPE_DEPTH = 8
_ALG, _CONTENT_TYPE = 1, 3
_CWT = 61


def open_receipt(receipt: bytes, profile: Profile, trail: Trail) -> tuple[cose.Sign1, AirClaims] | None:
    """Run L1: SIZE to ENCODING; None where a check said stop."""
    envelope = _open_envelope(receipt, trail)
    if envelope is None or envelope.payload is None:
        return None
    decoded = decode_claims(envelope.payload)
    if decoded.profile_faults:
        trail.check("EAT_PROFILE", PARSE, decoded.profile_faults)
        return None
    trail.check("CLAIMS_DECODE", PARSE, decoded.faults)
    if decoded.claims is None:
        return None
    trail.check("EAT_PROFILE", PARSE, ())
    trail.check("ENCODING", PARSE, _encoding(receipt, envelope, decoded.claims, profile, trail))
    return envelope, decoded.claims


def _open_envelope(receipt: bytes, trail: Trail) -> cose.Sign1 | None:
    if len(receipt) > MAX_RECEIPT_BYTES:
        fault = Fault(
            Code.RECEIPT_TOO_LARGE,
            "too large for a receipt",
            f"at most {MAX_RECEIPT_BYTES} bytes",
            f"{len(receipt)} bytes",
        )
        trail.check("SIZE", PARSE, (fault,))
        return None
    trail.check("SIZE", PARSE, ())
    try:
        envelope = cose.parse(receipt, max_bytes=MAX_RECEIPT_BYTES, max_depth=MAX_ENVELOPE_DEPTH)
    except MalformedError as error:
        trail.check("COSE_DECODE", PARSE, (Fault(Code.COSE_DECODE_FAILED, error.message),))
        return None
    if not envelope.tagged:
        trail.check("COSE_DECODE", PARSE, (Fault(Code.COSE_DECODE_FAILED, "the receipt has no CBOR tag 18"),))
        return None
    trail.check("COSE_DECODE", PARSE, ())
    if not trail.check("UNPROTECTED", PARSE, _unprotected(envelope)):
        return None
    header = envelope.protected_header
    trail.check("ALG", PARSE, _label(header, _ALG, cose.ALG_EDDSA, Code.BAD_ALG, "another algorithm than EdDSA"))
    trail.check(
        "CONTENT_TYPE",
        PARSE,
        _label(header, _CONTENT_TYPE, _CWT, Code.BAD_CONTENT_TYPE, "another content type than 61"),
    )
    trail.check("PROTECTED", PARSE, _protected(envelope))
    if not trail.check("PAYLOAD", PARSE, _payload(envelope)):
        return None
    return envelope


def _unprotected(envelope: cose.Sign1) -> Iterator[Fault]:
    if len(envelope.unprotected):
        count = len(envelope.unprotected)
        yield Fault(Code.NON_EMPTY_UNPROTECTED, "the unprotected header is not empty", "no entries", f"{count} entries")


def _label(header: cbor.Pairs, label: int, wanted: int, code: Code, detail: str) -> Iterator[Fault]:
    values = [value for key, value in header.items if type(key) is int and key == label]
    if not values:
        yield Fault(code, detail, str(wanted), "absent")
    elif type(values[0]) is not int or values[0] != wanted:
        yield Fault(code, detail, str(wanted), _show(values[0]))


def _protected(envelope: cose.Sign1) -> Iterator[Fault]:
    if envelope.protected == PROTECTED:
        return
    for key, _ in envelope.protected_header.items:
        if type(key) is not int or key not in (_ALG, _CONTENT_TYPE):
            yield Fault(
                Code.EXTRA_PROTECTED_HEADER, "a protected header that AIR v1 does not have", "1 and 3", _show(key)
            )
    # RFC 9052 section 3 writes an empty header as no bytes at all, so that form is deterministic too.
    if envelope.protected and not _is_deterministic(envelope.protected):
        yield Fault(Code.NON_CANONICAL, "the protected header is not deterministically encoded")


def _payload(envelope: cose.Sign1) -> Iterator[Fault]:
    if not envelope.payload:
        yield Fault(Code.MISSING_PAYLOAD, "the payload is nil" if envelope.payload is None else "the payload is empty")


def _encoding(
    receipt: bytes, envelope: cose.Sign1, claims: AirClaims, profile: Profile, trail: Trail
) -> Iterator[Fault]:
    assert envelope.payload is not None
    if cose.encode(envelope.protected, envelope.payload, envelope.signature, tagged=True) != receipt:
        yield Fault(Code.NON_CANONICAL, "the envelope is not deterministically encoded")
    if claims.encode() == envelope.payload:
        return
    if profile is Profile.COMPAT and claims.encode(KeyOrder.G0) == envelope.payload:
        trail.warn(Warn.G0_KEY_ORDER)
        return
    yield Fault(Code.NON_CANONICAL, "the claims are not deterministically encoded")


def _is_deterministic(data: bytes) -> bool:
    try:
        cbor.decode(data, max_bytes=MAX_RECEIPT_BYTES, max_depth=MAX_ENVELOPE_DEPTH)
    except MalformedError:
        return False
    return True


def _show(value: Any) -> str:
    """Return a header's label or value as it may be printed."""
    if type(value) is int:
        return str(value)
    if type(value) is str:
        return printable(f'"{value}"')
    if type(value) is bytes:
        return printable(f"h'{value[:32].hex()}'")
    return "another type"
