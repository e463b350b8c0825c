"""The Nitro Secure Module's document: bytes to typed fields (attestation section 2, N1 to N3).

Nothing here says whether to believe a document; `verify` does, over the exact
bytes kept beside the fields. The software TEE's documents have the same
structure and are read by the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography import x509

from ephemeralml.attestation.verdict import printable
from ephemeralml.crypto import cbor, cose
from ephemeralml.crypto.x509 import load_der
from ephemeralml.errors import MalformedError

MAX_DOCUMENT_BYTES = 32_768
MAX_PAYLOAD_BYTES = 16_384
MAX_CERTIFICATE_BYTES = 1_024
MAX_CABUNDLE = 8
MAX_MODULE_ID_BYTES = 256
MAX_PUBLIC_KEY_BYTES = 1_024
MAX_USER_DATA_BYTES = 512
MAX_NONCE_BYTES = 512
MAX_PCRS = 32
PCR_BYTES = 48
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

PREFIXES = (b"\x84\x44\xa1\x01\x38\x22", b"\xd2\x84\x44\xa1\x01\x38\x22")
"""How a document begins: untagged as the module emits it, or with tag 18."""

PARSE_FAILED = "NITRO_DOC_PARSE_FAILED"
UNSUPPORTED = "NITRO_DOC_UNSUPPORTED"
FIELD_INVALID = "NITRO_FIELD_INVALID"

_ALLOWED = frozenset(
    {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce"}
)


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A parsed document; nobody has checked its signature."""

    module_id: str
    timestamp_ms: int
    """Milliseconds since 1970, by the hypervisor's clock."""
    pcrs: Mapping[int, bytes]
    certificate: bytes = field(repr=False)
    """The leaf, DER."""
    cabundle: tuple[bytes, ...] = field(repr=False)
    """Root first."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    """The bundle and the leaf, parsed, root first."""
    sign1: cose.Sign1 = field(repr=False)
    """Protected header, payload and signature as received."""

    @property
    def timestamp(self) -> datetime:
        """The document's own signed time."""
        return datetime.fromtimestamp(self.timestamp_ms // 1000, UTC).replace(
            microsecond=self.timestamp_ms % 1000 * 1000
        )

    @property
    def instance_id(self) -> str | None:
        """The part of `module_id` before ``-enc``, or None where there is none."""
        head, separator, _ = self.module_id.rpartition("-enc")
        return head if separator else None

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode, which zeroes PCR0, PCR1 and PCR2 and no others."""
        return any(self.pcrs[index] == bytes(PCR_BYTES) for index in (0, 1, 2))


def parse(document: bytes) -> NitroDocument:
    """Read a document.

    N1. Size, well-formed CBOR at most 8 deep, nothing behind it, an array of
        four, untagged or with tag 18, in the one encoding there is for it.
    N2. ES384 protected header, empty unprotected one, 96 bytes of signature.
    N3. The payload's fields and their sizes; PCR 0, 1 and 2; certificates parse.

    Raises:
        MalformedError: With the step's code.
    """
    sign1 = _envelope(document)
    return _fields(sign1)


def _envelope(document: bytes) -> cose.Sign1:
    try:
        sign1 = cose.parse(document, max_bytes=MAX_DOCUMENT_BYTES, max_depth=8)
    except MalformedError as error:
        raise MalformedError(f"not a COSE_Sign1 document: {error.message}", code=PARSE_FAILED) from error
    if sign1.protected != cose.PROTECTED_ES384:
        raise MalformedError(f"protected header {printable(sign1.protected.hex())}, not ES384 alone", code=UNSUPPORTED)
    if len(sign1.unprotected):
        raise MalformedError("the unprotected header is not empty", code=UNSUPPORTED)
    if len(sign1.signature) != cose.ES384_SIGNATURE_BYTES:
        raise MalformedError(f"a signature of {len(sign1.signature)} bytes, not 96", code=UNSUPPORTED)
    if sign1.payload is None or not 1 <= len(sign1.payload) <= MAX_PAYLOAD_BYTES:
        raise _invalid("payload", f"absent or not of 1 to {MAX_PAYLOAD_BYTES} bytes")
    # The envelope is outside the signature: with one encoding only, no byte of it can be changed
    # without changing what it says, so the document's hash names one document.
    if cose.encode(sign1.protected, sign1.payload, sign1.signature, tagged=sign1.tagged) != document:
        raise MalformedError("the COSE_Sign1 envelope is not deterministically encoded", code=PARSE_FAILED)
    return sign1


def _fields(sign1: cose.Sign1) -> NitroDocument:
    assert sign1.payload is not None
    payload = _payload(sign1.payload)
    if payload.get("digest") != "SHA384":
        raise _invalid("digest", "not SHA384")
    certificate = _bytes(payload, "certificate", 1, MAX_CERTIFICATE_BYTES)
    cabundle = _cabundle(payload.get("cabundle"))
    return NitroDocument(
        module_id=_module_id(payload.get("module_id")),
        timestamp_ms=_timestamp(payload.get("timestamp")),
        pcrs=_pcrs(payload.get("pcrs")),
        certificate=certificate,
        cabundle=cabundle,
        public_key=_optional(payload, "public_key", 1, MAX_PUBLIC_KEY_BYTES),
        user_data=_optional(payload, "user_data", 0, MAX_USER_DATA_BYTES),
        nonce=_optional(payload, "nonce", 0, MAX_NONCE_BYTES),
        chain=(*(_load(der, "cabundle") for der in cabundle), _load(certificate, "certificate")),
        sign1=sign1,
    )


def _payload(raw: bytes) -> dict[Any, Any]:
    try:
        item = cbor.decode_wellformed(raw, max_bytes=MAX_PAYLOAD_BYTES, max_depth=8)
        if not isinstance(item, cbor.Pairs):
            raise _invalid("payload", "not a map")
        payload = item.unique()
    except cbor.CborError as error:
        raise _invalid("payload", error.message) from error
    unknown = next((key for key in payload if type(key) is not str or key not in _ALLOWED), None)
    if unknown is not None:
        raise _invalid(printable(str(unknown)), "no such field in a Nitro document")
    return payload


def _module_id(value: Any) -> str:
    if type(value) is not str or not 1 <= len(value.encode()) <= MAX_MODULE_ID_BYTES:
        raise _invalid("module_id", f"not a text of 1 to {MAX_MODULE_ID_BYTES} bytes")
    return value


def _timestamp(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_TIMESTAMP_MS:
        raise _invalid("timestamp", "not a positive number of milliseconds")
    return value


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not isinstance(value, cbor.Pairs) or not 1 <= len(value) <= MAX_PCRS:
        raise _invalid("pcrs", f"not a map of 1 to {MAX_PCRS} registers")
    registers: dict[int, bytes] = {}
    for index, register in value:
        if type(index) is not int or not 0 <= index < MAX_PCRS or index in registers:
            raise _invalid("pcrs", "an index that is not 0 to 31, or comes twice")
        if type(register) is not bytes or len(register) != PCR_BYTES:
            raise _invalid("pcrs", f"PCR{index} is not {PCR_BYTES} bytes")
        registers[index] = register
    if missing := {0, 1, 2} - registers.keys():
        raise _invalid("pcrs", f"PCR{min(missing)} is missing")
    return MappingProxyType(dict(sorted(registers.items())))


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if type(value) is not tuple or not 1 <= len(value) <= MAX_CABUNDLE:
        raise _invalid("cabundle", f"not an array of 1 to {MAX_CABUNDLE} certificates")
    for der in value:
        if type(der) is not bytes or not 1 <= len(der) <= MAX_CERTIFICATE_BYTES:
            raise _invalid("cabundle", f"a certificate that is not 1 to {MAX_CERTIFICATE_BYTES} bytes")
    return value


def _bytes(payload: dict[Any, Any], name: str, least: int, most: int) -> bytes:
    value = payload.get(name)
    if type(value) is not bytes or not least <= len(value) <= most:
        raise _invalid(name, f"not a byte string of {least} to {most} bytes")
    return value


def _optional(payload: dict[Any, Any], name: str, least: int, most: int) -> bytes | None:
    return None if payload.get(name) is None else _bytes(payload, name, least, most)


@lru_cache(maxsize=128)
def _parsed(der: bytes) -> x509.Certificate:
    """Return a parsed certificate; the CAs of a bundle come again with every document of their instance.

    What is remembered is what the bytes say, and nothing about whether to believe it.
    """
    return load_der(der, max_bytes=MAX_CERTIFICATE_BYTES)


def _load(der: bytes, name: str) -> x509.Certificate:
    try:
        return _parsed(der)
    except MalformedError as error:
        raise _invalid(name, error.message) from error


def _invalid(name: str, why: str) -> MalformedError:
    return MalformedError(f"field {name}: {why}", code=f"{FIELD_INVALID}:{name}")
