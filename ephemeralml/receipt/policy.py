"""Layer L4: what the caller demands of a receipt (air-v1, section 8)."""

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from ephemeralml.attestation.verdict import Assurance, printable
from ephemeralml.clock import format_rfc3339
from ephemeralml.receipt.claims import EVALUATION, AirClaims
from ephemeralml.receipt.codes import Code, Fault
from ephemeralml.receipt.model_policy import (
    PublisherProof,
    check_model,
    check_model_hash,
    check_publisher,
    model_findings,
)
from ephemeralml.receipt.trail import POLICY, Trail

if TYPE_CHECKING:
    from ephemeralml.attestation.model_rules import ModelRules
    from ephemeralml.attestation.policy import Policy

DEFAULT_SKEW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ReceiptPolicy:
    """What is compared with the receipt; None means that nobody asked.

    The security mode and the bound on the future hold always.
    """

    max_age: int | None = None
    """Seconds, inclusive."""
    max_skew: int = DEFAULT_SKEW_SECONDS
    """Seconds that the receipt may be ahead of the clock, inclusive."""
    model_id: str | None = None
    model_hash: bytes | None = None
    manifest_hash: bytes | None = None
    """SHA-256 of the payload of a manifest that the caller holds."""
    request_hash: bytes | None = None
    response_hash: bytes | None = None
    document_hash: bytes | None = None
    """SHA-256 of the evidence document that the caller holds."""
    security_modes: frozenset[str] | None = None
    allow_evaluation: bool = False
    platform: str | None = None
    """A measurement type."""
    nonce: bytes | None = None
    nonce_required: bool = False
    registers: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Receipt slot to the 48 bytes that it must have."""
    models: "ModelRules | None" = None
    """The `models` section of a policy file."""
    publisher: PublisherProof | None = None
    """What came of the manifest's signature, where a manifest is at hand."""
    min_assurance: Assurance | None = None
    """What the policy file asks the evidence to establish; an appraisal judges it, and without one it is a gap."""
    policy_expired: str | None = None
    """When the policy file expired, if it has."""
    policy_read_at: str | None = None
    """When the policy file was read, which its expiry is judged by."""

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age <= 0:
            raise ValueError("a maximum age is greater than zero")
        if self.max_skew < 0:
            raise ValueError("a skew is not negative")


def of_policy_file(file: "Policy", demands: ReceiptPolicy) -> ReceiptPolicy:
    """Return *demands* with what the policy file asks of receipts (attestation section 6, rules 6 and 9)."""
    expired = file.expires_at if file.expired() else None
    read_at = file.loaded_at
    return replace(
        demands,
        max_skew=file.max_skew_seconds,
        security_modes=frozenset(file.security_modes),
        nonce_required=demands.nonce_required or file.nonce.value == "required",
        models=file.models,
        min_assurance=file.min_assurance,
        policy_expired=format_rfc3339(expired) if expired is not None else None,
        policy_read_at=format_rfc3339(read_at) if read_at is not None else None,
    )


def check_policy(claims: AirClaims, policy: ReceiptPolicy, now: int | None, trail: Trail) -> None:
    """Run L4 but for REPLAY, which comes after everything else."""
    _fresh(claims, policy, now, trail)
    models = model_findings(claims, policy.models)
    check_model_hash(claims, (policy.model_hash, policy.manifest_hash), models, trail)
    _compared("RHASH", claims.request_hash, policy.request_hash, Code.REQUEST_HASH_MISMATCH, "request", trail)
    _compared("OHASH", claims.response_hash, policy.response_hash, Code.RESPONSE_HASH_MISMATCH, "response", trail)
    _compared(
        "ADHASH",
        claims.attestation_doc_hash,
        policy.document_hash,
        Code.ATTESTATION_DOC_HASH_MISMATCH,
        "evidence document",
        trail,
    )
    check_model(claims, policy.model_id, models, trail)
    check_publisher(claims, policy.models, policy.publisher, trail)
    trail.check("SECURITY_MODE_POLICY", POLICY, _mode(claims, policy), passed=f"mode {printable(claims.security_mode)}")
    _platform(claims, policy, trail)
    _nonce(claims, policy, trail)
    if policy.registers:
        trail.check("EXPECT_PCR", POLICY, _registers(claims, policy), passed="the registers asked for are equal")


def check_without_evidence(policy: ReceiptPolicy, trail: Trail) -> None:
    """Report what an appraisal would have said of the policy file, where there is no evidence to appraise."""
    if policy.min_assurance is None:
        return
    if policy.policy_expired is not None:
        read_at = f"at {policy.policy_read_at}" if policy.policy_read_at is not None else None
        fault = Fault("POLICY_EXPIRED", "the policy has expired", f"before {policy.policy_expired}", read_at)
        trail.check("POLICY_EXPIRY", POLICY, (fault,))
    why = f"the policy asks for assurance {policy.min_assurance.label}, which takes evidence (--attestation)"
    trail.skip("MIN_ASSURANCE", POLICY, why, required=True)


def show_time(seconds: int) -> str:
    """Return Unix seconds for people; a number beyond the calendar stays one."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def _fresh(claims: AirClaims, policy: ReceiptPolicy, now: int | None, trail: Trail) -> None:
    if now is None or now < 0:
        trail.check("FRESH", POLICY, (Fault(Code.CLOCK_ERROR, "there is no usable clock"),))
    elif claims.iat > now + policy.max_skew:
        fault = Fault(
            Code.TIMESTAMP_FUTURE,
            "issued later than the clock allows",
            f"at most {show_time(now + policy.max_skew)}",
            show_time(claims.iat),
        )
        trail.check("FRESH", POLICY, (fault,))
    elif policy.max_age is None:
        trail.skip("FRESH", POLICY, "no maximum age was asked for; not in the future")
    else:
        age = max(0, now - claims.iat)
        stale = Fault(
            Code.TIMESTAMP_STALE, f"issued {show_time(claims.iat)}", f"at most {policy.max_age} s old", f"{age} s old"
        )
        trail.check("FRESH", POLICY, (stale,) if age > policy.max_age else (), passed=f"{age} s old")


def _compared(name: str, found: bytes, wanted: bytes | None, code: Code, what: str, trail: Trail) -> None:
    if wanted is None:
        trail.skip(name, POLICY, f"no {what} was given")
        return
    fault = Fault(code, f"the receipt names another {what}", wanted.hex(), found.hex())
    equal = hmac.compare_digest(wanted, found)
    trail.check(name, POLICY, () if equal else (fault,), passed=f"the receipt names this {what}")


def _mode(claims: AirClaims, policy: ReceiptPolicy) -> Iterator[Fault]:
    mode = claims.security_mode
    if policy.security_modes is not None:
        if mode not in policy.security_modes:
            wanted = " or ".join(sorted(policy.security_modes))
            yield Fault(Code.SECURITY_MODE_MISMATCH, "another security mode", wanted, printable(mode))
    elif mode == EVALUATION and not policy.allow_evaluation:
        yield Fault(Code.EVALUATION_MODE_REJECTED, "the workload ran in evaluation mode", "production", mode)


def _platform(claims: AirClaims, policy: ReceiptPolicy, trail: Trail) -> None:
    if policy.platform is None:
        trail.skip("PLATFORM", POLICY, "no platform was asked for")
        return
    found = claims.enclave_measurements.measurement_type
    fault = Fault(Code.PLATFORM_MISMATCH, "measured on another platform", policy.platform, printable(found))
    trail.check("PLATFORM", POLICY, () if found == policy.platform else (fault,), passed=policy.platform)


def _nonce(claims: AirClaims, policy: ReceiptPolicy, trail: Trail) -> None:
    found = claims.eat_nonce
    if policy.nonce is None and not policy.nonce_required:
        trail.skip("NONCE", POLICY, "no nonce was asked about")
    elif found is None:
        wanted = policy.nonce.hex() if policy.nonce is not None else "a nonce"
        trail.check("NONCE", POLICY, (Fault(Code.NONCE_MISSING, "the receipt carries no nonce", wanted, "none"),))
    elif policy.nonce is None:
        trail.check("NONCE", POLICY, (), passed="present; no value was given to compare it with")
    else:
        fault = Fault(Code.NONCE_MISMATCH, "the receipt answers another challenge", policy.nonce.hex(), found.hex())
        equal = hmac.compare_digest(policy.nonce, found)
        trail.check("NONCE", POLICY, () if equal else (fault,), passed="the caller's, byte for byte")


def _registers(claims: AirClaims, policy: ReceiptPolicy) -> Iterator[Fault]:
    found = claims.enclave_measurements.registers()
    for slot, wanted in policy.registers.items():
        if found.get(slot) != wanted:
            actual = found[slot].hex() if slot in found else "absent"
            yield Fault(
                f"{Code.RECEIPT_MEASUREMENTS_MISMATCH}:{slot}", f"{slot} is not the expected one", wanted.hex(), actual
            )
