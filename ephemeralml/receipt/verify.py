"""Verifying a receipt: air-v1, section 8.

Rows come in the order of the section's tables. Layer L1 stops where nothing
after a fault could be judged; everything else is recorded and goes on, so one
result names all faults. No clock, socket, file or environment is read here.
"""

import hashlib
from collections.abc import Callable

from ephemeralml.attestation.verdict import Assurance, Status, Verdict, decide
from ephemeralml.crypto import cose
from ephemeralml.crypto.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, PublicKey
from ephemeralml.receipt import rules
from ephemeralml.receipt.claims import SECURITY_MODES, AirClaims
from ephemeralml.receipt.codes import Code, Fault, Warn
from ephemeralml.receipt.envelope import open_receipt
from ephemeralml.receipt.platform import PlatformFindings
from ephemeralml.receipt.policy import ReceiptPolicy, check_policy, check_without_evidence
from ephemeralml.receipt.replay import ReplayStore
from ephemeralml.receipt.result import MALFORMED_LAYERS, ReceiptResult
from ephemeralml.receipt.rules import Profile
from ephemeralml.receipt.trail import CLAIM, CRITICAL, CRYPTO, PARSE, POLICY, Trail

_RECEIPT_LAYERS = frozenset((PARSE, CRYPTO, CLAIM))


def verify_receipt(
    receipt: bytes,
    public_key: bytes | None,
    *,
    policy: ReceiptPolicy,
    profile: Profile = Profile.STRICT,
    now: int | None,
    replay: ReplayStore | None = None,
    appraise: Callable[[AirClaims], PlatformFindings] | None = None,
    time_basis: str = "now",
) -> ReceiptResult:
    """Verify a receipt.

    1. L1 parse: SIZE, COSE_DECODE, UNPROTECTED, ALG, CONTENT_TYPE, PROTECTED,
       PAYLOAD, CLAIMS_DECODE, EAT_PROFILE, ENCODING.
    2. L2 crypto: SIG.
    3. L3 claim: CTI, BOUNDS, MHASH_PRESENT, MEAS, MTYPE, MHASH_SCHEME, SECURITY_MODE.
    4. L4 policy: what *policy* asks for.
    5. Platform, if *appraise* is given: the evidence, the key binding, REGISTERS (section 10).
    6. REPLAY, last, so that a refused receipt never burns an id.

    Whether *public_key* belongs to a TEE is step 5's question alone.

    Args:
        receipt: The bytes as received.
        public_key: The 32 bytes of RK, from outside the receipt. None where the
            evidence should have named it and could not be read: no such result
            is ever verified.
        policy: What the caller demands.
        profile: How strictly to read.
        now: Unix seconds that count as the present; None for no usable clock.
        replay: Where accepted receipts are remembered.
        time_basis: What *now* is, where there is no evidence to say: ``now`` or ``given``.
        appraise: Judges the evidence document for these claims (`platform.appraiser`).

    Raises:
        ValueError: *public_key* has not 32 bytes; nothing was checked.
        EphemeralError: The replay store failed.
    """
    if public_key is not None and len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a receipt key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    trail = Trail()
    findings: PlatformFindings | None = None
    opened = open_receipt(receipt, profile, trail)  # 1
    claims = None
    if opened is not None:
        envelope, claims = opened
        check_signature(envelope, public_key, trail)  # 2
        check_claims(claims, profile, trail)  # 3
        check_policy(claims, policy, now, trail)  # 4
        if public_key is not None and claims.attestation_doc_hash == hashlib.sha256(public_key).digest():
            trail.warn(Warn.DOC_HASH_IS_KEY_HASH)
        if appraise is not None:
            findings = appraise(claims)  # 5
            trail.rows.extend(findings.rows)
            for warning in findings.warnings:
                trail.warn(warning)
        else:
            check_without_evidence(policy, trail)
        _check_replay(claims, public_key, replay, trail)  # 6
    return ReceiptResult(
        verdict=_verdict(trail),
        assurance=_assurance(trail, findings),
        rows=tuple(trail.rows),
        warnings=tuple(trail.warnings),
        claims=claims,
        receipt=receipt,
        public_key=public_key,
        now=now,
        time_basis=findings.time_basis if findings is not None else time_basis,
        appraisal=findings.appraisal if findings is not None else None,
    )


def check_signature(envelope: cose.Sign1, public_key: bytes | None, trail: Trail) -> None:
    """Run L2 over the bytes as received."""
    faults: tuple[Fault, ...] = ()
    assert envelope.payload is not None
    if public_key is None:
        trail.skip("SIG", CRYPTO, "there is no key: the evidence names none that could be read", required=True)
        return
    if len(envelope.signature) != SIGNATURE_BYTES:
        size = f"{len(envelope.signature)} bytes"
        faults = (Fault(Code.BAD_SIG_LENGTH, "the signature has another length", "64 bytes", size),)
    elif not cose.verify_eddsa(PublicKey(public_key), envelope.protected, envelope.payload, envelope.signature):
        faults = (Fault(Code.SIG_FAILED, f"the signature does not hold under the key {public_key.hex()}"),)
    trail.check("SIG", CRYPTO, faults)


def check_claims(claims: AirClaims, profile: Profile, trail: Trail) -> None:
    """Run L3."""
    trail.check("CTI", CLAIM, rules.cti(claims))
    trail.check("BOUNDS", CLAIM, rules.bounds(claims))
    trail.check("MHASH_PRESENT", CLAIM, rules.model_hash(claims))
    trail.check("MEAS", CLAIM, rules.measurements(claims))
    trail.check("MTYPE", CLAIM, rules.measurement_type(claims))
    trail.check("MHASH_SCHEME", CLAIM, rules.model_hash_scheme(claims))
    known = trail.check("SECURITY_MODE", CLAIM, rules.security_mode(claims, profile))
    if known and claims.security_mode not in SECURITY_MODES:
        trail.warn(Warn.FREE_SECURITY_MODE)


def _check_replay(claims: AirClaims, public_key: bytes | None, replay: ReplayStore | None, trail: Trail) -> None:
    if replay is None:
        trail.skip("REPLAY", POLICY, "no replay store was given")
        return
    if public_key is None or not trail.passed("SIG"):
        trail.skip("REPLAY", POLICY, "not looked up: the signature does not hold")
        return
    if trail.failed:
        fresh, passed = not replay.seen(public_key, claims.cti), "not seen before; not recorded, since a check failed"
    else:
        fresh, passed = replay.record(public_key, claims.cti), "not seen before, now recorded"
    fault = Fault(Code.REPLAY_CTI, f"the receipt {claims.receipt_id} was accepted before")
    trail.check("REPLAY", POLICY, () if fresh else (fault,), passed=passed)


def _verdict(trail: Trail) -> Verdict:
    verdict = decide(trail.rows, parse_layers=MALFORMED_LAYERS)
    if verdict is Verdict.VERIFIED:
        made = {row.id for row in trail.rows if row.status is Status.PASS}
        if not made >= CRITICAL:
            raise RuntimeError(f"verified without {', '.join(sorted(CRITICAL - made))}")
    return verdict


def _assurance(trail: Trail, findings: PlatformFindings | None) -> Assurance:
    """Return how far the facts carry (section 10)."""
    rows = [row for row in trail.rows if row.layer in _RECEIPT_LAYERS]
    made = {row.id for row in rows}
    if not all(row.status is Status.PASS for row in rows) or not made >= CRITICAL - {"SECURITY_MODE_POLICY"}:
        return Assurance.NONE
    if findings is None or Warn.DOC_HASH_IS_KEY_HASH in trail.warnings or not trail.passed("ADHASH"):
        return Assurance.RECEIPT
    return max(Assurance.RECEIPT, findings.assurance)
