"""What an appraisal says: rows, assurance, verdict.

Receipts and evidence are judged in the same terms, so a reader learns them
once: every check leaves a `Row`, and the rows decide.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

CODE_TEXT_CHARACTERS = 64
"""A value from untrusted input is cut here before it enters a code or detail."""


class Status(Enum):
    """The outcome of one check."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIP = "skip"


class Verdict(Enum):
    """What `ephemeralml verify` says of the whole."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    MALFORMED = "malformed"
    INCOMPLETE = "incomplete"


class Assurance(IntEnum):
    """How far the facts carry; ordered, each level includes those below."""

    NONE = 0
    """Nothing was established."""
    RECEIPT = 1
    """The receipt is well-formed and signed by the given key."""
    DOCUMENT = 2
    """And names the given evidence document, which binds that key."""
    PLATFORM = 3
    """And the document's signature chain ends at a pinned vendor root."""
    TEE = 4
    """And its measurements satisfy the policy and equal the receipt's."""

    @property
    def label(self) -> str:
        """The name used in files and output, lower case."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Row:
    """One check and what came of it."""

    id: str
    """Name of the check: ``SIG``, ``N4`` …"""
    layer: str
    """``parse``, ``crypto``, ``claim``, ``policy`` or ``platform``; inside an appraisal ``T1`` … ``T4``."""
    status: Status
    code: str | None = None
    """Failure code of the specification; a skip that leaves a gap has one too."""
    detail: str = ""
    expected: str | None = None
    """What was wanted, for people, where two values were compared."""
    actual: str | None = None
    required: bool = False
    """Whether policy or options ask for this check, so that a skip leaves the verdict incomplete."""
    hint: str | None = None
    """What to do, where the code alone does not say it."""

    def to_json(self) -> dict[str, Any]:
        """Return the five fields of the command line's JSON contract."""
        return {
            "id": self.id,
            "layer": self.layer,
            "status": self.status.value,
            "code": self.code,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A value that a policy does not accept; policies collect all of them."""

    id: str
    """Name of the row it fails: ``N14``, ``MODEL`` …"""
    code: str
    detail: str
    expected: str | None = None
    actual: str | None = None

    def to_row(self, layer: str) -> Row:
        """Return the failed row that reports it."""
        return Row(self.id, layer, Status.FAIL, self.code, self.detail, self.expected, self.actual, required=True)


def short_hex(value: bytes, digits: int = 16) -> str:
    """Return *value* as hex for people: whole up to 32 bytes, else both ends of it."""
    text = value.hex()
    return text if len(text) <= 64 else f"{text[:digits]}…{text[-digits // 2 :]}"


def decide(rows: Iterable[Row], *, parse_layers: frozenset[str]) -> Verdict:
    """Return the verdict that *rows* amount to (air-v1 section 8); where nothing passed, nothing is verified.

    Args:
        rows: Every row of the result.
        parse_layers: Layers whose failure means "malformed" rather than "rejected".
    """
    rows = tuple(rows)
    failed = [row for row in rows if row.status is Status.FAIL]
    if any(row.layer in parse_layers for row in failed):
        return Verdict.MALFORMED
    if failed:
        return Verdict.REJECTED
    if any(row.status is Status.SKIP and row.required for row in rows):
        return Verdict.INCOMPLETE
    if not any(row.status is Status.PASS for row in rows):
        return Verdict.INCOMPLETE
    return Verdict.VERIFIED


def printable(text: str, limit: int = CODE_TEXT_CHARACTERS) -> str:
    """Return untrusted *text* cut to *limit* characters, control and non-ASCII ones escaped."""
    return text[:limit].encode("ascii", "backslashreplace").decode().translate(_CONTROL)


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
