"""The file beside a receipt that says which session it came from (attestation section 1).

``RECEIPT.json``, schema ``ephemeralml.evidence/1``. Nothing in it is signed: it
supplies values to compare and to recompute from, and proves nothing by itself.
Hashes and keys are hex, other byte strings base64.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ephemeralml.attestation.binding import channel_binding
from ephemeralml.attestation.evidence import ExpectedBinding, Format
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError

SCHEMA = "ephemeralml.evidence/1"
MAX_SIDECAR_BYTES = 8 * 1024 * 1024
MAX_FIELD_BYTES = 3 * 1024 * 1024
MAX_ENDORSEMENTS = 16

_FIELDS = frozenset(
    {
        "schema",
        "format",
        "document_sha256",
        "receipt_public_key",
        "channel_binding",
        "nonce",
        "binding_inputs",
        "endorsements",
        "verdict",
        "request_hash",
        "response_hash",
    }
)
_INPUTS = frozenset({"client_hello", "suite", "session_id", "kem_public_key", "identity", "limits"})


@dataclass(frozen=True, slots=True)
class BindingInputs:
    """What a channel binding is computed from, but the receipt key (channel section 2)."""

    client_hello: bytes = field(repr=False)
    suite: int
    session_id: bytes
    kem_public_key: bytes = field(repr=False)
    identity: bytes = field(repr=False)
    limits: bytes

    def channel_binding(self, receipt_key: bytes) -> bytes:
        """Return the binding that these inputs and *receipt_key* give."""
        return channel_binding(
            client_hello=self.client_hello,
            suite=self.suite,
            session_id=self.session_id,
            kem_public_key=self.kem_public_key,
            receipt_key=receipt_key,
            identity=self.identity,
            limits=self.limits,
        )


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A sidecar's claims; unsigned, to be compared and never believed."""

    format: Format
    document_sha256: bytes
    receipt_public_key: bytes
    channel_binding: bytes | None = None
    nonce: bytes | None = None
    binding_inputs: BindingInputs | None = None
    endorsements: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    verdict: str | None = None
    """What the client found live."""
    request_hash: bytes | None = None
    response_hash: bytes | None = None

    @property
    def recomputed(self) -> bool:
        """Whether the channel binding can be recomputed, rather than only compared."""
        return self.binding_inputs is not None

    def expected(self) -> ExpectedBinding:
        """Return what the document must carry.

        The binding is the one recomputed from the inputs where there are any.

        Raises:
            MalformedError: Inputs and the stated binding disagree.
        """
        binding = self.channel_binding
        if self.binding_inputs is not None:
            recomputed = self.binding_inputs.channel_binding(self.receipt_public_key)
            if binding is not None and binding != recomputed:
                raise MalformedError("the sidecar's channel_binding is not that of its binding_inputs")
            binding = recomputed
        return ExpectedBinding(self.receipt_public_key, binding, self.nonce)

    def encode(self) -> bytes:
        """Return the file's bytes."""
        inputs = self.binding_inputs
        document = {
            "schema": SCHEMA,
            "format": self.format.value,
            "document_sha256": self.document_sha256.hex(),
            "receipt_public_key": self.receipt_public_key.hex(),
            "channel_binding": self.channel_binding.hex() if self.channel_binding is not None else None,
            "nonce": _text(self.nonce),
            "binding_inputs": None
            if inputs is None
            else {
                "client_hello": _text(inputs.client_hello),
                "suite": inputs.suite,
                "session_id": _text(inputs.session_id),
                "kem_public_key": inputs.kem_public_key.hex(),
                "identity": _text(inputs.identity),
                "limits": _text(inputs.limits),
            },
            "endorsements": {name: _text(value) for name, value in self.endorsements.items()},
            "verdict": self.verdict,
            "request_hash": self.request_hash.hex() if self.request_hash is not None else None,
            "response_hash": self.response_hash.hex() if self.response_hash is not None else None,
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def parse(data: bytes) -> Sidecar:
    """Read a sidecar.

    Raises:
        MalformedError: Not JSON of this schema, an unknown field, a value of a
            wrong type, length or encoding.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_SIDECAR_BYTES)
    if document.get("schema") != SCHEMA:
        raise _invalid("schema", f"not {SCHEMA}")
    if unknown := document.keys() - _FIELDS:
        raise _invalid(repr(min(unknown)[:64]), "not a field of this schema")
    verdict = document.get("verdict")
    if verdict is not None and (type(verdict) is not str or len(verdict) > 32):
        raise _invalid("verdict", "not a short text")
    return Sidecar(
        format=_format(document.get("format")),
        document_sha256=_hex(document, "document_sha256", 32),
        receipt_public_key=_hex(document, "receipt_public_key", 32),
        channel_binding=_optional_hex(document, "channel_binding"),
        nonce=_optional_bytes(document, "nonce"),
        binding_inputs=_inputs(document.get("binding_inputs")),
        endorsements=_endorsements(document.get("endorsements")),
        verdict=verdict,
        request_hash=_optional_hex(document, "request_hash"),
        response_hash=_optional_hex(document, "response_hash"),
    )


def _format(value: Any) -> Format:
    for candidate in Format:
        if value == candidate.value:
            return candidate
    raise _invalid("format", "no evidence format")


def _inputs(value: Any) -> BindingInputs | None:
    if value is None:
        return None
    if type(value) is not dict or value.keys() != _INPUTS:
        raise _invalid("binding_inputs", f"not an object of {', '.join(sorted(_INPUTS))}")
    suite = value["suite"]
    if type(suite) is not int or not 0 <= suite <= 0xFFFF:
        raise _invalid("suite", "not a 16-bit number")
    return BindingInputs(
        client_hello=_base64(value["client_hello"], "client_hello"),
        suite=suite,
        session_id=_base64(value["session_id"], "session_id"),
        kem_public_key=_hex(value, "kem_public_key", None),
        identity=_base64(value["identity"], "identity"),
        limits=_base64(value["limits"], "limits"),
    )


def _endorsements(value: Any) -> Mapping[str, bytes]:
    if value is None:
        return MappingProxyType({})
    if type(value) is not dict or len(value) > MAX_ENDORSEMENTS or any(len(name) > 64 for name in value):
        raise _invalid("endorsements", "not an object of at most 16 short names")
    return MappingProxyType({name: _base64(item, "endorsements") for name, item in value.items()})


def _hex(values: Mapping[str, Any], name: str, size: int | None) -> bytes:
    value = values.get(name)
    if type(value) is not str or len(value) % 2 or not set(value) <= set("0123456789abcdef"):
        raise _invalid(name, "not lower-case hex")
    if len(value) > 2 * MAX_FIELD_BYTES or (size is not None and len(value) != 2 * size):
        raise _invalid(name, "of a wrong length")
    return bytes.fromhex(value)


def _optional_hex(values: Mapping[str, Any], name: str) -> bytes | None:
    return None if values.get(name) is None else _hex(values, name, 32)


def _optional_bytes(values: Mapping[str, Any], name: str) -> bytes | None:
    return None if values.get(name) is None else _base64(values[name], name)


def _text(value: bytes | None) -> str | None:
    return base64.b64encode(value).decode() if value is not None else None


def _base64(value: Any, name: str) -> bytes:
    if type(value) is not str or len(value) > MAX_FIELD_BYTES * 4 // 3 + 4:
        raise _invalid(name, "not a base64 text")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(name, "not base64") from error
    if base64.b64encode(raw).decode() != value:
        raise _invalid(name, "not canonical base64")
    return raw


def _invalid(name: str, why: str) -> MalformedError:
    return MalformedError(f"sidecar field {name}: {why}")
