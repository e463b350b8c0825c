"""The claims of a receipt: air-v1, sections 2 to 4.

`AirClaims` is what a receipt says, typed and nothing more. Holding one means
that every claim has the right type; whether the values keep the bounds of
section 3 is `rules`, whether anybody signed them is `verify`.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cbor2

PROFILE = "https://spec.cyntrisec.com/air/v1"
"""Value of claim 265; a name, never fetched."""

MAX_RECEIPT_BYTES = 65_536
REGISTER_BYTES = 48
HASH_BYTES = 32
CTI_BYTES = 16

SLOTS = ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
"""Registers of the measurement map, in encoded order."""

NITRO_PCR = "nitro-pcr"
TDX_MRTD_RTMR = "tdx-mrtd-rtmr"
MEASUREMENT_TYPES = frozenset((NITRO_PCR, TDX_MRTD_RTMR))
MODEL_HASH_SCHEMES = frozenset(("sha256-single", "sha256-concat", "sha256-manifest"))
PRODUCTION = "production"
EVALUATION = "evaluation"
SECURITY_MODES = frozenset((PRODUCTION, EVALUATION))


class KeyOrder(Enum):
    """The two orders in which receipts have been written."""

    DETERMINISTIC = "deterministic"
    """Ascending by encoded key, as section 2 asks."""
    G0 = "g0"
    """Ascending by number, and the measurement map by text: older receipts (section 8, Profiles)."""


@dataclass(frozen=True, slots=True)
class ClaimSpec:
    """One line of the table of section 3."""

    key: int
    name: str
    kind: type
    """`str`, `bytes`, `int` for an unsigned integer, or `dict` for the measurement map."""
    required: bool = True
    low: int | None = None
    high: int | None = None
    """Inclusive bounds on the length in bytes, where the section states a range."""


CLAIMS = (
    ClaimSpec(1, "iss", str, low=1, high=256),
    ClaimSpec(6, "iat", int),
    ClaimSpec(7, "cti", bytes),
    ClaimSpec(10, "eat_nonce", bytes, required=False, low=8, high=64),
    ClaimSpec(265, "eat_profile", str),
    ClaimSpec(-65537, "model_id", str, low=1, high=256),
    ClaimSpec(-65538, "model_version", str, low=1, high=128),
    ClaimSpec(-65539, "model_hash", bytes),
    ClaimSpec(-65540, "request_hash", bytes),
    ClaimSpec(-65541, "response_hash", bytes),
    ClaimSpec(-65542, "attestation_doc_hash", bytes),
    ClaimSpec(-65543, "enclave_measurements", dict),
    ClaimSpec(-65544, "policy_version", str, low=1, high=256),
    ClaimSpec(-65545, "sequence_number", int),
    ClaimSpec(-65546, "execution_time_ms", int),
    ClaimSpec(-65547, "memory_peak_mb", int),
    ClaimSpec(-65548, "security_mode", str, low=1, high=64),
    ClaimSpec(-65549, "model_hash_scheme", str, required=False, low=1, high=64),
)
"""All claims, in the order in which section 2 encodes them."""

PROFILE_KEY = 265
BY_KEY = {spec.key: spec for spec in CLAIMS}
BY_NAME = {spec.name: spec for spec in CLAIMS}

_G0_CLAIMS = tuple(sorted(CLAIMS, key=lambda spec: spec.key))


@dataclass(frozen=True, slots=True)
class Measurements:
    """The registers of section 4, copied from the evidence."""

    measurement_type: str
    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr3: bytes | None = None
    pcr4: bytes | None = None
    pcr8: bytes | None = None

    def registers(self) -> dict[str, bytes]:
        """Return the registers that are present, by slot, in encoded order."""
        return dict(self._present())

    def _present(self) -> Iterator[tuple[str, bytes]]:
        for slot in SLOTS:
            value = getattr(self, slot)
            if value is not None:
                yield slot, value


@dataclass(frozen=True, slots=True)
class AirClaims:
    """What a receipt says; the fields carry the names of section 3."""

    iss: str
    """Who issues; opaque."""
    iat: int
    """Unix seconds when the response was finished, by the workload's clock."""
    cti: bytes
    """Unique id of the receipt."""
    model_id: str
    """A label, binds nothing."""
    model_version: str
    model_hash: bytes
    """Identity of the model files, read according to `model_hash_scheme`."""
    request_hash: bytes
    """SHA-256 of the request body as the client sent it."""
    response_hash: bytes
    """SHA-256 of the response body as delivered."""
    attestation_doc_hash: bytes
    """SHA-256 of the session's evidence document."""
    enclave_measurements: Measurements
    policy_version: str
    sequence_number: int
    """Counts the receipts of one channel session; informational."""
    execution_time_ms: int
    memory_peak_mb: int
    """MiB, rounded up; 0 means not measured."""
    security_mode: str
    model_hash_scheme: str | None = None
    eat_nonce: bytes | None = None
    """The caller's challenge, byte for byte."""
    eat_profile: str = PROFILE

    @property
    def receipt_id(self) -> str:
        """The id as people read it: a UUID, or bare hex where it has not 16 bytes."""
        return str(uuid.UUID(bytes=self.cti)) if len(self.cti) == CTI_BYTES else self.cti.hex()

    def encode(self, order: KeyOrder = KeyOrder.DETERMINISTIC) -> bytes:
        """Return the payload of section 2.

        cbor2 writes a dict in its own order with shortest heads, so a dict that
        is built in the order of the closed key set comes out deterministic
        without a sort per receipt.
        """
        measurements = self.enclave_measurements
        specs: tuple[ClaimSpec, ...] = CLAIMS
        registers: dict[str, Any]
        if order is KeyOrder.DETERMINISTIC:
            registers = {**measurements.registers(), "measurement_type": measurements.measurement_type}
        else:
            specs = _G0_CLAIMS
            registers = {"measurement_type": measurements.measurement_type, **measurements.registers()}
        payload = {}
        for spec in specs:
            value = getattr(self, spec.name)
            if value is not None:
                payload[spec.key] = value
        payload[-65543] = registers
        return cbor2.dumps(payload)
