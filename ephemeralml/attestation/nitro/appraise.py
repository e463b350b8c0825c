"""The seam between `verify_evidence` and Nitro's numbered steps.

Documents of the software TEE come here too: they are of one structure, and the
root decides which of the two a document is.
"""

from datetime import timedelta
from types import MappingProxyType

from ephemeralml.attestation.appraisal import T1, Appraisal, RowList
from ephemeralml.attestation.conclude import COMMON_STEPS, Request, conclude
from ephemeralml.attestation.evidence import AppraisalTime, Format, MeasurementType, TimeBasis
from ephemeralml.attestation.nitro.document import NitroDocument, parse
from ephemeralml.attestation.nitro.verify import (
    BINDING_STEP,
    MEASUREMENT_STEP,
    STEPS,
    WARN_INSTANCE,
    Case,
    NitroTerms,
    appraise,
    carried_keys,
    instance_agrees,
    read,
    receipt_registers,
)
from ephemeralml.attestation.policy import DebugRule, NonceRule, Policy
from ephemeralml.attestation.recognise import FORMAT_UNKNOWN
from ephemeralml.attestation.roots import RootKind, is_software_root
from ephemeralml.attestation.verdict import Assurance, printable
from ephemeralml.clock import format_rfc3339

_TABLE = (("FORMAT", T1), *STEPS, *COMMON_STEPS)


def appraise_document(request: Request) -> Appraisal:
    """Appraise a document of Nitro's structure, which is the software TEE's if its root bears the software names.

    The name alone decides what it is called and warned of; whether its root is
    trusted is N5's to say, and a software root that nobody pinned is refused there.
    """
    rows = RowList(_TABLE)
    evidence, roots = request.evidence, request.roots
    document = read(evidence.document, rows)
    if document is None:
        return Appraisal(evidence.format, rows.complete(), Assurance.NONE, (), request.at, evidence.digest)
    accepted = roots.accept(document.cabundle[0])
    software = is_software_root(document.cabundle[0])
    actual = Format.LOCAL if software else Format.NITRO
    # An archive has no declaration to hold against its bytes; a root that nobody accepts is N5's to report.
    if request.live and accepted and evidence.format is not actual:
        rows.failed(
            "FORMAT",
            FORMAT_UNKNOWN,
            "the root is not of the declared format",
            expected=evidence.format.value,
            actual=actual.value,
        )
    else:
        rows.passed("FORMAT", actual.value)
    at = request.at
    if at.basis is TimeBasis.DOCUMENT:
        at = AppraisalTime(at.basis, document.timestamp, f"{actual.value}.timestamp")
    assert at.instant is not None
    terms = _terms(request.policy, actual)
    case = Case(document, request.expected, terms, roots, request.collateral, at.instant, request.live)
    bound = appraise(case, rows) if rows.ok([T1]) else None
    if instance_agrees(document) is False:
        rows.warn(WARN_INSTANCE)
    appraisal = Appraisal(
        format=actual,
        rows=(),
        assurance=Assurance.NONE,
        warnings=(),
        at=at,
        digest=evidence.digest,
        receipt_key=bound.key if bound is not None else None,
        binding_form=bound.form if bound is not None else None,
        measurement_type=MeasurementType.NITRO_PCR,
        registers=receipt_registers(document),
        software=software,
        foreign_root=software and not accepted and roots.kind is RootKind.SOFTWARE,
        debug=document.debug,
        facts=MappingProxyType(_facts(document)),
    )
    return conclude(appraisal, rows, request.policy, binding=BINDING_STEP, measurement=MEASUREMENT_STEP)


def _terms(policy: Policy | None, actual: Format) -> NitroTerms:
    if policy is None:
        return NitroTerms(None)
    return NitroTerms(
        section=policy.sections.get(actual),
        max_age=timedelta(seconds=policy.max_age_seconds),
        max_skew=timedelta(seconds=policy.max_skew_seconds),
        nonce_required=policy.nonce is NonceRule.REQUIRED,
        debug_allowed=policy.debug is DebugRule.EVALUATION_ONLY,
        pins_optional=actual is Format.LOCAL,
    )


def _facts(document: NitroDocument) -> dict[str, str]:
    agrees = instance_agrees(document)
    return {
        "module_id": printable(document.module_id),
        "timestamp": format_rfc3339(document.timestamp),
        "instance_id": printable(document.instance_id or "none"),
        "pcr4_is_of_instance_id": {True: "yes", False: "no", None: "not stated"}[agrees],
        "certificate_until": format_rfc3339(document.chain[-1].not_valid_after_utc),
    }


def yielded_keys(document: bytes) -> tuple[bytes, ...]:
    """Return the receipt keys that a document may name, unverified; compat forms included."""
    return tuple(bound.key for bound in carried_keys(parse(document), live=False))
