"""What an attester does: evidence for one session, registers for the boot report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format, MeasurementType


@dataclass(frozen=True, slots=True)
class SessionEvidence:
    """One session's evidence and what its receipts copy from it (air-v1 section 11)."""

    evidence: Evidence
    registers: Mapping[str, bytes] = field(repr=False)
    """Receipt slot to register, read from this very document."""
    measurement_type: MeasurementType
    debug: bool
    """Whether PCR0, PCR1 or PCR2 is zero, as a debug enclave's are."""
    digest: bytes = b""
    """SHA-256 of the document, computed once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self.evidence.digest)


class Attester(Protocol):
    """The TEE's own word about itself. Calls block and may come from several threads."""

    @property
    def format(self) -> Format:
        """The evidence format that clients must accept."""

    @property
    def software(self) -> bool:
        """Whether no hardware stands behind the evidence."""

    def attest(self, binding: ExpectedBinding) -> SessionEvidence:
        """Make evidence that carries *binding*.

        Raises:
            UnavailableError: The device does not answer, or refuses.
            MalformedError: What it answered is not evidence.
        """

    def attest_release(self, *, public_key: bytes, user_data: bytes, nonce: bytes) -> bytes:
        """Make the document for a key release, with these very fields (key-release section 2).

        No channel is bound in it, so no client accepts it as a session's.

        Raises:
            UnavailableError: The device does not answer, refuses, or did not bind.
            MalformedError: What it answered is no document.
        """

    def close(self) -> None:
        """Release the device. Not to be used afterwards."""
