"""The emitter: refuses what breaks a rule, repairs nothing, gives the same bytes for the same claims."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.verdict import Verdict
from ephemeralml.errors import MalformedError
from ephemeralml.receipt import AirClaims, Measurements, ReceiptPolicy, issue, verify_receipt
from ephemeralml.receipt.claims import SECURITY_MODES, SLOTS
from tests.vectors.receipt.lab import IAT, KEY, NONCE, PROTECTED, PUBLIC, claims, pairs, seal


def test_issued_receipt_is_byte_for_byte_what_the_page_shows() -> None:
    receipt = issue(claims(), KEY)
    assert receipt == seal(pairs())
    assert receipt.startswith(bytes.fromhex("d284") + b"\x46" + PROTECTED + b"\xa0\x59")
    assert receipt[-66:-64] == b"\x58\x40"
    assert issue(claims(), KEY) == receipt


@pytest.mark.parametrize(
    ("claims_present", "first"),
    [({"eat_nonce": None, "model_hash_scheme": None}, 0xB0), ({"eat_nonce": None}, 0xB1), ({}, 0xB2)],
)
def test_payload_begins_with_the_number_of_claims(claims_present: dict[str, Any], first: int) -> None:
    assert claims(**claims_present).encode()[0] == first


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cti": bytes(16)}, "BAD_CTI_LENGTH"),
        ({"cti": b"x" * 15}, "BAD_CTI_LENGTH"),
        ({"iat": 0}, "OUT_OF_RANGE:iat"),
        ({"iss": ""}, "OUT_OF_RANGE:iss"),
        ({"iss": "x" * 257}, "OUT_OF_RANGE:iss"),
        ({"model_version": "é" * 65}, "OUT_OF_RANGE:model_version"),
        ({"eat_nonce": NONCE[:7]}, "OUT_OF_RANGE:eat_nonce"),
        ({"eat_nonce": b"n" * 65}, "OUT_OF_RANGE:eat_nonce"),
        ({"request_hash": b"h" * 31}, "BAD_HASH_LENGTH:request_hash"),
        ({"model_hash": bytes(32)}, "ZERO_MODEL_HASH"),
        ({"pcr1": bytes(32)}, "BAD_MEASUREMENT_LENGTH"),
        ({"measurement_type": "tdx-mrtd-rtmr", "pcr8": bytes(48)}, "TDX_PCR8_FORBIDDEN"),
        ({"measurement_type": "sgx"}, "UNKNOWN_MTYPE:sgx"),
        ({"model_hash_scheme": "md5"}, "UNKNOWN_MODEL_HASH_SCHEME:md5"),
        ({"security_mode": "GatewayOnly"}, "UNKNOWN_SECURITY_MODE:GatewayOnly"),
        ({"eat_profile": "other"}, "WRONG_PROFILE"),
        ({"iat": True}, "WRONG_TYPE:iat"),
        ({"iat": 1.0}, "WRONG_TYPE:iat"),
        ({"sequence_number": -1}, "WRONG_TYPE:sequence_number"),
        ({"sequence_number": 2**64}, "WRONG_TYPE:sequence_number"),
        ({"model_id": None}, "WRONG_TYPE:model_id"),
        ({"model_hash": bytearray(32)}, "WRONG_TYPE:model_hash"),
        ({"request_hash": "h" * 32}, "WRONG_TYPE:request_hash"),
        ({"enclave_measurements": {}}, "WRONG_TYPE:enclave_measurements"),
        ({"pcr0": None}, "WRONG_TYPE:enclave_measurements.pcr0"),
        ({"pcr8": bytearray(48)}, "WRONG_TYPE:enclave_measurements.pcr8"),
        ({"measurement_type": None}, "WRONG_TYPE:enclave_measurements.measurement_type"),
    ],
)
def test_claims_that_break_a_rule_are_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        issue(claims(**changes), KEY)
    assert caught.value.code == code


def text(most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=most // 4)


hashes = st.binary(min_size=32, max_size=32)
register = st.binary(min_size=48, max_size=48)
numbers = st.integers(0, 2**64 - 1)


@st.composite
def any_claims(draw: st.DrawFn) -> AirClaims:
    tdx = draw(st.booleans())
    optional = {slot: draw(st.none() | register) for slot in SLOTS[3:]}
    if tdx:
        optional["pcr8"] = None
    return AirClaims(
        iss=draw(text(256)),
        iat=draw(st.integers(1, IAT)),
        cti=draw(st.binary(min_size=16, max_size=16).filter(any)),
        eat_nonce=draw(st.none() | st.binary(min_size=8, max_size=64)),
        model_id=draw(text(256)),
        model_version=draw(text(128)),
        model_hash=draw(hashes.filter(any)),
        request_hash=draw(hashes),
        response_hash=draw(hashes),
        attestation_doc_hash=draw(hashes),
        enclave_measurements=Measurements(
            "tdx-mrtd-rtmr" if tdx else "nitro-pcr", draw(register), draw(register), draw(register), **optional
        ),
        policy_version=draw(text(256)),
        sequence_number=draw(numbers),
        execution_time_ms=draw(numbers),
        memory_peak_mb=draw(numbers),
        security_mode=draw(st.sampled_from(sorted(SECURITY_MODES))),
        model_hash_scheme=draw(st.sampled_from([None, "sha256-single", "sha256-concat", "sha256-manifest"])),
    )


@given(stated=any_claims())
def test_what_is_issued_verifies_strictly_and_says_the_same(stated: AirClaims) -> None:
    receipt = issue(stated, KEY)
    result = verify_receipt(receipt, PUBLIC, policy=ReceiptPolicy(allow_evaluation=True), now=IAT)
    assert result.verdict is Verdict.VERIFIED
    assert result.claims == stated
    assert len(receipt) <= 65_536


@given(stated=any_claims(), data=st.data())
def test_encoding_is_the_deterministic_one(stated: AirClaims, data: st.DataObject) -> None:
    from ephemeralml.crypto import cbor

    payload = stated.encode()
    decoded = cbor.decode(payload, max_bytes=65_536)
    assert cbor.encode(decoded) == payload
