"""Issuing a receipt: air-v1, section 11."""

from itertools import chain
from typing import Any

from ephemeralml.crypto import cose
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from ephemeralml.receipt import rules
from ephemeralml.receipt.claims import CLAIMS, PROFILE, SLOTS, AirClaims, Measurements
from ephemeralml.receipt.codes import Code
from ephemeralml.receipt.envelope import PROTECTED

_MAX_UINT = (1 << 64) - 1


def issue(claims: AirClaims, key: PrivateKey) -> bytes:
    """Return the signed receipt that states *claims*.

    The same claims and key always give the same bytes. That the claims are
    true is the caller's duty; that they keep every rule of sections 3 and 4 is
    checked here, and a set that breaks one is refused, never repaired.

    Raises:
        MalformedError: A claim breaks a rule; the code is that of section 9.
    """
    check(claims)
    payload = claims.encode()
    return cose.encode(PROTECTED, payload, cose.sign_eddsa(key, PROTECTED, payload), tagged=True)


def check(claims: AirClaims) -> None:
    """Refuse claims that break a rule of sections 3 and 4; errors as `issue`."""
    _refuse_types(claims)
    found = chain(
        rules.cti(claims),
        rules.bounds(claims),
        rules.model_hash(claims),
        rules.measurements(claims),
        rules.measurement_type(claims),
        rules.model_hash_scheme(claims),
        rules.security_mode(claims),
    )
    for fault in found:
        raise MalformedError(f"no receipt can state this: {fault.detail}", code=fault.code)


def _refuse_types(claims: AirClaims) -> None:
    """Refuse values that Python took and CBOR would write as another type: True, a float, a bytearray."""
    for spec in CLAIMS:
        value = getattr(claims, spec.name)
        if value is None and not spec.required:
            continue
        if spec.kind is int:
            fits = type(value) is int and 0 <= value <= _MAX_UINT
        else:
            fits = type(value) is (Measurements if spec.kind is dict else spec.kind)
        if not fits:
            raise _wrong_type(spec.name)
    if claims.eat_profile != PROFILE:
        raise MalformedError("no receipt can state this: another profile", code=Code.WRONG_PROFILE)
    _refuse_register_types(claims.enclave_measurements)


def _refuse_register_types(measurements: Measurements) -> None:
    if type(measurements.measurement_type) is not str:
        raise _wrong_type("enclave_measurements.measurement_type")
    for slot in SLOTS:
        value: Any = getattr(measurements, slot)
        if type(value) is not bytes and (value is not None or slot in ("pcr0", "pcr1", "pcr2")):
            raise _wrong_type(f"enclave_measurements.{slot}")


def _wrong_type(name: str) -> MalformedError:
    return MalformedError(f"no receipt can state this: {name} has the wrong type", code=f"{Code.WRONG_TYPE}:{name}")
