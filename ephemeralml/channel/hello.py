"""Payloads of the handshake and of alerts (channel sections 1 and 2).

Deterministic CBOR maps with integer keys. All maps but client_hello's
extensions are closed: an unknown key is an error. What was received is kept
beside what it says, since transcripts are over the bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from ephemeralml.channel.fields import closed_map, exact_bytes, integer, open_map, text
from ephemeralml.channel.frames import LIMITS, MAX_PLAINTEXT, FrameType
from ephemeralml.channel.suites import Suite
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError, RejectedError

NONCE_BYTES = 32
SESSION_ID_BYTES = 16
RECEIPT_KEY_BYTES = 32
HASH_BYTES = 32
CONFIRMATION_BYTES = 32
MIN_RECORD = 64
"""A smaller max_record could not carry a body message with its overhead."""
MAX_HELLO_ITEMS = 1_024
"""Most CBOR items of a client_hello: anyone may send one, and reading takes time."""
MAX_ALERT_TEXT = 200
"""Most UTF-8 bytes of an alert's text."""
GPU_ENDORSEMENT = "nvidia-gpu"
"""Name under which GPU evidence travels."""

_NO_EXTENSIONS: Mapping[int, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What the client proposes."""

    suites: tuple[int, ...]
    """In order of preference; may hold numbers we do not know."""
    nonce: bytes
    formats: tuple[str, ...]
    """Evidence formats that the client takes; may hold names we do not know."""
    extensions: Mapping[int, Any] = field(default_factory=lambda: _NO_EXTENSIONS)

    def encode(self) -> bytes:
        """Return the frame's payload."""
        fields: dict[int, Any] = {1: self.suites, 2: self.nonce, 3: self.formats}
        if self.extensions:
            fields[4] = self.extensions
        return cbor.encode(fields)

    @classmethod
    def decode(cls, payload: bytes) -> "ClientHello":
        """Read a frame's payload.

        Empty lists are read as such: each has its own alert (channel section 7, Suite).

        Raises:
            MalformedError: Not such a map.
        """
        fields = closed_map(_decode(payload, FrameType.CLIENT_HELLO), {1, 2, 3}, {4}, "client_hello")
        return cls(
            tuple(integer(suite, "a suite") for suite in _array(fields[1], "suites")),
            exact_bytes(fields[2], NONCE_BYTES, "the client's nonce"),
            tuple(text(name, "an evidence format") for name in _array(fields[3], "evidence formats")),
            MappingProxyType(open_map(fields[4], "extensions")) if 4 in fields else _NO_EXTENSIONS,
        )


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that the runtime serves."""

    id: str
    version: str
    hash: bytes
    scheme: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What runs in the TEE, in its own words; the binding covers it."""

    runtime_version: str
    security_mode: str
    models: tuple[ModelEntry, ...]
    config_digest: bytes
    gpu_evidence_digest: bytes | None = None
    """SHA-256 of the GPU evidence document, None without a GPU."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """The deterministic encoding, which is also what was received."""

    def __post_init__(self) -> None:
        fields: dict[int, Any] = {
            1: self.runtime_version,
            2: self.security_mode,
            3: [[model.id, model.version, model.hash, model.scheme] for model in self.models],
            4: self.config_digest,
        }
        if self.gpu_evidence_digest is not None:
            fields[5] = self.gpu_evidence_digest
        object.__setattr__(self, "encoded", cbor.encode(fields))

    @classmethod
    def decode(cls, encoded: bytes) -> "Identity":
        """Read an encoded identity.

        Raises:
            MalformedError: Not such a map, or one model is listed twice.
        """
        fields = closed_map(_decode(encoded, FrameType.SERVER_HELLO), {1, 2, 3, 4}, {5}, "the identity")
        models = tuple(_model(entry) for entry in _array(fields[3], "models"))
        if len({(model.id, model.version) for model in models}) != len(models):
            raise MalformedError("the identity lists one version of a model twice")
        return cls(
            text(fields[1], "the runtime version"),
            text(fields[2], "the security mode"),
            models,
            exact_bytes(fields[4], HASH_BYTES, "the config digest"),
            exact_bytes(fields[5], HASH_BYTES, "the GPU evidence digest") if 5 in fields else None,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may ask of the runtime."""

    max_record: int = MAX_PLAINTEXT
    """Most plaintext bytes of a record, in both directions."""
    max_inflight: int = 32
    """Most streams between their request and their end."""
    idle_seconds: int = 300
    """How long a session without a stream in flight lives."""
    max_body: int = 16 << 20
    """Most bytes of a request's body."""

    def __post_init__(self) -> None:
        if not MIN_RECORD <= self.max_record <= MAX_PLAINTEXT:
            raise MalformedError(f"max_record is {self.max_record}, not {MIN_RECORD}..{MAX_PLAINTEXT}")
        if min(self.max_inflight, self.idle_seconds, self.max_body) < 0 or not self.max_inflight:
            raise MalformedError("max_inflight is 0, or a limit is negative")

    def encode(self) -> bytes:
        """Return the encoded map, which the binding covers."""
        return cbor.encode(self.fields())

    def fields(self) -> dict[int, int]:
        """Return the map."""
        return {1: self.max_record, 2: self.max_inflight, 3: self.idle_seconds, 4: self.max_body}

    @classmethod
    def parse(cls, value: Any) -> "Limits":
        """Read the decoded map.

        Raises:
            MalformedError: Not such a map, or a limit that allows nothing.
        """
        fields = closed_map(value, {1, 2, 3, 4}, set(), "limits")
        return cls(*(integer(fields[key], f"limit {key}") for key in (1, 2, 3, 4)))


@dataclass(frozen=True, slots=True)
class EvidenceField:
    """Evidence as it travels; its format may be a name that we do not know."""

    format: str
    document: bytes = field(repr=False)
    endorsements: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def fields(self) -> dict[int, Any]:
        """Return the map; empty endorsements are left out."""
        fields: dict[int, Any] = {1: self.format, 2: self.document}
        if self.endorsements:
            fields[3] = self.endorsements
        return fields

    @classmethod
    def parse(cls, value: Any) -> "EvidenceField":
        """Read the decoded map.

        Raises:
            MalformedError: Not such a map.
        """
        fields = closed_map(value, {1, 2}, {3}, "the evidence")
        if type(fields[2]) is not bytes:
            raise MalformedError("the evidence document is not bytes")
        endorsements = fields.get(3, {})
        if type(endorsements) is not dict:
            raise MalformedError("endorsements are not a map")
        for name, content in endorsements.items():
            text(name, "an endorsement's name")
            if type(content) is not bytes:
                raise MalformedError("an endorsement is not bytes")
        return cls(text(fields[1], "the evidence format"), fields[2], MappingProxyType(endorsements))


@dataclass(frozen=True, slots=True)
class ServerHello:
    """The server's choice, its keys, and evidence for them."""

    suite: Suite
    session_id: bytes
    kem_public_key: bytes = field(repr=False)
    receipt_public_key: bytes
    identity: Identity
    limits: Limits
    evidence: EvidenceField

    def encode(self) -> bytes:
        """Return the frame's payload."""
        return cbor.encode(
            {
                1: int(self.suite),
                2: self.session_id,
                3: self.kem_public_key,
                4: self.receipt_public_key,
                5: self.identity.encoded,
                6: self.limits.fields(),
                7: self.evidence.fields(),
            }
        )

    @classmethod
    def decode(cls, payload: bytes, *, offered: Iterable[int]) -> "ServerHello":
        """Read a frame's payload.

        Args:
            payload: The bytes.
            offered: The suites of the client_hello that it answers.

        Raises:
            MalformedError: Not such a map, or a size that the suite does not have.
            RejectedError: A suite that was not offered (code CHANNEL_SUITE).
        """
        fields = closed_map(_decode(payload, FrameType.SERVER_HELLO), {1, 2, 3, 4, 5, 6, 7}, set(), "server_hello")
        number = integer(fields[1], "the suite")
        if number not in set(offered) or number not in set(Suite):
            raise RejectedError("the server chose a suite that was not offered", code="CHANNEL_SUITE", actual=number)
        suite = Suite(number)
        if type(fields[5]) is not bytes:
            raise MalformedError("the identity is not bytes")
        return cls(
            suite,
            exact_bytes(fields[2], SESSION_ID_BYTES, "the session id"),
            exact_bytes(fields[3], suite.public_key_bytes, "the KEM public key"),
            exact_bytes(fields[4], RECEIPT_KEY_BYTES, "the receipt public key"),
            Identity.decode(fields[5]),
            Limits.parse(fields[6]),
            EvidenceField.parse(fields[7]),
        )


@dataclass(frozen=True, slots=True)
class ClientFinish:
    """The sealed session secret and the client's confirmation."""

    sealed: bytes = field(repr=False)
    confirmation: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the frame's payload."""
        return cbor.encode({1: self.sealed, 2: self.confirmation})

    @classmethod
    def decode(cls, payload: bytes, *, suite: Suite) -> "ClientFinish":
        """Read a frame's payload.

        Raises:
            MalformedError: Not such a map, or a size that *suite* does not have.
        """
        fields = closed_map(_decode(payload, FrameType.CLIENT_FINISH), {1, 2}, set(), "client_finish")
        return cls(
            exact_bytes(fields[1], suite.sealed_bytes, "the sealed session secret"),
            exact_bytes(fields[2], CONFIRMATION_BYTES, "the client's confirmation"),
        )


@dataclass(frozen=True, slots=True)
class ServerFinish:
    """The server's confirmation."""

    confirmation: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the frame's payload."""
        return cbor.encode({1: self.confirmation})

    @classmethod
    def decode(cls, payload: bytes) -> "ServerFinish":
        """Read a frame's payload.

        Raises:
            MalformedError: Not such a map.
        """
        fields = closed_map(_decode(payload, FrameType.SERVER_FINISH), {1}, set(), "server_finish")
        return cls(exact_bytes(fields[1], CONFIRMATION_BYTES, "the server's confirmation"))


class AlertCode(IntEnum):
    """Why a side gives up before the channel is established."""

    MALFORMED = 1
    VERSION = 2
    NO_COMMON_SUITE = 3
    NO_COMMON_FORMAT = 4
    BUSY = 5
    TIMEOUT = 6
    EVIDENCE_UNAVAILABLE = 7
    INTERNAL = 8


@dataclass(frozen=True, slots=True)
class Alert:
    """An unauthenticated hint for people, who are told that it is one."""

    code: int
    text: str

    def encode(self) -> bytes:
        """Return the frame's payload, the text cut to what may be said."""
        cut = self.text.encode()[:MAX_ALERT_TEXT].decode(errors="ignore")
        return cbor.encode({1: int(self.code), 2: cut})

    @classmethod
    def decode(cls, payload: bytes) -> "Alert":
        """Read a frame's payload.

        Raises:
            MalformedError: Not such a map, or a longer text.
        """
        fields = closed_map(_decode(payload, FrameType.ALERT), {1, 2}, set(), "an alert")
        content = text(fields[2], "an alert's text")
        if len(content.encode()) > MAX_ALERT_TEXT:
            raise MalformedError(f"an alert's text of more than {MAX_ALERT_TEXT} bytes")
        return cls(integer(fields[1], "an alert's code"), content)

    def describe(self) -> str:
        """Return one line for people: printable ASCII, marked as unverified."""
        name = AlertCode(self.code).name.lower().replace("_", " ") if self.code in set(AlertCode) else "unknown"
        said = "".join(c if c.isascii() and c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in self.text)
        return f'unauthenticated alert {self.code} ({name}): "{said}"'


def _decode(payload: bytes, kind: FrameType) -> Any:
    items = cbor.MAX_ITEMS if kind is FrameType.SERVER_HELLO else MAX_HELLO_ITEMS
    return cbor.decode(payload, max_bytes=LIMITS[kind], max_items=items)


def _array(value: Any, what: str) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise MalformedError(f"{what} are not an array")
    return value


def _model(value: Any) -> ModelEntry:
    entry = _array(value, "a model's fields")
    if len(entry) != 4:
        raise MalformedError(f"a model entry of {len(entry)} fields, not 4")
    return ModelEntry(
        text(entry[0], "a model's id"),
        text(entry[1], "a model's version"),
        exact_bytes(entry[2], HASH_BYTES, "a model's hash"),
        text(entry[3], "a model's hash scheme"),
    )
