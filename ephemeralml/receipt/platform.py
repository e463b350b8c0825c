"""Layer `platform`: what the evidence adds to a receipt (air-v1, section 10)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeralml.attestation.verdict import Assurance, Row, Status, printable
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import AirClaims
from ephemeralml.receipt.codes import Code, Fault
from ephemeralml.receipt.trail import PLATFORM, Trail

if TYPE_CHECKING:
    from ephemeralml.attestation.appraisal import Appraisal
    from ephemeralml.attestation.evidence import MeasurementType

T1 = "T1"


@dataclass(frozen=True, slots=True)
class PlatformFindings:
    """The rows of an appraisal and REGISTERS, and how far they carry."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    assurance: Assurance
    """What the evidence would allow; the receipt's own rows may keep it lower."""
    time_basis: str
    appraisal: "Appraisal | None" = None
    """None where the document was not recognised."""


def appraiser(
    appraise: "Callable[[AirClaims], Appraisal]", *, time_basis: str
) -> "Callable[[AirClaims], PlatformFindings]":
    """Return step 5 of `verify_receipt`.

    Args:
        appraise: Runs `verify_evidence` on the document, bound to the key that
            verifies the receipt; for a document that nobody recognises it
            raises `MalformedError` with its code.
        time_basis: What is reported where there is no appraisal.
    """

    def judge(claims: AirClaims) -> PlatformFindings:
        try:
            appraisal = appraise(claims)
        except MalformedError as error:
            code = error.code or Code.EVIDENCE_FORMAT_UNKNOWN
            row = Row("FORMAT", T1, Status.FAIL, code, error.message, required=True)
            return PlatformFindings((row,), (), Assurance.NONE, time_basis)
        return join(claims, appraisal)

    return judge


def join(claims: AirClaims, appraisal: "Appraisal") -> PlatformFindings:
    """Return an appraisal's rows with REGISTERS behind them; without it assurance stops at PLATFORM."""
    trail = Trail()
    if appraisal.measurement_type is None or not appraisal.registers:
        trail.skip("REGISTERS", PLATFORM, "the evidence states no registers", required=True)
    else:
        faults = registers_faults(claims, appraisal.measurement_type, appraisal.registers)
        trail.check("REGISTERS", PLATFORM, faults, passed="every register of the receipt is the evidence's")
    assurance = appraisal.assurance
    if not trail.passed("REGISTERS"):
        assurance = min(assurance, Assurance.PLATFORM)
    rows = (*appraisal.rows, *trail.rows)
    return PlatformFindings(rows, appraisal.warnings, assurance, appraisal.at.basis.value, appraisal)


def registers_faults(
    claims: AirClaims, measurement_type: "MeasurementType | None", registers: Mapping[str, bytes]
) -> Iterator[Fault]:
    """REGISTERS: every slot of the receipt equals the document's, and the type fits."""
    found = claims.enclave_measurements
    wanted_type = measurement_type.value if measurement_type is not None else "none"
    if found.measurement_type != wanted_type:
        yield _fault("measurement_type", wanted_type, printable(found.measurement_type))
    for slot, value in found.registers().items():
        wanted = registers.get(slot)
        if wanted != value:
            yield _fault(slot, wanted.hex() if wanted is not None else "absent", value.hex())


def _fault(slot: str, expected: str, actual: str) -> Fault:
    return Fault(
        f"{Code.RECEIPT_MEASUREMENTS_MISMATCH}:{slot}", f"{slot} differs from the evidence's", expected, actual
    )
