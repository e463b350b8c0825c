"""What verifying evidence amounts to, and the one way to get a `VerifiedEvidence`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.evidence import AppraisalTime, Format, MeasurementType, VerifiedEvidence
from ephemeralml.attestation.fixes import fix
from ephemeralml.attestation.verdict import Assurance, Mismatch, Row, Status, Verdict, decide
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError

T1, T2, T3, T4 = "T1", "T2", "T3", "T4"

WARN_SOFTWARE_TEE = "WARN_SOFTWARE_TEE"


class EvidenceRejectedError(RejectedError):
    """Evidence that must not be trusted, with everything that is wrong with it."""

    def __init__(self, appraisal: "Appraisal") -> None:
        failed = appraisal.failed
        text = "; ".join(f"{row.id} {row.code}: {row.detail}{_compared(row)}" for row in failed)
        super().__init__(
            f"the {appraisal.format.value} evidence{_whose(appraisal)} is rejected: {text}",
            code=failed[0].code or failed[0].id,
            expected=failed[0].expected,
            actual=failed[0].actual,
            hint=next((advice for row in failed if (advice := row.hint or fix(row.code or ""))), None),
        )
        self.appraisal = appraisal
        """Every row, passed ones included."""


def _compared(row: Row) -> str:
    sides = (("wanted", row.expected), ("found", row.actual))
    text = ", ".join(f"{name} {value}" for name, value in sides if value is not None)
    return f" ({text})" if text else ""


def _whose(appraisal: "Appraisal") -> str:
    return f" ({appraisal.kind.partition(', ')[2]})" if appraisal.software else ""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The rows of one verification and what follows from them."""

    format: Format
    rows: tuple[Row, ...]
    assurance: Assurance
    warnings: tuple[str, ...]
    at: AppraisalTime
    """With the instant that was judged, once the document has named it."""
    digest: bytes
    """SHA-256 of the document."""
    receipt_key: bytes | None = None
    """The key that the document binds, where the binding row passed."""
    binding_form: str | None = None
    """Which of air-v1 section 7's forms bound it."""
    measurement_type: MeasurementType | None = None
    registers: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Receipt slots (air-v1 section 4) as far as the document states them."""
    software: bool = False
    """The root bears the software names, whether or not anybody accepts it."""
    foreign_root: bool = False
    """A software root, and another one than those that were to vouch."""
    debug: bool = False
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What else the document says, for people; judged by nobody."""

    @property
    def kind(self) -> str:
        """What evidence this is, in a few words for people."""
        root = " of another root" if self.foreign_root else ""
        return f"{self.format.value}, software TEE{root}" if self.software else self.format.value

    @property
    def verdict(self) -> Verdict:
        """What the rows amount to (attestation section 1)."""
        return decide(self.rows, parse_layers=frozenset({T1}))

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed, in order."""
        return tuple(row for row in self.rows if row.status is Status.FAIL)

    def require(self) -> VerifiedEvidence:
        """Return the evidence as verified.

        Raises:
            MalformedError: A T1 row failed.
            RejectedError: Another row failed; an `EvidenceRejectedError` with all of them.
            IncompleteError: Nothing failed, and something required was not checked.
        """
        match self.verdict:
            case Verdict.MALFORMED:
                row = next(row for row in self.failed if row.layer == T1)
                raise MalformedError(f"the evidence does not parse: {row.detail}", code=row.code)
            case Verdict.REJECTED:
                raise EvidenceRejectedError(self)
            case Verdict.INCOMPLETE:
                gaps = [row for row in self.rows if row.status is Status.SKIP and row.required]
                text = "; ".join(f"{row.id}: {row.detail}" for row in gaps) or "nothing was checked"
                code = gaps[0].code if gaps else None
                raise IncompleteError(f"the evidence could not be checked completely: {text}", code=code)
            case Verdict.VERIFIED:
                assert self.receipt_key is not None
                return VerifiedEvidence(
                    format=self.format,
                    digest=self.digest,
                    receipt_key=self.receipt_key,
                    measurement_type=self.measurement_type,
                    registers=self.registers,
                    software=self.software,
                    debug=self.debug,
                    assurance=self.assurance,
                    at=self.at,
                )

    def to_json(self) -> dict[str, Any]:
        """Return the appraisal for `--json`, rows with their compared values."""
        return {
            "format": self.format.value,
            "verdict": self.verdict.value,
            "assurance": self.assurance.label,
            "document_sha256": self.digest.hex(),
            "receipt_public_key": self.receipt_key.hex() if self.receipt_key is not None else None,
            "binding_form": self.binding_form,
            "software": self.software,
            "debug": self.debug,
            "measurement_type": self.measurement_type.value if self.measurement_type is not None else None,
            "measurements": {slot: value.hex() for slot, value in self.registers.items()},
            "facts": dict(self.facts),
            "checks": [{**row.to_json(), "expected": row.expected, "actual": row.actual} for row in self.rows],
            "warnings": list(self.warnings),
            "time": clock.format_rfc3339(self.at.instant) if self.at.instant is not None else None,
            "time_basis": self.at.basis.value,
            "time_source": self.at.source,
        }


class RowList:
    """Rows as a verifier adds them, completed to its table in the end.

    Args:
        table: Id and layer of every step, in order.
    """

    def __init__(self, table: Sequence[tuple[str, str]]) -> None:
        self._table = tuple(table)
        self._layers = dict(table)
        self._rows: list[Row] = []
        self.warnings: list[str] = []

    def passed(self, step: str, detail: str = "", *, expected: str | None = None, actual: str | None = None) -> None:
        """Note that *step* was done and holds."""
        self._rows.append(Row(step, self._layers[step], Status.PASS, None, detail, expected, actual, required=True))

    def failed(
        self,
        step: str,
        code: str,
        detail: str,
        *,
        expected: str | None = None,
        actual: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Note that *step* was done and does not hold."""
        row = Mismatch(step, code, detail, expected, actual).to_row(self._layers[step])
        self._rows.append(replace(row, hint=hint))

    def skipped(self, step: str, detail: str, *, code: str | None = None, required: bool = False) -> None:
        """Note that *step* was not done, and whether that leaves a gap."""
        self._rows.append(Row(step, self._layers[step], Status.SKIP, code, detail, required=required))

    def warn(self, code: str) -> None:
        """Note something that the reader should weigh."""
        if code not in self.warnings:
            self.warnings.append(code)

    def ok(self, layers: Iterable[str]) -> bool:
        """Return whether no row of *layers* failed so far."""
        wanted = set(layers)
        return not any(row.status is Status.FAIL and row.layer in wanted for row in self._rows)

    def decided(self) -> bool:
        """Return whether nothing failed and nothing required is missing, so far."""
        rows = self.complete()
        return not any(row.status is Status.FAIL or (row.status is Status.SKIP and row.required) for row in rows)

    def complete(self) -> tuple[Row, ...]:
        """Return the rows in the table's order; steps that were not reached are skipped.

        One of T1 to T3 that was left out although nothing failed is a gap: they
        are required wherever there is a document (section 6, rule 9).
        """
        first = next((row for row in self._rows if row.status is Status.FAIL), None)
        reason = f"not reached, {first.id} failed" if first is not None else "not applicable"
        seen = {row.id for row in self._rows}
        rows = [
            *self._rows,
            *(
                Row(step, layer, Status.SKIP, None, reason, required=first is None and layer in (T1, T2, T3))
                for step, layer in self._table
                if step not in seen
            ),
        ]
        order = {step: index for index, (step, _) in enumerate(self._table)}
        return tuple(sorted(rows, key=lambda row: order[row.id]))


def assurance_of(rows: Iterable[Row], *, binding: str, measurement: str, software: bool, debug: bool) -> Assurance:
    """Return how far the facts carry (attestation section 1).

    Args:
        rows: Every row of the appraisal.
        binding: Id of the row that ties the receipt key to the document.
        measurement: Id of the row that compares registers with the policy.
        software: Whether a software root vouches, which stops at DOCUMENT.
        debug: Whether the enclave is a debug one, which stops at PLATFORM.
    """
    rows = tuple(rows)
    passed = {row.id for row in rows if row.status is Status.PASS} - {
        row.id for row in rows if row.status is Status.FAIL
    }

    def holds(layer: str) -> bool:
        mine = [row for row in rows if row.layer == layer]
        return not any(row.status is Status.FAIL or (row.status is Status.SKIP and row.required) for row in mine)

    if not holds(T1) or not holds(T2) or binding not in passed:
        return Assurance.NONE
    if software or not holds(T3):
        return Assurance.DOCUMENT
    if debug or not holds(T4) or measurement not in passed:
        return Assurance.PLATFORM
    return Assurance.TEE
