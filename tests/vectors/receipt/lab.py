"""Receipts that no emitter would write: every part is given as bytes, and signed as given."""

import hashlib
from collections.abc import Iterable
from typing import Any

import cbor2

from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.receipt import AirClaims, Measurements

KEY = PrivateKey.from_seed(b"\x2a" * 32)
OTHER_KEY = PrivateKey.from_seed(b"\x01" * 32)
PUBLIC = KEY.public.raw
IAT = 1_790_000_000
PROTECTED = bytes.fromhex("a2012703183d")
NONCE = bytes.fromhex("deadbeefcafebabe")
REGISTERS = {slot: bytes([index + 1]) * 48 for index, slot in enumerate(("pcr0", "pcr1", "pcr2"))}


def claims(**changes: Any) -> AirClaims:
    """Return good claims, with *changes*; registers may be changed by slot."""
    registers: dict[str, Any] = {"measurement_type": "nitro-pcr", **REGISTERS}
    for slot in ("measurement_type", "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"):
        if slot in changes:
            registers[slot] = changes.pop(slot)
    values: dict[str, Any] = {
        "iss": "acme",
        "iat": IAT,
        "cti": bytes(range(1, 17)),
        "eat_nonce": NONCE,
        "model_id": "minilm-l6-v2",
        "model_version": "1.0.0",
        "model_hash": b"\xaa" * 32,
        "request_hash": hashlib.sha256(b"request").digest(),
        "response_hash": hashlib.sha256(b"response").digest(),
        "attestation_doc_hash": hashlib.sha256(b"document").digest(),
        "enclave_measurements": Measurements(**registers),
        "policy_version": "policy-1",
        "sequence_number": 7,
        "execution_time_ms": 12,
        "memory_peak_mb": 300,
        "security_mode": "production",
        "model_hash_scheme": "sha256-manifest",
    }
    return AirClaims(**{**values, **changes})


Pairs = list[tuple[Any, Any]]


def pairs(base: AirClaims | None = None) -> Pairs:
    """Return the claims map as pairs in encoded order; the measurement map is a list of pairs too."""
    payload = cbor2.loads((base or claims()).encode())
    return [(key, list(value.items()) if key == -65543 else value) for key, value in payload.items()]


def changed(key: Any, value: Any) -> Pairs:
    """Return the good pairs with another value under *key*, in its place."""
    return [(name, value if name == key else old) for name, old in pairs()]


def without(*keys: Any) -> Pairs:
    """Return the good pairs without *keys*."""
    return [(name, value) for name, value in pairs() if name not in keys]


def registers(change: Any) -> Pairs:
    """Return the good pairs with the measurement map's pairs put through *change*."""
    return [(name, change(list(value)) if name == -65543 else value) for name, value in pairs()]


class Raw(bytes):
    """Bytes that are CBOR already."""


def item(value: Any) -> bytes:
    """Return the encoding of *value*; a list of pairs is a map in that order, duplicates and all."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, list) and value and all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
        return raw_map(value)
    return cbor2.dumps(value)


def raw_map(entries: Iterable[tuple[Any, Any]]) -> bytes:
    """Return a map exactly as given."""
    body = [item(key) + item(value) for key, value in entries]
    return head(5, len(body)) + b"".join(body)


def head(major: int, argument: int) -> bytes:
    """Return a shortest head."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise ValueError(argument)


def bstr(data: bytes) -> bytes:
    """Return a byte string."""
    return head(2, len(data)) + data


def sig_structure(protected: bytes, payload: bytes) -> bytes:
    """Return what is signed, written out as RFC 9052 prints it."""
    return b"\x84\x6aSignature1" + bstr(protected) + b"\x40" + bstr(payload)


def seal(
    payload: bytes | Pairs,
    *,
    protected: bytes = PROTECTED,
    unprotected: bytes = b"\xa0",
    signature: bytes | None = None,
    before: bytes = b"\xd2\x84",
    key: PrivateKey = KEY,
) -> bytes:
    """Return a receipt around *payload*, truthfully signed unless a signature is given."""
    body = payload if isinstance(payload, bytes) else raw_map(payload)
    if signature is None:
        signature = key.sign(sig_structure(protected, body))
    return before + bstr(protected) + unprotected + bstr(body) + bstr(signature)
