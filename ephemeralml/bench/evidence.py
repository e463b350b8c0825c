"""Nitro evidence: the whole appraisal, with and without a bundle verified before."""

import os
from dataclasses import dataclass

from ephemeralml import clock
from ephemeralml.attestation.binding import nitro_fields
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.bench.measure import Section, Target, interleaved, row

_COLD_TARGET_MS = 3.0
_WARM_TARGET_MS = 1.0


@dataclass(frozen=True, slots=True)
class _Session:
    evidence: Evidence
    expected: ExpectedBinding
    at: AppraisalTime


def _session(authority: Authority) -> _Session:
    """Return evidence as a live session has it: the structure and chain of a Nitro document."""
    now = clock.now()
    expected = ExpectedBinding(os.urandom(32), os.urandom(32), os.urandom(32))
    bound = nitro_fields(expected)
    fields = DocumentFields(
        module_id=f"{authority.id}-enc0",
        pcrs={index: os.urandom(48) for index in range(16)},
        public_key=bound.public_key,
        user_data=bound.user_data,
        nonce=bound.nonce,
    )
    document = authority.issue_document(fields, now)
    return _Session(Evidence(Format.LOCAL, document), expected, AppraisalTime.now(now))


def measure(*, quick: bool) -> Section:
    """Verify one document against fresh roots, and against roots that have seen its chain."""
    authority = Authority.ephemeral()
    session = _session(authority)
    known = TrustRoots(RootKind.SOFTWARE, frozenset({authority.fingerprint}))

    def verify(roots: TrustRoots) -> None:
        appraisal = verify_evidence(
            session.evidence,
            expected=session.expected,
            policy=Policy.accept_local(roots=roots),
            roots=roots,
            at=session.at,
            live=True,
        )
        appraisal.require()

    samples = interleaved(
        {
            "cold": lambda: verify(TrustRoots(RootKind.SOFTWARE, frozenset({authority.fingerprint}))),
            "warm": lambda: verify(known),
        },
        rounds=40 if quick else 200,
    )
    rows = (
        row(
            "Nitro evidence verification, first time",
            samples["cold"],
            scale=1e3,
            unit="ms",
            note="5 certificates, P-384",
        ),
        row("Nitro evidence verification, CA bundle seen before", samples["warm"], scale=1e3, unit="ms"),
    )
    targets = (
        Target("Nitro verification", rows[0].value, _COLD_TARGET_MS, "ms", at_most=True),
        Target("Nitro verification, bundle seen before", rows[1].value, _WARM_TARGET_MS, "ms", at_most=True),
    )
    return Section(rows, targets)
