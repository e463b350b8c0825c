"""The rules on values: air-v1, sections 3 and 4, as the checks of layer L3.

The emitter refuses what these find and the verifier reports it, so both sides
hold one set of rules. Every function yields one `Fault` per thing wrong.
"""

from collections.abc import Iterator
from enum import Enum

from ephemeralml.attestation.verdict import printable
from ephemeralml.receipt.claims import (
    CLAIMS,
    CTI_BYTES,
    HASH_BYTES,
    MEASUREMENT_TYPES,
    MODEL_HASH_SCHEMES,
    REGISTER_BYTES,
    SECURITY_MODES,
    TDX_MRTD_RTMR,
    AirClaims,
    ClaimSpec,
)
from ephemeralml.receipt.codes import Code, Fault

_ZERO_HASH = bytes(HASH_BYTES)
_ZERO_CTI = bytes(CTI_BYTES)
_BOUNDED = tuple((spec, spec.low, spec.high) for spec in CLAIMS if spec.low is not None and spec.high is not None)
_HASHES = ("request_hash", "response_hash", "attestation_doc_hash")
_MODE = next(spec for spec in CLAIMS if spec.name == "security_mode")


class Profile(Enum):
    """How strictly a receipt is read (section 8, Profiles)."""

    STRICT = "strict"
    COMPAT = "compat"
    """Takes the key order and the free-text mode of older receipts, each with a warning."""


def cti(claims: AirClaims) -> Iterator[Fault]:
    """CTI: 16 bytes, not all zero."""
    if len(claims.cti) != CTI_BYTES:
        yield Fault(Code.BAD_CTI_LENGTH, "the receipt's id has another length", "16 bytes", f"{len(claims.cti)} bytes")
    elif claims.cti == _ZERO_CTI:
        yield Fault(Code.BAD_CTI_LENGTH, "the receipt's id is all zero", "16 random bytes", claims.cti.hex())


def bounds(claims: AirClaims) -> Iterator[Fault]:
    """BOUNDS: the time, texts, nonce and the three hashes within section 3."""
    if claims.iat < 1:
        yield Fault(f"{Code.OUT_OF_RANGE}:iat", "the time of issue is zero", "at least 1", str(claims.iat))
    for spec, low, high in _BOUNDED:
        value = getattr(claims, spec.name)
        if value is not None and not low <= (size := _size(value)) <= high:
            yield Fault(
                f"{Code.OUT_OF_RANGE}:{spec.name}",
                f"{spec.name} is out of bounds",
                f"{low} to {high} bytes",
                f"{size} bytes",
            )
    for name in _HASHES:
        if len(value := getattr(claims, name)) != HASH_BYTES:
            yield Fault(
                f"{Code.BAD_HASH_LENGTH}:{name}", f"{name} has another length", "32 bytes", f"{len(value)} bytes"
            )


def model_hash(claims: AirClaims) -> Iterator[Fault]:
    """MHASH_PRESENT: 32 bytes, not all zero."""
    if len(claims.model_hash) != HASH_BYTES:
        yield Fault(
            f"{Code.BAD_HASH_LENGTH}:model_hash",
            "model_hash has another length",
            "32 bytes",
            f"{len(claims.model_hash)} bytes",
        )
    elif claims.model_hash == _ZERO_HASH:
        yield Fault(Code.ZERO_MODEL_HASH, "the model hash is all zero", "a SHA-256", claims.model_hash.hex())


def measurements(claims: AirClaims) -> Iterator[Fault]:
    """MEAS: registers of 48 bytes, no pcr8 on TDX."""
    found = claims.enclave_measurements
    for slot, value in found.registers().items():
        if len(value) != REGISTER_BYTES:
            yield Fault(Code.BAD_MEASUREMENT_LENGTH, f"{slot} has another length", "48 bytes", f"{len(value)} bytes")
    if found.pcr8 is not None and found.measurement_type == TDX_MRTD_RTMR:
        yield Fault(
            Code.TDX_PCR8_FORBIDDEN, "TDX has no register for pcr8", "no pcr8", found.pcr8[:REGISTER_BYTES].hex()
        )


def measurement_type(claims: AirClaims) -> Iterator[Fault]:
    """MTYPE: one of the two types."""
    value = claims.enclave_measurements.measurement_type
    if value not in MEASUREMENT_TYPES:
        yield _unknown(Code.UNKNOWN_MTYPE, "the measurement type is unknown", MEASUREMENT_TYPES, value)


def model_hash_scheme(claims: AirClaims) -> Iterator[Fault]:
    """MHASH_SCHEME: absent, or one of the three."""
    value = claims.model_hash_scheme
    if value is not None and value not in MODEL_HASH_SCHEMES:
        yield _unknown(Code.UNKNOWN_MODEL_HASH_SCHEME, "the model hash scheme is unknown", MODEL_HASH_SCHEMES, value)


def security_mode(claims: AirClaims, profile: Profile = Profile.STRICT) -> Iterator[Fault]:
    """SECURITY_MODE: one of the two; with compat any text within its bounds."""
    value = claims.security_mode
    if value not in SECURITY_MODES and not (profile is Profile.COMPAT and _within(_MODE, value)):
        yield _unknown(Code.UNKNOWN_SECURITY_MODE, "the security mode is unknown", SECURITY_MODES, value)


def _unknown(code: Code, detail: str, known: frozenset[str], value: str) -> Fault:
    shown = printable(value)
    return Fault(f"{code}:{shown}", detail, " or ".join(sorted(known)), shown)


def _size(value: str | bytes) -> int:
    """Text counts in UTF-8 bytes, not characters."""
    return len(value) if isinstance(value, bytes) else len(value.encode())


def _within(spec: ClaimSpec, value: str) -> bool:
    assert spec.low is not None
    assert spec.high is not None
    return spec.low <= _size(value) <= spec.high
