"""Nitro documents, and the software TEE's: authentic, fresh, bound, accepted? (attestation section 2).

`appraise` runs the steps N1 to N14. Reading bytes is `document`'s business,
what a policy accepts `policy`'s; here the two meet with keys and time.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.attestation.appraisal import T1, T2, T3, T4, RowList
from ephemeralml.attestation.binding import nitro_fields
from ephemeralml.attestation.collateral import Collateral
from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.attestation.fixes import (
    SOFTWARE_OF_ANOTHER_ROOT,
    SOFTWARE_UNDER_VENDOR_ROOTS,
    VENDOR_UNDER_LOCAL_POLICY,
)
from ephemeralml.attestation.nitro import compat, crl
from ephemeralml.attestation.nitro.document import FIELD_INVALID, UNSUPPORTED, NitroDocument, parse
from ephemeralml.attestation.nitro.policy import NitroSection, Revocation
from ephemeralml.attestation.roots import RootKind, TrustRoots, is_software_root
from ephemeralml.attestation.verdict import printable, short_hex
from ephemeralml.clock import format_rfc3339
from ephemeralml.crypto import cose, x509
from ephemeralml.errors import MalformedError, RejectedError

STEPS = (
    *((step, T1) for step in ("N1", "N2", "N3")),
    ("N4", T2),
    *((step, T3) for step in ("N5", "N6", "N7", "N8")),
    *((step, T4) for step in ("N9", "N10", "N11", "N12", "N13", "N14")),
)
"""The rows of a Nitro or local document, in the specification's order."""

BINDING_STEP = "N9"
MEASUREMENT_STEP = "N14"
RECEIPT_SLOTS = ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
"""Registers that a receipt can state (air-v1 section 4)."""

FORM_PUBLIC_KEY = "nitro-public-key"

SIG_INVALID = "NITRO_DOC_SIG_INVALID"
CHAIN_INVALID = "NITRO_CERT_CHAIN_INVALID"
TIME_INVALID = "NITRO_CERT_TIME_INVALID"
ANCHOR_MISSING = "TRUST_ANCHOR_MISSING"
PUBKEY_MISMATCH = "NITRO_PUBKEY_BINDING_MISMATCH"
USERDATA_MISMATCH = "NITRO_USERDATA_BINDING_MISMATCH"
NONCE_MISMATCH = "NITRO_NONCE_MISMATCH"
DOC_STALE = "NITRO_DOC_STALE"
DOC_AHEAD = "NITRO_DOC_TIME_INVALID"
DEBUG_REJECTED = "NITRO_DEBUG_REJECTED"
MEASUREMENT_MISMATCH = "NITRO_MEASUREMENT_MISMATCH"
PINNING_DISABLED = "POLICY_MEASUREMENT_PINNING_DISABLED"

WARN_COMPAT_BINDING = "WARN_COMPAT_BINDING"
WARN_REVOCATION = "WARN_REVOCATION_UNCHECKED"
WARN_REVOKED_LATER = "WARN_REVOKED_LATER"
WARN_PINNING_BYPASSED = "WARN_MEASUREMENT_PINNING_BYPASSED"
WARN_CHANNEL_BINDING = "WARN_CHANNEL_BINDING_UNCHECKED"
WARN_NONCE = "WARN_NONCE_UNCHECKED"
WARN_DEBUG = "WARN_DEBUG_EVIDENCE"
WARN_INSTANCE = "WARN_INSTANCE_ID_MISMATCH"


@dataclass(frozen=True, slots=True)
class NitroTerms:
    """What a policy says about documents of this structure; the defaults are the strict ones."""

    section: NitroSection | None
    """None where no policy was given: registers are then judged by nobody."""
    max_age: timedelta = timedelta(seconds=300)
    max_skew: timedelta = timedelta(seconds=60)
    nonce_required: bool = False
    debug_allowed: bool = False
    pins_optional: bool = False
    """True for the software TEE, whose registers may be reported instead of pinned."""


@dataclass(frozen=True, slots=True)
class Case:
    """One document with everything it is judged by."""

    document: NitroDocument
    expected: ExpectedBinding | None
    terms: NitroTerms
    roots: TrustRoots
    collateral: Collateral
    at: datetime
    live: bool


@dataclass(frozen=True, slots=True)
class BoundKey:
    """The receipt key that a document carries, and in which form."""

    form: str
    key: bytes


def read(document: bytes, rows: RowList) -> NitroDocument | None:
    """Run N1 to N3 and return the parsed document, or None where one of them failed."""
    try:
        parsed = parse(document)
    except MalformedError as error:
        code = error.code or FIELD_INVALID
        step = "N3" if code.startswith(FIELD_INVALID) else "N2" if code == UNSUPPORTED else "N1"
        for earlier in ("N1", "N2", "N3")[: int(step[1]) - 1]:
            rows.passed(earlier)
        rows.failed(step, code, error.message)
        return None
    rows.passed("N1", f"{len(document)} bytes")
    rows.passed("N2", "ES384")
    rows.passed("N3", f"module {printable(parsed.module_id)}, {len(parsed.pcrs)} registers")
    return parsed


def appraise(case: Case, rows: RowList) -> BoundKey | None:
    """Run N4 to N14 on a parsed document and return the receipt key it binds.

    N4.  The signature over the received payload, under the leaf's key.
    N5.  The first certificate is a root of the given set.
    N6.  Each certificate issued the next one, down to the leaf.
    N7.  Every certificate is valid at the given instant.
    N8.  None is revoked, where the policy asks or lists were handed in.
    N9.  The receipt key.   N10. The channel binding.   N11. The nonce.
    N12. Live: neither too old nor ahead.
    N13. No debug enclave.  N14. Registers that one entry allows.

    N4 to N8 stop at the first failure. The others all run once the signature
    holds, so that every mismatch is reported.

    Whether the receipt states the same registers is the receipt verifier's to check.
    """
    if not _signature(case, rows):
        return None
    _chain(case, rows)
    bound = _receipt_key(case, rows)
    _channel_binding(case, rows)
    _nonce(case, rows)
    _freshness(case, rows)
    _debug(case, rows)
    _measurements(case, rows)
    return bound


def authenticate(case: Case, rows: RowList) -> None:
    """Run N4 to N8 alone: who made the document, not what it is bound to or whether it is accepted."""
    if _signature(case, rows):
        _chain(case, rows)


def _signature(case: Case, rows: RowList) -> bool:
    sign1 = case.document.sign1
    key = case.document.chain[-1].public_key()
    assert sign1.payload is not None
    if isinstance(key, ec.EllipticCurvePublicKey) and cose.verify_es384(
        key, sign1.protected, sign1.payload, sign1.signature
    ):
        rows.passed("N4", "the leaf's key signed the payload")
        return True
    rows.failed("N4", SIG_INVALID, "the signature does not verify under the leaf certificate's P-384 key")
    return False


def _chain(case: Case, rows: RowList) -> None:
    document, roots = case.document, case.roots
    root = hashlib.sha256(document.cabundle[0]).hexdigest()
    if not roots.configured:
        rows.skipped("N5", "no trust root for this format was given", code=ANCHOR_MISSING, required=True)
    elif not roots.accept(document.cabundle[0]):
        pinned = ", ".join(sorted(digest.hex() for digest in roots.digests)) or "a software root"
        detail, hint = _other_root(document.cabundle[0], roots)
        rows.failed("N5", CHAIN_INVALID, detail, expected=pinned, actual=root, hint=hint)
        return
    else:
        rows.passed("N5", f"{roots.kind.value} root {root}")
    try:
        x509.verify_path(document.chain, rules=x509.P384_RULES, cache=roots.cache)
    except RejectedError as error:
        rows.failed("N6", CHAIN_INVALID, error.message)
        return
    rows.passed("N6", f"{len(document.chain)} certificates")
    try:
        x509.check_validity(document.chain, case.at)
    except RejectedError as error:
        rows.failed("N7", TIME_INVALID, error.message, expected=error.expected, actual=error.actual)
        return
    rows.passed("N7", f"all valid at {format_rfc3339(case.at)}")
    _revocation(case, rows)


def _other_root(der: bytes, roots: TrustRoots) -> tuple[str, str | None]:
    """Return what is wrong with a root that *roots* do not accept, and what to do where that is not obvious."""
    software = is_software_root(der)
    if roots.kind is RootKind.SOFTWARE:
        another = ("the chain begins at another software root", SOFTWARE_OF_ANOTHER_ROOT)
        return another if software else ("the chain begins at no software root", VENDOR_UNDER_LOCAL_POLICY)
    if software:
        return "the chain begins at no vendor root but at a software one", SOFTWARE_UNDER_VENDOR_ROOTS
    return "the chain begins at no vendor root that is trusted here", None


def _revocation(case: Case, rows: RowList) -> None:
    section = case.terms.section
    required = section is not None and section.revocation is Revocation.REQUIRED
    if not required and not case.collateral.crls:
        rows.skipped("N8", "no policy asks for revocation lists")
        rows.warn(WARN_REVOCATION)
        return
    try:
        findings = crl.check(case.document.chain, case.collateral.crls, case.at)
    except RejectedError as error:
        rows.failed("N8", error.code, error.message)
        return
    for revoked in findings.later:
        rows.warn(f"{WARN_REVOKED_LATER}:{format_rfc3339(revoked)}")
    if findings.gap is None:
        rows.passed("N8", "no certificate is on its issuer's list")
    else:
        rows.skipped("N8", findings.gap, code=crl.UNAVAILABLE, required=required)
        rows.warn(WARN_REVOCATION)


def bound_key(document: NitroDocument, receipt_key: bytes | None, *, live: bool) -> BoundKey | None:
    """Return the receipt key that *document* carries, in the first form that holds (air-v1 section 7).

    Args:
        document: A parsed document.
        receipt_key: The key it must be, or None to take what it yields.
        live: A live session accepts `public_key` alone.
    """
    found = carried_keys(document, live=live)
    return next((item for item in found if receipt_key is None or hmac.compare_digest(item.key, receipt_key)), None)


def carried_keys(document: NitroDocument, *, live: bool) -> tuple[BoundKey, ...]:
    """Return what *document* carries in each form that could hold the receipt key, in the order they are tried."""
    found = []
    if document.public_key is not None and len(document.public_key) == 32:
        found.append(BoundKey(FORM_PUBLIC_KEY, document.public_key))
    if not live and document.user_data is not None and (older := compat.receipt_key(document.user_data)) is not None:
        found.append(BoundKey(older.form, older.key))
    return tuple(found)


def _receipt_key(case: Case, rows: RowList) -> BoundKey | None:
    wanted = nitro_fields(case.expected).public_key if case.expected is not None else None
    bound = bound_key(case.document, wanted, live=case.live)
    if bound is None:
        actual = case.document.public_key
        rows.failed(
            "N9",
            PUBKEY_MISMATCH,
            "the document does not carry the receipt key",
            expected=short_hex(wanted) if wanted is not None else "a 32-byte key",
            actual=short_hex(actual) if actual is not None else "no public_key",
        )
        return None
    if bound.form != FORM_PUBLIC_KEY:
        rows.warn(WARN_COMPAT_BINDING)
    verb = "carries" if wanted is not None else "yields"
    rows.passed("N9", f"{bound.form} {verb} {short_hex(bound.key)}")
    return bound


def _channel_binding(case: Case, rows: RowList) -> None:
    wanted = nitro_fields(case.expected).user_data if case.expected is not None else None
    if wanted is None:
        rows.skipped("N10", "no channel binding to compare with", required=case.live)
        rows.warn(WARN_CHANNEL_BINDING)
        return
    actual = case.document.user_data
    if actual is not None and hmac.compare_digest(actual, wanted):
        rows.passed("N10", f"user_data is {short_hex(wanted)}")
        return
    rows.failed(
        "N10",
        USERDATA_MISMATCH,
        "the document was made for another session",
        expected=short_hex(wanted),
        actual=short_hex(actual) if actual is not None else "no user_data",
    )


def _nonce(case: Case, rows: RowList) -> None:
    wanted = nitro_fields(case.expected).nonce if case.expected is not None else None
    actual = case.document.nonce
    if wanted is None and (actual is not None or not (case.terms.nonce_required or case.live)):
        rows.skipped("N11", "no nonce to compare with", required=case.live)
        rows.warn(WARN_NONCE)
    elif wanted is not None and actual is not None and hmac.compare_digest(actual, wanted):
        rows.passed("N11", f"nonce is {short_hex(wanted)}")
    else:
        rows.failed(
            "N11",
            NONCE_MISMATCH,
            "the document does not carry the caller's nonce",
            expected=short_hex(wanted) if wanted is not None else "a nonce",
            actual=short_hex(actual) if actual is not None else "no nonce",
        )


def _freshness(case: Case, rows: RowList) -> None:
    if not case.live:
        rows.skipped("N12", "no live session")
        return
    terms, age = case.terms, case.at - case.document.timestamp
    if age > terms.max_age:
        limit = f"at most {terms.max_age.total_seconds():.0f} s old"
        rows.failed("N12", DOC_STALE, "too old", expected=limit, actual=f"{age.total_seconds():.3f} s")
    elif -age > terms.max_skew:
        limit = f"at most {terms.max_skew.total_seconds():.0f} s ahead"
        rows.failed("N12", DOC_AHEAD, "from the future", expected=limit, actual=f"{-age.total_seconds():.3f} s ahead")
    else:
        rows.passed("N12", f"{age.total_seconds():.3f} s old")


def _debug(case: Case, rows: RowList) -> None:
    zero = [f"PCR{index}" for index in (0, 1, 2) if not any(case.document.pcrs[index])]
    if not zero:
        rows.passed("N13", "PCR0, PCR1 and PCR2 are set")
    elif case.terms.debug_allowed:
        rows.passed("N13", "a debug enclave, which the policy lets through for evaluation")
        rows.warn(WARN_DEBUG)
    else:
        rows.failed(
            "N13",
            DEBUG_REJECTED,
            "a debug enclave: its owner can read its memory",
            expected="PCR0, PCR1 and PCR2 non-zero",
            actual=f"{', '.join(zero)} zero",
        )


def _measurements(case: Case, rows: RowList) -> None:
    section = case.terms.section
    if section is None:
        rows.skipped("N14", "no policy for this format to compare the registers with")
    elif not section.allow and case.terms.pins_optional:
        rows.skipped("N14", "the policy pins no registers of a software TEE")
        rows.warn(WARN_PINNING_BYPASSED)
    elif not section.allow:
        rows.failed("N14", PINNING_DISABLED, "the policy pins no measurement")
    elif case.terms.debug_allowed and case.document.debug:
        rows.skipped("N14", "a debug enclave has no measurements")
        rows.warn(WARN_PINNING_BYPASSED)
    else:
        differences = section.differences(all_registers(case.document), case.at)
        for item in differences:
            rows.failed(
                "N14",
                MEASUREMENT_MISMATCH,
                f"{item.register} is not that of {item.entry!a}, the nearest entry",
                expected=item.expected,
                actual=item.actual,
            )
        if not differences:
            rows.passed("N14", "the registers are those of one entry")


def all_registers(document: NitroDocument) -> Mapping[str, bytes]:
    """Return every register by name, ``pcr0`` to ``pcr31``."""
    return MappingProxyType({f"pcr{index}": value for index, value in document.pcrs.items()})


def receipt_registers(document: NitroDocument) -> Mapping[str, bytes]:
    """Return the registers that a receipt can state, as far as the document has them."""
    registers = all_registers(document)
    return MappingProxyType({slot: registers[slot] for slot in RECEIPT_SLOTS if slot in registers})


def instance_agrees(document: NitroDocument) -> bool | None:
    """Return whether PCR4 is that of the instance id in `module_id`; None where either is missing."""
    register, instance = document.pcrs.get(4), document.instance_id
    if register is None or instance is None:
        return None
    return register == hashlib.sha384(bytes(48) + instance.encode()).digest()
