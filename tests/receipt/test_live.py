"""A live session accepts the receipt of its own request and nothing else (channel, section 4)."""

from typing import Any

import pytest

from ephemeralml.attestation.evidence import MeasurementType
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.errors import RejectedError
from ephemeralml.receipt import LiveReceipts, ModelEntry, VerifiedReceipt, verify_live
from tests.vectors.receipt.generate import broken
from tests.vectors.receipt.lab import IAT, NONCE, OTHER_KEY, PUBLIC, REGISTERS, claims, seal

GOOD = claims()
MODEL = ModelEntry(GOOD.model_id, GOOD.model_version, GOOD.model_hash, "sha256-manifest")
SESSION: dict[str, Any] = {
    "session_key": PUBLIC,
    "document_digest": GOOD.attestation_doc_hash,
    "measurement_type": MeasurementType.NITRO_PCR,
    "registers": {**REGISTERS, "pcr3": bytes(48)},
    "security_mode": "production",
    "model": MODEL,
    "request_hash": GOOD.request_hash,
    "response_hash": GOOD.response_hash,
    "nonce": NONCE,
    "expected_sequence": 7,
    "now": IAT,
}


FACTS = ("session_key", "document_digest", "measurement_type", "registers", "security_mode")


def accept(receipt: bytes, **changes: Any) -> VerifiedReceipt:
    return verify_live(receipt, **{**SESSION, **changes})


def session() -> LiveReceipts:
    """A session that has accepted a receipt about the model before."""
    receipts = LiveReceipts(**{name: SESSION[name] for name in FACTS})
    request = {name: value for name, value in SESSION.items() if name not in FACTS}
    receipts.accept(seal(claims(sequence_number=6).encode()), **{**request, "expected_sequence": 6})
    return receipts


def test_the_receipt_of_this_request_is_accepted() -> None:
    verified = accept(seal(GOOD.encode()), assurance=Assurance.TEE)
    assert verified.claims == GOOD
    assert verified.assurance is Assurance.TEE
    assert accept(seal(claims(eat_nonce=None).encode()), nonce=None).claims.eat_nonce is None
    evaluation = seal(claims(security_mode="evaluation").encode())
    assert accept(evaluation, security_mode="evaluation").claims.security_mode == "evaluation"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"session_key": OTHER_KEY.public.raw}, "SIG_FAILED"),
        ({"document_digest": bytes(32)}, "ATTESTATION_DOC_HASH_MISMATCH"),
        ({"registers": {**REGISTERS, "pcr1": bytes(48)}}, "RECEIPT_MEASUREMENTS_MISMATCH:pcr1"),
        ({"registers": {}}, "RECEIPT_MEASUREMENTS_MISMATCH:pcr0"),
        ({"measurement_type": None}, "RECEIPT_MEASUREMENTS_MISMATCH:measurement_type"),
        ({"measurement_type": MeasurementType.TDX_MRTD_RTMR}, "RECEIPT_MEASUREMENTS_MISMATCH:measurement_type"),
        ({"security_mode": "evaluation"}, "SECURITY_MODE_MISMATCH"),
        ({"model": ModelEntry("other", "1.0.0", GOOD.model_hash, "sha256-manifest")}, "MODEL_ID_MISMATCH"),
        ({"model": ModelEntry("minilm-l6-v2", "1.0.1", GOOD.model_hash, "sha256-manifest")}, "MODEL_VERSION_MISMATCH"),
        ({"model": ModelEntry("minilm-l6-v2", "1.0.0", b"\xbb" * 32, "sha256-manifest")}, "MODEL_HASH_MISMATCH"),
        (
            {"model": ModelEntry("minilm-l6-v2", "1.0.0", GOOD.model_hash, "sha256-single")},
            "MODEL_HASH_SCHEME_MISMATCH",
        ),
        ({"request_hash": bytes(32)}, "REQUEST_HASH_MISMATCH"),
        ({"response_hash": bytes(32)}, "RESPONSE_HASH_MISMATCH"),
        ({"nonce": bytes(8)}, "NONCE_MISMATCH"),
        ({"nonce": None}, "NONCE_MISMATCH"),
        ({"expected_sequence": 6}, "SEQUENCE_MISMATCH"),
        ({"expected_sequence": 8}, "SEQUENCE_MISMATCH"),
        ({"now": IAT - 61}, "TIMESTAMP_FUTURE"),
        ({"now": None}, "CLOCK_ERROR"),
    ],
)
def test_anything_else_is_refused_with_its_code(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        accept(seal(GOOD.encode()), **changes)
    assert caught.value.code == code
    if not set(changes) & set(FACTS):
        request = {name: value for name, value in SESSION.items() if name not in FACTS}
        with pytest.raises(RejectedError) as caught:
            session().accept(seal(GOOD.encode()), **{**request, **changes})
        assert caught.value.code == code


def test_a_later_receipt_is_the_same_value_as_the_full_verifier_gives() -> None:
    request = {name: value for name, value in SESSION.items() if name not in FACTS}
    receipt = seal(claims(execution_time_ms=1 << 40, iat=IAT + 60).encode())
    later = session().accept(receipt, **request)
    assert later == accept(receipt)


def test_a_later_receipt_with_a_changed_bit_anywhere_is_refused() -> None:
    receipts = session()
    request = {name: value for name, value in SESSION.items() if name not in FACTS}
    good = seal(GOOD.encode())
    for at in range(len(good)):
        with pytest.raises(RejectedError):
            receipts.accept(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], **request)
    assert receipts.accept(good, **request).claims == GOOD


def test_a_session_whose_clock_is_lost_accepts_nothing() -> None:
    request = {name: value for name, value in SESSION.items() if name not in FACTS}
    for now in (None, -1):
        with pytest.raises(RejectedError) as caught:
            session().accept(seal(GOOD.encode()), **{**request, "now": now})
        assert caught.value.code == "CLOCK_ERROR"


def test_a_receipt_without_the_nonce_or_the_scheme_is_refused() -> None:
    for changes, code in (
        ({"eat_nonce": None}, "NONCE_MISSING"),
        ({"model_hash_scheme": None}, "MODEL_HASH_SCHEME_MISMATCH"),
    ):
        with pytest.raises(RejectedError) as caught:
            accept(seal(claims(**changes).encode()))
        assert caught.value.code == code


def test_an_old_receipt_of_this_session_is_no_fault_of_time() -> None:
    assert accept(seal(GOOD.encode()), now=IAT + 10**6)


def test_whatever_the_strict_layers_refuse_is_refused_here_with_the_same_code() -> None:
    for vector in broken():
        if vector.policy.__class__() != vector.policy or vector.now != IAT + 10 or vector.name == "mode-evaluation":
            continue
        if vector.rows[0][0] in ("SIZE", "COSE_DECODE", "SIG") or "compat" not in vector.profile.value:
            with pytest.raises(RejectedError) as caught:
                accept(vector.receipt, session_key=vector.public_key)
            assert caught.value.code == vector.rows[0][1], vector.name
