"""Evidence as it travels: which format, which bytes, what was expected of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Self

from ephemeralml.attestation.verdict import Assurance
from ephemeralml.errors import MalformedError


class Format(Enum):
    """Names of evidence formats (attestation section 1)."""

    NITRO = "nitro"
    LOCAL = "local"
    TDX = "tdx"
    GCP_CS = "gcp-cs"
    NVIDIA_GPU = "nvidia-gpu"


class MeasurementType(Enum):
    """Names of register layouts in receipts (air-v1 section 4)."""

    NITRO_PCR = "nitro-pcr"
    TDX_MRTD_RTMR = "tdx-mrtd-rtmr"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A document as obtained, with helpful but untrusted extras."""

    format: Format
    document: bytes = field(repr=False)
    endorsements: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the document, which a receipt's `attestation_doc_hash` states."""
        return hashlib.sha256(self.document).digest()


@dataclass(frozen=True, slots=True)
class ExpectedBinding:
    """What the evidence must carry; live sessions know all three."""

    receipt_key: bytes
    """The 32 bytes of the Ed25519 key that signs receipts."""
    channel_binding: bytes | None = None
    """32 bytes (channel section 2), or None where an archive lacks it."""
    nonce: bytes | None = None
    """The caller's nonce, or None where an archive lacks it."""

    def __post_init__(self) -> None:
        if len(self.receipt_key) != 32:
            raise MalformedError(f"a receipt key has 32 bytes, not {len(self.receipt_key)}")
        if self.channel_binding is not None and len(self.channel_binding) != 32:
            raise MalformedError(f"a channel binding has 32 bytes, not {len(self.channel_binding)}")


class TimeBasis(Enum):
    """Where the instant of an appraisal comes from (attestation section 1)."""

    NOW = "now"
    DOCUMENT = "document"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class AppraisalTime:
    """The instant at which certificates and collateral are judged.

    With basis DOCUMENT, `instant` is None until the verifier has read the
    document's own signed time.
    """

    basis: TimeBasis
    instant: datetime | None
    source: str
    """``clock``, ``argument``, ``nitro.timestamp``, ``receipt.iat`` …"""

    @classmethod
    def now(cls, instant: datetime) -> Self:
        """Return the time of a live session: *instant*, which the caller read from the clock."""
        return cls(TimeBasis.NOW, instant, "clock")

    @classmethod
    def of_document(cls) -> Self:
        """Return the time of an archive: whatever the document's own signed time is."""
        return cls(TimeBasis.DOCUMENT, None, "document")

    @classmethod
    def given(cls, instant: datetime) -> Self:
        """Return the time of an audit: *instant*, as somebody named it."""
        return cls(TimeBasis.GIVEN, instant, "argument")


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Evidence that passed everything policy and options required.

    Only `Appraisal.require` makes one.
    """

    format: Format
    digest: bytes
    """SHA-256 of the document."""
    receipt_key: bytes
    """The Ed25519 key that the document binds."""
    measurement_type: MeasurementType | None
    registers: Mapping[str, bytes]
    """Receipt slot (``pcr0`` …) to 48 bytes."""
    software: bool
    """True for a software TEE: nothing here is protected from its machine."""
    debug: bool
    assurance: Assurance
    at: AppraisalTime
