"""Layer `platform`: what the evidence adds to a receipt (air-v1, section 10)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ephemeralml.attestation.evidence import MeasurementType
from ephemeralml.attestation.verdict import Assurance, Row, printable
from ephemeralml.receipt.claims import AirClaims
from ephemeralml.receipt.codes import Code, Fault


@dataclass(frozen=True, slots=True)
class PlatformFindings:
    """The rows of an appraisal, REGISTERS, and how far they carry."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    assurance: Assurance
    """What the evidence would allow; the receipt's own rows may keep it lower."""
    time_basis: str


def registers_faults(
    claims: AirClaims, measurement_type: MeasurementType | None, registers: Mapping[str, bytes]
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
