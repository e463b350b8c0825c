"""Layer L4: what the caller demands of a receipt (air-v1, section 8)."""

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol

from ephemeralml.attestation.verdict import printable
from ephemeralml.receipt.claims import EVALUATION, AirClaims
from ephemeralml.receipt.codes import Code, Fault
from ephemeralml.receipt.trail import POLICY, Trail

DEFAULT_SKEW_SECONDS = 60


class ModelRule(Protocol):
    """The part of a policy file that says which models are accepted."""

    def faults(self, claims: AirClaims) -> Iterator[tuple[str, Fault]]:
        """Yield the id of the check, ``MODEL`` or ``MHASH``, with what is wrong."""


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
    models: ModelRule | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age <= 0:
            raise ValueError("a maximum age is greater than zero")
        if self.max_skew < 0:
            raise ValueError("a skew is not negative")


def check_policy(claims: AirClaims, policy: ReceiptPolicy, now: int | None, trail: Trail) -> None:
    """Run L4 but for REPLAY, which comes after everything else."""
    _fresh(claims, policy, now, trail)
    model_faults = tuple(policy.models.faults(claims)) if policy.models is not None else ()
    _model_hash(claims, policy, model_faults, trail)
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
    _model(claims, policy, model_faults, trail)
    trail.check("SECURITY_MODE_POLICY", POLICY, _mode(claims, policy), passed=f"mode {printable(claims.security_mode)}")
    _platform(claims, policy, trail)
    _nonce(claims, policy, trail)
    if policy.registers:
        trail.check("EXPECT_PCR", POLICY, _registers(claims, policy), passed="the registers asked for are equal")


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


def _model_hash(
    claims: AirClaims, policy: ReceiptPolicy, model_faults: tuple[tuple[str, Fault], ...], trail: Trail
) -> None:
    if policy.model_hash is None and policy.manifest_hash is None and policy.models is None:
        trail.skip("MHASH", POLICY, "no model hash or manifest was given")
        return
    faults = [fault for check, fault in model_faults if check == "MHASH"]
    for wanted, source in ((policy.model_hash, "the expected one"), (policy.manifest_hash, "the manifest's")):
        if wanted is not None and not hmac.compare_digest(wanted, claims.model_hash):
            detail = f"the model hash is not {source}"
            faults.append(Fault(Code.MODEL_HASH_MISMATCH, detail, wanted.hex(), claims.model_hash.hex()))
    trail.check("MHASH", POLICY, faults, passed="the model hash is the expected one")


def _compared(name: str, found: bytes, wanted: bytes | None, code: Code, what: str, trail: Trail) -> None:
    if wanted is None:
        trail.skip(name, POLICY, f"no {what} was given")
        return
    fault = Fault(code, f"the receipt names another {what}", wanted.hex(), found.hex())
    equal = hmac.compare_digest(wanted, found)
    trail.check(name, POLICY, () if equal else (fault,), passed=f"the receipt names this {what}")


def _model(claims: AirClaims, policy: ReceiptPolicy, model_faults: tuple[tuple[str, Fault], ...], trail: Trail) -> None:
    if policy.model_id is None and policy.models is None:
        trail.skip("MODEL", POLICY, "no model was asked for")
        return
    faults = [fault for check, fault in model_faults if check == "MODEL"]
    if policy.model_id is not None and claims.model_id != policy.model_id:
        faults.append(
            Fault(Code.MODEL_ID_MISMATCH, "another model", printable(policy.model_id), printable(claims.model_id))
        )
    trail.check("MODEL", POLICY, faults, passed=printable(f"{claims.model_id} {claims.model_version}"))


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
