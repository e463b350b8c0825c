"""Verify evidence of any format (attestation section 1).

Everything comes in as an argument: policy, roots, collateral, the expected
binding and the time. No verifier opens a socket or a file, or reads a clock.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ephemeralml.attestation.appraisal import T1, Appraisal
from ephemeralml.attestation.collateral import NO_COLLATERAL, Collateral
from ephemeralml.attestation.conclude import Request
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format, TimeBasis
from ephemeralml.attestation.nitro import appraise as nitro
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.recognise import FORMAT_UNKNOWN, recognise
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.attestation.verdict import Assurance, Row, Status
from ephemeralml.errors import MalformedError


def verify_evidence(
    evidence: Evidence,
    *,
    expected: ExpectedBinding | None,
    policy: Policy | None,
    roots: TrustRoots,
    collateral: Collateral = NO_COLLATERAL,
    at: AppraisalTime,
    live: bool,
) -> Appraisal:
    """Verify *evidence* and say what it amounts to; `Appraisal.require` gives the verified value.

    1. The declared format and the bytes agree.
    2. The format's own numbered steps: shape, signatures, chain, binding, policy.
    3. The policy allows the format and has not expired.
    4. The assurance reached is the policy's least one.

    Args:
        evidence: The document and its declared format.
        expected: What it must be bound to. None takes the receipt key that the
            document yields; only an archive may be looked at like that.
        policy: What is accepted. None leaves an archive's policy rows out, so
            assurance stops at PLATFORM and a software TEE is refused.
        roots: Who may vouch, usually ``policy.trust_roots(evidence.format)``.
        collateral: Revocation lists and the like.
        at: When; with basis DOCUMENT the document's own signed time is taken.
        live: Whether this is a session now: key, binding, nonce and freshness are required.

    Raises:
        ValueError: A live verification without expectation or policy, or not judged now.
    """
    if live and (expected is None or policy is None or at.basis is not TimeBasis.NOW):
        raise ValueError("a live session is judged now, by a policy, and against its own binding")
    if at.basis is not TimeBasis.DOCUMENT and at.instant is None:
        raise ValueError(f"time basis {at.basis.value} needs an instant")
    request = Request(evidence, expected, policy, roots, collateral, at, live)
    fault = _disagreement(evidence)
    if fault is not None:
        row = Row("FORMAT", T1, Status.FAIL, FORMAT_UNKNOWN, fault, required=True)
        return Appraisal(evidence.format, (row,), Assurance.NONE, (), at, evidence.digest)
    return _FORMATS[evidence.format].appraise(request)


def yielded_receipt_keys(evidence: Evidence) -> tuple[bytes, ...]:
    """Return the keys that a document may name as its receipt key, the likeliest first; nobody has verified them.

    For an archive without another source of the key. An older document may hold
    a key of another kind where newer ones hold this one (air-v1 section 7).
    Verifying the document against a key, and the receipt with it, is the
    caller's business.
    """
    verifier = _FORMATS.get(evidence.format)
    try:
        return verifier.yielded_keys(evidence.document) if verifier is not None else ()
    except MalformedError:
        return ()


def _disagreement(evidence: Evidence) -> str | None:
    """Return why the declared format cannot be that of the bytes, or None."""
    if evidence.format not in _FORMATS:
        return f"this version cannot verify evidence of format {evidence.format.value}"
    try:
        found = recognise(evidence.document)
    except MalformedError as error:
        # Bytes that begin like nothing known go to the declared format's parser, which says what is wrong with them;
        # a receipt is refused by name.
        return error.message if error.hint is not None else None
    family = Format.NITRO if evidence.format is Format.LOCAL else evidence.format
    return None if found is family else f"declared {evidence.format.value}, the bytes are {found.value}"


class _Verifier(NamedTuple):
    appraise: Callable[[Request], Appraisal]
    yielded_keys: Callable[[bytes], tuple[bytes, ...]]


_FORMATS: Mapping[Format, _Verifier] = MappingProxyType(
    {
        Format.NITRO: _Verifier(nitro.appraise_document, nitro.yielded_keys),
        Format.LOCAL: _Verifier(nitro.appraise_document, nitro.yielded_keys),
    }
)
# A further format adds its line here.
