"""The code table: complete, explained, and the same in the documentation."""

import re
from pathlib import Path

from ephemeralml.attestation.fixes import EVIDENCE_FIXES
from ephemeralml.receipt.codes import CODES, LIVE_FIXES, WARNINGS, Code, LiveCode, Warn, base, explain_warning, fix

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "receipts.md").read_text(encoding="utf-8")
PUBLISHED = [
    "RECEIPT_TOO_LARGE",
    "COSE_DECODE_FAILED",
    "NON_EMPTY_UNPROTECTED",
    "BAD_ALG",
    "BAD_CONTENT_TYPE",
    "MISSING_PAYLOAD",
    "PAYLOAD_NOT_MAP",
    "WRONG_PROFILE",
    "MISSING_CLAIM",
    "WRONG_TYPE",
    "BAD_SIG_LENGTH",
    "SIG_FAILED",
    "BAD_CTI_LENGTH",
    "ZERO_MODEL_HASH",
    "BAD_HASH_LENGTH",
    "BAD_MEASUREMENT_LENGTH",
    "UNKNOWN_MTYPE",
    "UNKNOWN_MODEL_HASH_SCHEME",
    "UNKNOWN_SECURITY_MODE",
    "TIMESTAMP_FUTURE",
    "TIMESTAMP_STALE",
    "CLOCK_ERROR",
    "MODEL_HASH_MISMATCH",
    "REQUEST_HASH_MISMATCH",
    "RESPONSE_HASH_MISMATCH",
    "ATTESTATION_DOC_HASH_MISMATCH",
    "MODEL_ID_MISMATCH",
    "SECURITY_MODE_MISMATCH",
    "EVALUATION_MODE_REJECTED",
    "PLATFORM_MISMATCH",
    "NONCE_MISMATCH",
    "NONCE_MISSING",
    "REPLAY_CTI",
]
OWN = [
    "EXTRA_PROTECTED_HEADER",
    "NON_CANONICAL",
    "DUPLICATE_KEY",
    "UNKNOWN_CLAIM",
    "UNKNOWN_MEASUREMENT",
    "OUT_OF_RANGE",
    "TDX_PCR8_FORBIDDEN",
    "EVIDENCE_FORMAT_UNKNOWN",
    "RECEIPT_MEASUREMENTS_MISMATCH",
]


def test_codes_are_the_33_published_and_our_nine() -> None:
    assert len(PUBLISHED) == 33
    assert {code.value for code in Code} == {*PUBLISHED, *OWN}
    assert set(CODES) == set(Code)
    assert {code.value for code, entry in CODES.items() if entry.own} == set(OWN)


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    for code, entry in CODES.items():
        for text in (entry.meaning, entry.fix):
            assert text, code
            assert not text.endswith("."), code
            assert text[0].islower() or text.startswith("TDX"), code
    assert fix("MISSING_CLAIM:iss") == CODES[Code.MISSING_CLAIM].fix
    assert fix("NITRO_FIELD_INVALID:nonce") == EVIDENCE_FIXES["NITRO_FIELD_INVALID"]
    assert fix("NO_SUCH_CODE") is None
    assert all(fix(code) for code in LiveCode)
    assert base("UNKNOWN_CLAIM:a:b") == "UNKNOWN_CLAIM"


def test_every_warning_is_explained() -> None:
    for warning in Warn:
        assert explain_warning(warning) != warning
    assert explain_warning("WARN_OF_TOMORROW") == "WARN_OF_TOMORROW"


def test_the_documentation_has_the_same_table() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)(?::[a-z]+)?`( \+)? \| (\w+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    documented = {name: (own == " +", layer, meaning, advice) for name, own, layer, meaning, advice in rows}
    assert documented == {
        code.value: (entry.own, entry.layer, entry.meaning, entry.fix) for code, entry in CODES.items()
    }


def test_the_documentation_explains_the_other_codes_and_every_warning() -> None:
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert rows == {**EVIDENCE_FIXES, **LIVE_FIXES, **WARNINGS}


def test_verified_receipts_come_from_the_verifier_alone() -> None:
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ephemeralml").rglob("*.py")
        if re.search(r"(?<!class )\bVerifiedReceipt\(", path.read_text(encoding="utf-8"))
    }
    assert makers == {"ephemeralml/receipt/result.py", "ephemeralml/receipt/live.py"}
