"""What the appraisals of all formats share: the request, the policy's own rows, the conclusion."""

from dataclasses import dataclass, replace

from ephemeralml.attestation.appraisal import T1, T4, WARN_SOFTWARE_TEE, Appraisal, RowList, assurance_of
from ephemeralml.attestation.collateral import Collateral
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, TimeBasis
from ephemeralml.attestation.fixes import SOFTWARE_UNDER_VENDOR_ROOTS, VENDOR_UNDER_LOCAL_POLICY
from ephemeralml.attestation.policy import POLICY_EXPIRED, Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.clock import format_rfc3339

FORMAT_REJECTED = "EVIDENCE_FORMAT_REJECTED"
ASSURANCE_TOO_LOW = "ASSURANCE_TOO_LOW"

COMMON_STEPS = (("EVIDENCE_FORMAT", T4), ("POLICY_EXPIRY", T4), ("MIN_ASSURANCE", T4))
"""Rows of every appraisal, behind the format's own."""


@dataclass(frozen=True, slots=True)
class Request:
    """One verification: the evidence and everything it is judged by."""

    evidence: Evidence
    expected: ExpectedBinding | None
    policy: Policy | None
    roots: TrustRoots
    collateral: Collateral
    at: AppraisalTime
    live: bool


def conclude(
    appraisal: Appraisal, rows: RowList, policy: Policy | None, *, binding: str, measurement: str
) -> Appraisal:
    """Add the rows that every format shares, and draw the conclusions."""
    if rows.ok([T1]):
        _policy_rows(appraisal, rows, policy)
    if appraisal.software:
        rows.warn(WARN_SOFTWARE_TEE)

    def reached() -> Assurance:
        return assurance_of(
            rows.complete(),
            binding=binding,
            measurement=measurement,
            software=appraisal.software,
            debug=appraisal.debug,
        )

    assurance = reached()
    if policy is not None and rows.decided():
        if assurance >= policy.min_assurance:
            rows.passed("MIN_ASSURANCE", f"{assurance.label}, {policy.min_assurance.label} is asked for")
        else:
            rows.failed(
                "MIN_ASSURANCE",
                ASSURANCE_TOO_LOW,
                "the evidence does not carry far enough",
                expected=policy.min_assurance.label,
                actual=assurance.label,
            )
    warnings = (*(policy.warnings if policy is not None else ()), *rows.warnings)
    return replace(appraisal, rows=rows.complete(), assurance=assurance, warnings=warnings)


def _policy_rows(appraisal: Appraisal, rows: RowList, policy: Policy | None) -> None:
    if policy is None:
        if appraisal.software:
            rows.failed(
                "EVIDENCE_FORMAT",
                FORMAT_REJECTED,
                "a software TEE is accepted only where a policy says so",
                hint=SOFTWARE_UNDER_VENDOR_ROOTS,
            )
        else:
            rows.skipped("EVIDENCE_FORMAT", "no policy")
        rows.skipped("POLICY_EXPIRY", "no policy")
        rows.skipped("MIN_ASSURANCE", "no policy")
        return
    allowed = ", ".join(item.value for item in policy.formats)
    if appraisal.format in policy.formats:
        rows.passed("EVIDENCE_FORMAT", f"{appraisal.format.value} is allowed")
    else:
        rows.failed(
            "EVIDENCE_FORMAT",
            FORMAT_REJECTED,
            "the policy does not allow this format",
            expected=allowed,
            actual=appraisal.format.value,
            hint=SOFTWARE_UNDER_VENDOR_ROOTS
            if appraisal.software
            else VENDOR_UNDER_LOCAL_POLICY
            if policy.allow_local
            else None,
        )
    now = appraisal.at.instant if appraisal.at.basis is TimeBasis.NOW else None
    expires = format_rfc3339(policy.expires_at) if policy.expires_at is not None else "never"
    if policy.expired(now):
        judged = max(instant for instant in (now, policy.loaded_at) if instant is not None)
        rows.failed(
            "POLICY_EXPIRY",
            POLICY_EXPIRED,
            "the policy has expired",
            expected=f"before {expires}",
            actual=f"at {format_rfc3339(judged)}",
        )
    else:
        rows.passed("POLICY_EXPIRY", f"expires {expires}")
