"""The reference system's signed model manifest (legacy.md section 3). Read only, never written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.crypto.keys import SIGNATURE_BYTES, PublicKey
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.model.manifest import MAX_TEXT_BYTES

MAX_BYTES = 1 << 20
MAX_URIS = 64
MAX_URI_BYTES = 2_048
HASH_ALGORITHMS = frozenset({"sha256", "sha-256"})

_OPTIONAL = ("tokenizer_hash", "config_hash")
_FIELDS = frozenset(
    {"model_id", "version", "model_hash", "hash_algorithm", "key_id", "gcs_uris", "created_at", "signature", *_OPTIONAL}
)


@dataclass(frozen=True, slots=True)
class LegacyManifest:
    """What such a manifest says, after its signature was checked; only `verify` makes one."""

    model_id: str
    version: str
    """Not necessarily SemVer."""
    model_hash: bytes
    """SHA-256 of the plaintext weights."""
    key_id: str
    tokenizer_hash: bytes | None
    config_hash: bytes | None
    uris: Mapping[str, str]
    """Where the files once lay; nothing is fetched from there."""
    digest: bytes
    """SHA-256 of the manifest as it was read."""
    publisher_key: PublicKey
    """The key, of those allowed, that signed it."""


def verify(data: bytes, *, publisher_keys: Sequence[PublicKey]) -> LegacyManifest:
    """Verify a legacy manifest.

    1. It is one JSON object of the known fields, each of its kind.            MalformedError
    2. One of *publisher_keys* signed its compact form without ``signature``.  UNSIGNED, SIGNATURE_INVALID
    3. Its hashes are SHA-256.                                                 MalformedError

    The format puts no key id beside the signature that anyone checks, so every
    key is tried. An unknown field is refused: the system that signed these did
    not know it either, so no signature covers it.

    Raises:
        MalformedError: Steps 1 and 3.
        RejectedError: Step 2.
    """
    # 1
    document = strict_json.parse_object(data, max_bytes=MAX_BYTES)
    unknown = set(document) - _FIELDS
    if unknown:
        raise MalformedError(f"a legacy manifest has no field {min(unknown)[:64]!a}")
    read: dict[str, Any] = {
        "model_id": _text(document, "model_id"),
        "version": _text(document, "version"),
        "key_id": _text(document, "key_id", least=0),
        "model_hash": _bytes(document, "model_hash", 32),
        "tokenizer_hash": _optional_hash(document, "tokenizer_hash"),
        "config_hash": _optional_hash(document, "config_hash"),
        "uris": _uris(document.get("gcs_uris")),
    }
    if type(document.get("created_at")) not in (str, int):
        raise MalformedError("created_at is neither a text nor a number")
    # 2
    if document.get("signature") in (None, []):
        raise RejectedError("the legacy manifest is not signed", code="UNSIGNED", hint="ask its publisher to sign it")
    signature = _bytes(document, "signature", SIGNATURE_BYTES)
    message = signed_bytes(document)
    signer = next((key for key in publisher_keys if key.verify(signature, message)), None)
    if signer is None:
        raise RejectedError("the legacy manifest is signed by none of the keys given", code="SIGNATURE_INVALID")
    # 3
    algorithm = _text(document, "hash_algorithm")
    if algorithm.lower() not in HASH_ALGORITHMS:
        raise MalformedError(f"hash_algorithm is {algorithm[:32]!a}, only sha256 is known")
    return LegacyManifest(**read, digest=hashlib.sha256(data).digest(), publisher_key=signer)


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """Return what is signed: compact JSON, names sorted, letters as they are, absent optionals left out."""
    signed = {
        name: value
        for name, value in document.items()
        if name != "signature" and not (name in _OPTIONAL and value is None)
    }
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _text(document: dict[str, Any], name: str, *, least: int = 1) -> str:
    value = document.get(name)
    if type(value) is not str or not least <= len(value.encode()) <= MAX_TEXT_BYTES:
        raise MalformedError(f"{name} is no text of {least} to {MAX_TEXT_BYTES} bytes")
    return value


def _bytes(document: dict[str, Any], name: str, length: int) -> bytes:
    """Read an array of *length* integers, which is how the format writes bytes."""
    value = document.get(name)
    if type(value) is not list or len(value) != length:
        raise MalformedError(f"{name} is no list of {length} integers")
    if any(type(item) is not int or not 0 <= item <= 255 for item in value):
        raise MalformedError(f"{name} has items that are no bytes")
    return bytes(value)


def _optional_hash(document: dict[str, Any], name: str) -> bytes | None:
    return None if document.get(name) is None else _bytes(document, name, 32)


def _uris(value: Any) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_URIS:
        raise MalformedError(f"gcs_uris is no object of at most {MAX_URIS} texts")
    if any(type(uri) is not str or len(uri) > MAX_URI_BYTES for uri in value.values()):
        raise MalformedError(f"gcs_uris has a value that is no text of at most {MAX_URI_BYTES} characters")
    return value
