"""The receipts of one session (air-v1 section 11)."""

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.keys import ReceiptKey
from ephemeralml.enclave.models import SCHEME, ServedModel
from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.template import ReceiptTemplate, Variable

_ZERO = bytes(32)


@dataclass(frozen=True, slots=True)
class ReceiptIssuer:
    """What all receipts of a boot have in common."""

    key: ReceiptKey
    issuer: str
    policy_version: str
    security_mode: str
    """The identity's; ``evaluation`` for a software TEE and a debug enclave, whatever the configuration says."""
    unix_time: Callable[[], int] = field(repr=False)
    """Seconds since 1970 by the workload's clock."""

    def for_session(self, evidence: SessionEvidence) -> "SessionReceipts":
        """Return the receipts of the session whose evidence is *evidence*."""
        return SessionReceipts(self, evidence)


class SessionReceipts:
    """Issues one session's receipts, numbered in the order of their ``end`` messages."""

    __slots__ = ("_boot", "_document_hash", "_measurements", "_templates", "issued")

    def __init__(self, boot: ReceiptIssuer, evidence: SessionEvidence) -> None:
        self._boot = boot
        self._document_hash = evidence.digest
        self._measurements = Measurements(evidence.measurement_type.value, **evidence.registers)
        self._templates: dict[ServedModel, ReceiptTemplate] = {}
        self.issued = 0
        """How many receipts there are; the next one's sequence number."""

    def prepare(self, model: ServedModel) -> None:
        """Check and encode what all of the session's receipts about *model* share, before one is due."""
        if model not in self._templates:
            self._templates[model] = self._template(model)

    def issue(
        self,
        model: ServedModel,
        *,
        request_hash: bytes,
        response_hash: bytes,
        nonce: bytes | None,
        execution_ms: int,
    ) -> bytes:
        """Return the receipt of one finished request and count it."""
        self.prepare(model)
        values = Variable(
            iat=self._boot.unix_time(),
            cti=os.urandom(16),
            eat_nonce=nonce,
            request_hash=request_hash,
            response_hash=response_hash,
            sequence_number=self.issued,
            execution_time_ms=execution_ms,
            memory_peak_mb=peak_mebibytes(),
        )
        receipt = self._templates[model].write(values, self._boot.key.signing)
        self.issued += 1
        return receipt

    def _template(self, model: ServedModel) -> ReceiptTemplate:
        boot = self._boot
        claims = AirClaims(
            iss=boot.issuer,
            iat=boot.unix_time(),
            cti=os.urandom(16),
            model_id=model.model_id,
            model_version=model.version,
            model_hash=model.model_hash,
            model_hash_scheme=SCHEME,
            request_hash=_ZERO,
            response_hash=_ZERO,
            attestation_doc_hash=self._document_hash,
            enclave_measurements=self._measurements,
            policy_version=boot.policy_version,
            sequence_number=0,
            execution_time_ms=0,
            memory_peak_mb=0,
            security_mode=boot.security_mode,
        )
        return ReceiptTemplate(claims)


def peak_mebibytes() -> int:
    """Return the process's peak resident size in MiB, rounded up; Linux counts it in KiB."""
    return -(-resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024)
