"""What a verification found, and the one type that says it may be relied on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Never

from ephemeralml.attestation.verdict import Assurance, Row, Status, Verdict
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from ephemeralml.receipt import codes
from ephemeralml.receipt.claims import AirClaims
from ephemeralml.receipt.policy import show_time

if TYPE_CHECKING:
    from ephemeralml.attestation.appraisal import Appraisal

SCHEMA = "ephemeralml.verify/1"
EVIDENCE_LAYERS = frozenset(("T1", "T2", "T3", "T4"))
MALFORMED_LAYERS = frozenset(("parse", "T1"))
"""A failure there means that something does not parse; anywhere else, that it must not be trusted."""


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt for which everything required held.

    Only `ReceiptResult.require` and `verify_live` make one.
    """

    claims: AirClaims
    receipt: bytes = field(repr=False)
    """The bytes that were verified."""
    public_key: bytes
    """The Ed25519 key under which they verified."""
    assurance: Assurance
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptResult:
    """Every check with what came of it; the verdict is what to act on."""

    verdict: Verdict
    assurance: Assurance
    """How far the facts carry, whatever the verdict."""
    rows: tuple[Row, ...]
    """Rows of an appraisal keep their layer, ``T1`` to ``T4``."""
    warnings: tuple[str, ...]
    claims: AirClaims | None
    """Shown even when rejected, and then unverified; None where they did not decode."""
    receipt: bytes = field(repr=False)
    public_key: bytes | None
    now: int | None
    """Unix seconds that counted as the present."""
    time_basis: str = "now"
    """``now``, ``document`` or ``given``: what the evidence, or else the receipt, was judged by."""
    appraisal: "Appraisal | None" = None
    """Of the evidence, where there was one that could be recognised."""

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed, in order."""
        return tuple(row for row in self.rows if row.status is Status.FAIL)

    def require(self) -> VerifiedReceipt:
        """Return the verified receipt.

        Raises:
            MalformedError: It does not parse as a receipt, or its evidence not as evidence.
            RejectedError: Something failed; the code is that of the first failed row.
            IncompleteError: Something required was not checked.
        """
        if self.verdict is not Verdict.VERIFIED or self.claims is None or self.public_key is None:
            self._refuse()
        return VerifiedReceipt(self.claims, self.receipt, self.public_key, self.assurance, self.warnings)

    def _refuse(self) -> Never:
        failed = self.failed
        if self.verdict is Verdict.INCOMPLETE:
            gap = next(row for row in self.rows if row.status is Status.SKIP and row.required)
            raise IncompleteError(
                f"{gap.id} was not checked: {gap.detail}", code=gap.code, hint=codes.fix(gap.code) if gap.code else None
            )
        malformed = self.verdict is Verdict.MALFORMED
        first = next((row for row in failed if row.layer in MALFORMED_LAYERS), failed[0]) if malformed else failed[0]
        code = first.code or first.id
        message = f"{first.id} failed: {first.detail}"
        if malformed:
            raise MalformedError(message, code=code, hint=codes.fix(code))
        hint = first.hint or codes.fix(code)
        raise RejectedError(message, code=code, expected=first.expected, actual=first.actual, hint=hint)

    def to_json(self) -> dict[str, Any]:
        """Return the document of the command line's JSON contract."""
        checks = []
        for row in self.rows:
            entry = row.to_json()
            if row.layer in EVIDENCE_LAYERS:
                entry["layer"] = "platform"
            checks.append(entry)
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "assurance": self.assurance.label,
            "receipt": claims_to_json(self.claims) if self.claims is not None else None,
            "checks": checks,
            "warnings": list(self.warnings),
            "verified_at": show_time(self.now) if self.now is not None else None,
            "time_basis": self.time_basis,
        }


def claims_to_json(claims: AirClaims) -> dict[str, Any]:
    """Return the claims as the contract names them; hashes and registers in hex."""
    measurements = claims.enclave_measurements
    return {
        "receipt_id": claims.receipt_id,
        "issuer": claims.iss,
        "issued_at": claims.iat,
        "model_id": claims.model_id,
        "model_version": claims.model_version,
        "model_hash": claims.model_hash.hex(),
        "model_hash_scheme": claims.model_hash_scheme,
        "request_hash": claims.request_hash.hex(),
        "response_hash": claims.response_hash.hex(),
        "attestation_doc_hash": claims.attestation_doc_hash.hex(),
        "measurement_type": measurements.measurement_type,
        "measurements": {slot: value.hex() for slot, value in measurements.registers().items()},
        "policy_version": claims.policy_version,
        "sequence_number": claims.sequence_number,
        "execution_time_ms": claims.execution_time_ms,
        "memory_peak_mb": claims.memory_peak_mb,
        "security_mode": claims.security_mode,
        "eat_nonce": claims.eat_nonce.hex() if claims.eat_nonce is not None else None,
    }
