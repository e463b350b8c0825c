"""The server's offer, verified: what a session may rely on from its first byte to its last."""

from dataclasses import dataclass, field
from datetime import datetime

from ephemeralml.attestation.appraisal import Appraisal
from ephemeralml.attestation.collateral import NO_COLLATERAL, Collateral
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, TimeBasis, VerifiedEvidence
from ephemeralml.attestation.policy import POLICY_EXPIRED, Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.attestation.verdict import printable
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.channel.events import ServerOffer
from ephemeralml.channel.hello import Identity, Limits
from ephemeralml.channel.key_schedule import BindingInputs
from ephemeralml.clock import format_rfc3339
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.receipt.live import LiveReceipts

SECURITY_MODE_MISMATCH = "SECURITY_MODE_MISMATCH"
_EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class Attested:
    """A session's peer, as its verified evidence describes it.

    Only `verify_offer` makes one.
    """

    policy: Policy
    evidence: Evidence
    """The document as received; receipts name its SHA-256."""
    verified: VerifiedEvidence
    appraisal: Appraisal
    """Every row of the verification, and the instant it was made for."""
    identity: Identity
    limits: Limits
    nonce: bytes
    """The nonce that we drew for this session."""
    binding: bytes
    binding_inputs: BindingInputs = field(repr=False)
    """With these an archive recomputes the binding."""

    @property
    def receipt_key(self) -> bytes:
        """The Ed25519 key that signs this session's receipts."""
        return self.verified.receipt_key

    @property
    def warnings(self) -> tuple[str, ...]:
        """Codes that a reader should weigh: the policy's and the evidence's."""
        return tuple(dict.fromkeys((*self.policy.warnings, *self.appraisal.warnings)))

    def receipts(self) -> LiveReceipts:
        """Return what accepts this session's receipts."""
        verified = self.verified
        return LiveReceipts(
            session_key=verified.receipt_key,
            document_digest=verified.digest,
            measurement_type=verified.measurement_type,
            registers=verified.registers,
            security_mode=self.identity.security_mode,
            assurance=verified.assurance,
        )


def verify_offer(
    offer: ServerOffer,
    *,
    policy: Policy,
    roots: TrustRoots | None = None,
    collateral: Collateral = NO_COLLATERAL,
    now: datetime,
) -> Attested:
    """Verify what a server offers, before anything but the hello has been sent.

    1. The policy has not expired (attestation section 6, rule 6).
    2. The evidence holds under the policy and its roots at *now*, and carries
       the offered receipt key, our own binding and our nonce (attestation
       sections 1 and 2).
    3. The security mode is one of the policy's, and ``evaluation`` where a
       software TEE or a debug enclave speaks (air-v1 section 11).

    Which models are served is not judged here: the one that a request names is,
    before the request's body is sent (`selection`). That client_finish goes to
    the very key that was offered is `ClientChannel.accept`'s business.

    Args:
        offer: What the channel received.
        policy: What the caller accepts.
        roots: Trust roots instead of the policy's own.
        collateral: What verification needs beside the document.
        now: The present, read once.

    Raises:
        RejectedError: It must not be trusted, every mismatch is in the message;
            or does not parse, which here comes to the same (channel section 7).
        IncompleteError: Something that the policy requires could not be checked.
    """
    check_policy_current(policy, now)  # 1
    if roots is None:
        roots = policy.trust_roots(offer.evidence.format)
    appraisal = verify_evidence(  # 2
        offer.evidence,
        expected=offer.expected,
        policy=policy,
        roots=roots,
        collateral=collateral,
        at=AppraisalTime(TimeBasis.NOW, now, "clock"),
        live=True,
    )
    try:
        verified = appraisal.require()
    except MalformedError as error:
        raise RejectedError(error.message, code=error.code or "EVIDENCE_MALFORMED", hint=error.hint) from error
    _check_security_mode(offer.identity, verified, policy)  # 3
    return Attested(
        policy=policy,
        evidence=offer.evidence,
        verified=verified,
        appraisal=appraisal,
        identity=offer.identity,
        limits=offer.limits,
        nonce=_present(offer.expected.nonce),
        binding=offer.binding,
        binding_inputs=offer.binding_inputs,
    )


def check_policy_current(policy: Policy, now: datetime) -> None:
    """Refuse a policy that has expired: a session ends with it (channel section 4).

    Raises:
        RejectedError: Code POLICY_EXPIRED.
    """
    if policy.expired(now):
        assert policy.expires_at is not None
        raise RejectedError(
            f"policy {policy.policy_id!a} has expired",
            code=POLICY_EXPIRED,
            expected=f"before {format_rfc3339(policy.expires_at)}",
            actual=format_rfc3339(now),
            hint="ask its publisher for the current one",
        )


def _check_security_mode(identity: Identity, verified: VerifiedEvidence, policy: Policy) -> None:
    mode = identity.security_mode
    unprotected = verified.software or verified.debug
    allowed = {_EVALUATION} if unprotected else set(policy.security_modes)
    if mode in allowed and mode in policy.security_modes:
        return
    kind = "a software TEE" if verified.software else "a debug enclave" if verified.debug else "the runtime"
    raise RejectedError(
        f"{kind} calls itself '{printable(mode)}'",
        code=SECURITY_MODE_MISMATCH,
        expected=", ".join(sorted(allowed & set(policy.security_modes))) or "nothing of this kind",
        actual=printable(mode),
        hint=None if unprotected else "security_modes of the policy says which are accepted",
    )


def _present(nonce: bytes | None) -> bytes:
    assert nonce is not None
    return nonce
