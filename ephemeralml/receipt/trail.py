"""The rows of a result while they are being made."""

from collections.abc import Iterable

from ephemeralml.attestation.verdict import Row, Status
from ephemeralml.receipt.codes import Fault
from ephemeralml.receipt.decode import MAX_ROWS_PER_CHECK

PARSE, CRYPTO, CLAIM, POLICY, PLATFORM = "parse", "crypto", "claim", "policy", "platform"

_PASSED = {
    row.id: row
    for row in (
        Row("SIZE", PARSE, Status.PASS, detail="at most 65,536 bytes"),
        Row("COSE_DECODE", PARSE, Status.PASS, detail="one COSE_Sign1 under tag 18, nothing after it"),
        Row("UNPROTECTED", PARSE, Status.PASS, detail="unprotected header empty"),
        Row("ALG", PARSE, Status.PASS, detail="EdDSA"),
        Row("CONTENT_TYPE", PARSE, Status.PASS, detail="application/cwt"),
        Row("PROTECTED", PARSE, Status.PASS, detail="no other protected header"),
        Row("PAYLOAD", PARSE, Status.PASS, detail="present"),
        Row("CLAIMS_DECODE", PARSE, Status.PASS, detail="all required claims, each of its type, no other"),
        Row("EAT_PROFILE", PARSE, Status.PASS, detail="AIR v1"),
        Row("ENCODING", PARSE, Status.PASS, detail="deterministic"),
        Row("SIG", CRYPTO, Status.PASS, detail="Ed25519, strict, by the given key"),
        Row("CTI", CLAIM, Status.PASS, detail="16 bytes, not zero"),
        Row("BOUNDS", CLAIM, Status.PASS, detail="time, texts, nonce and hashes within bounds"),
        Row("MHASH_PRESENT", CLAIM, Status.PASS, detail="32 bytes, not zero"),
        Row("MEAS", CLAIM, Status.PASS, detail="registers of 48 bytes"),
        Row("MTYPE", CLAIM, Status.PASS, detail="a known measurement type"),
        Row("MHASH_SCHEME", CLAIM, Status.PASS, detail="absent or known"),
        Row("SECURITY_MODE", CLAIM, Status.PASS, detail="a known mode"),
    )
}

CRITICAL = frozenset(_PASSED) | {"SECURITY_MODE_POLICY"}
"""Checks that no verified result may lack or skip (air-v1 section 8)."""


class Trail:
    """Collects rows and warnings in the order of the checks."""

    __slots__ = ("rows", "warnings")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.warnings: list[str] = []

    def check(self, name: str, layer: str, faults: Iterable[Fault], passed: str | None = None) -> bool:
        """Add the row of a check that was made, or one row per fault; return whether it passed."""
        count = 0
        for fault in faults:
            if count == MAX_ROWS_PER_CHECK:
                break
            count += 1
            self.rows.append(
                Row(name, layer, Status.FAIL, fault.code, fault.detail, fault.expected, fault.actual, True)
            )
        if count == 0:
            self.rows.append(_PASSED[name] if passed is None else Row(name, layer, Status.PASS, detail=passed))
        return count == 0

    def skip(self, name: str, layer: str, why: str, *, required: bool = False) -> None:
        """Add the row of a check that was not made."""
        self.rows.append(Row(name, layer, Status.SKIP, detail=why, required=required))

    def warn(self, warning: str) -> None:
        """Add *warning* once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    @property
    def failed(self) -> bool:
        """Whether any row so far failed."""
        return any(row.status is Status.FAIL for row in self.rows)

    def passed(self, name: str) -> bool:
        """Whether the check called *name* was made and passed."""
        found = [row for row in self.rows if row.id == name]
        return bool(found) and all(row.status is Status.PASS for row in found)
