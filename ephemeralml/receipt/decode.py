"""Payload bytes to `AirClaims`: the checks CLAIMS_DECODE and EAT_PROFILE of air-v1, section 8."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ephemeralml.attestation.verdict import printable
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import (
    BY_KEY,
    CLAIMS,
    MAX_RECEIPT_BYTES,
    PROFILE,
    PROFILE_KEY,
    SLOTS,
    AirClaims,
    ClaimSpec,
    Measurements,
)
from ephemeralml.receipt.codes import Code, Fault

MAX_PAYLOAD_DEPTH = 4
MAX_ROWS_PER_CHECK = 16

_MEASUREMENTS = "enclave_measurements"
_MEASUREMENTS_KEY = -65543
_MEASUREMENT_KINDS: dict[str, type] = {"measurement_type": str, **dict.fromkeys(SLOTS, bytes)}
_REQUIRED_MEASUREMENTS = ("pcr0", "pcr1", "pcr2", "measurement_type")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Either the claims, or why there are none."""

    claims: AirClaims | None
    faults: tuple[Fault, ...] = ()
    profile_faults: tuple[Fault, ...] = ()
    """Not empty when the map is of another profile; then nothing else was judged."""


def decode_claims(payload: bytes) -> Decoded:
    """Read the claims map.

    Faults come in the order of the table: what is no map; repeated keys;
    unknown keys; missing claims; wrong types; at most 16. A map of another
    profile is that fault alone.
    """
    try:
        item = cbor.decode_wellformed(payload, max_bytes=MAX_RECEIPT_BYTES, max_depth=MAX_PAYLOAD_DEPTH)
    except MalformedError as error:
        return Decoded(None, (Fault(Code.PAYLOAD_NOT_MAP, error.message),))
    if not isinstance(item, cbor.Pairs):
        return Decoded(None, (Fault(Code.PAYLOAD_NOT_MAP, f"the payload is {_kind(item)}, not a map"),))
    profile_faults = tuple(_profile_faults(item))
    if profile_faults:
        return Decoded(None, profile_faults=profile_faults)
    values = _claims(item)
    if values is not None:
        return Decoded(values)
    faults = tuple(islice(_faults(item), MAX_ROWS_PER_CHECK))
    return Decoded(None, faults)


def _claims(item: cbor.Pairs) -> AirClaims | None:
    """Return the claims of a faultless map, else None."""
    values: dict[str, Any] = {}
    for key, value in item.items:
        spec = BY_KEY.get(key) if type(key) is int else None
        if spec is None or spec.name in values or not _fits(spec, value):
            return None
        values[spec.name] = value
    if any(spec.required and spec.name not in values for spec in CLAIMS):
        return None
    registers: dict[str, Any] = {}
    for key, value in values[_MEASUREMENTS].items:
        kind = _MEASUREMENT_KINDS.get(key) if type(key) is str else None
        if kind is None or key in registers or type(value) is not kind:
            return None
        registers[key] = value
    if any(name not in registers for name in _REQUIRED_MEASUREMENTS):
        return None
    values[_MEASUREMENTS] = Measurements(**registers)
    return AirClaims(**values)


def _fits(spec: ClaimSpec, value: Any) -> bool:
    if spec.kind is int:
        return type(value) is int and value >= 0
    if spec.kind is dict:
        return type(value) is cbor.Pairs
    return type(value) is spec.kind


def _profile_faults(item: cbor.Pairs) -> Iterator[Fault]:
    """EAT_PROFILE: the map names a profile, and never this one."""
    named = [value for key, value in item.items if type(key) is int and key == PROFILE_KEY and type(value) is str]
    if named and PROFILE not in named:
        yield Fault(Code.WRONG_PROFILE, "the receipt is of another profile", PROFILE, printable(named[0]))


def _faults(item: cbor.Pairs) -> Iterator[Fault]:
    registers = next(
        (v for k, v in item.items if type(k) is int and k == _MEASUREMENTS_KEY and type(v) is cbor.Pairs), None
    )
    yield from _duplicates(item, "")
    if registers is not None:
        yield from _duplicates(registers, f"{_MEASUREMENTS}.")
    for key, _ in item.items:
        if type(key) is not int or key not in BY_KEY:
            yield Fault(f"{Code.UNKNOWN_CLAIM}:{_show(key)}", "version 1 has no such claim")
    if registers is not None:
        for key, _ in registers.items:
            if type(key) is not str or key not in _MEASUREMENT_KINDS:
                yield Fault(f"{Code.UNKNOWN_MEASUREMENT}:{_show(key)}", "version 1 has no such measurement")
    yield from _missing(item, registers)
    yield from _wrong_types(item, registers)


def _duplicates(item: cbor.Pairs, prefix: str) -> Iterator[Fault]:
    seen: set[tuple[type, Any]] = set()
    reported: set[tuple[type, Any]] = set()
    for key, _ in item.items:
        identity = cbor.key_identity(key)
        if identity in seen and identity not in reported:
            reported.add(identity)
            spec = BY_KEY.get(key) if type(key) is int and not prefix else None
            name = spec.name if spec else _show(key)
            yield Fault(Code.DUPLICATE_KEY, f"the key {prefix}{name} occurs more than once")
        seen.add(identity)


def _missing(item: cbor.Pairs, registers: cbor.Pairs | None) -> Iterator[Fault]:
    present = {key for key, _ in item.items if type(key) is int}
    for spec in CLAIMS:
        if spec.required and spec.key not in present:
            yield Fault(f"{Code.MISSING_CLAIM}:{spec.name}", "a required claim is not there")
        if spec.name == _MEASUREMENTS and registers is not None:
            slots = {key for key, _ in registers.items if type(key) is str}
            for name in _REQUIRED_MEASUREMENTS:
                if name not in slots:
                    yield Fault(f"{Code.MISSING_CLAIM}:{_MEASUREMENTS}.{name}", "a required measurement is not there")


def _wrong_types(item: cbor.Pairs, registers: cbor.Pairs | None) -> Iterator[Fault]:
    wrong = {
        key: value for key, value in item.items if type(key) is int and key in BY_KEY and not _fits(BY_KEY[key], value)
    }
    for spec in CLAIMS:
        if spec.key in wrong:
            yield _wrong_type(spec.name, spec.kind, wrong[spec.key])
        if spec.name == _MEASUREMENTS and registers is not None:
            for name, kind in _MEASUREMENT_KINDS.items():
                bad = [v for k, v in registers.items if type(k) is str and k == name and type(v) is not kind]
                if bad:
                    yield _wrong_type(f"{_MEASUREMENTS}.{name}", kind, bad[0])


_WANTED = {str: "a text string", bytes: "a byte string", int: "an unsigned integer", dict: "a map"}


def _wrong_type(name: str, kind: type, value: Any) -> Fault:
    return Fault(f"{Code.WRONG_TYPE}:{name}", f"{name} has the wrong type", _WANTED[kind], _kind(value))


def _kind(value: Any) -> str:
    """Return what *value* is, in CBOR's terms."""
    if type(value) is int:
        return "an unsigned integer" if value >= 0 else "a negative integer"
    if isinstance(value, cbor.Tag):
        return f"tag {value.number}"
    names = {
        bool: "a boolean",
        bytes: "a byte string",
        str: "a text string",
        float: "a floating-point number",
        tuple: "an array",
        cbor.Pairs: "a map",
        type(None): "null",
    }
    return names.get(type(value), "a simple value")


def _show(key: Any) -> str:
    """Return a key from the receipt as it may stand in a code."""
    if type(key) is int:
        return str(key)
    if type(key) is str:
        return printable(key)
    if type(key) is bytes:
        return printable(f"h'{key[:MAX_ROWS_PER_CHECK].hex()}'")
    return _kind(key)
