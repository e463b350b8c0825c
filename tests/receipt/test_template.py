"""Receipts from a template are those of `issue`, byte for byte."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.issue import issue
from ephemeralml.receipt.template import VARIABLE, ReceiptTemplate

KEY = PrivateKey.from_seed(b"\x2a" * 32)
CLAIMS = AirClaims(
    iss="issuer é",
    iat=1_790_000_000,
    cti=b"\x01" * 16,
    model_id="minilm-l6-v2",
    model_version="1.0.0",
    model_hash=b"\x02" * 32,
    request_hash=b"\x03" * 32,
    response_hash=b"\x04" * 32,
    attestation_doc_hash=b"\x05" * 32,
    enclave_measurements=Measurements("nitro-pcr", b"\x06" * 48, b"\x07" * 48, b"\x08" * 48, pcr4=b"\x09" * 48),
    policy_version="local",
    sequence_number=0,
    execution_time_ms=0,
    memory_peak_mb=0,
    security_mode="evaluation",
    model_hash_scheme="sha256-manifest",
)
TEMPLATE = ReceiptTemplate(CLAIMS, KEY)
GOOD = {name: getattr(CLAIMS, name) for name in VARIABLE}

uints = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 23, 24, 255, 256, 65_535, 65_536, 1 << 32, (1 << 32) - 1])
digests = st.binary(min_size=32, max_size=32)


@given(
    st.fixed_dictionaries(
        {
            "iat": uints.filter(bool),
            "cti": st.binary(min_size=16, max_size=16).filter(any),
            "request_hash": digests,
            "response_hash": digests,
            "sequence_number": uints,
            "execution_time_ms": uints,
            "memory_peak_mb": uints,
            "eat_nonce": st.none() | st.binary(min_size=8, max_size=64),
        }
    )
)
def test_the_bytes_are_those_of_issue(values: dict[str, object]) -> None:
    assert TEMPLATE.issue(**values) == issue(replace(CLAIMS, **values), KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash_scheme": None},
        {"enclave_measurements": Measurements("tdx-mrtd-rtmr", *[b"\x06" * 48] * 5)},
        {"enclave_measurements": Measurements("nitro-pcr", *[b"\x06" * 48] * 6)},
    ],
)
def test_optional_claims_may_be_absent_or_there(change: dict[str, object]) -> None:
    claims = replace(CLAIMS, **change)  # type: ignore[arg-type]
    assert ReceiptTemplate(claims, KEY).issue(**GOOD) == issue(claims, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"iat": 0},
        {"iat": 1 << 64},
        {"cti": bytes(16)},
        {"cti": b"\x01" * 15},
        {"request_hash": b"\x03" * 31},
        {"response_hash": b"\x04" * 33},
        {"sequence_number": -1},
        {"execution_time_ms": 1 << 64},
        {"memory_peak_mb": -1},
        {"eat_nonce": b"\x00" * 7},
        {"eat_nonce": b"\x00" * 65},
    ],
)
def test_values_out_of_bounds_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        TEMPLATE.issue(**{**GOOD, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"iss": ""}, {"model_hash": bytes(32)}, {"security_mode": "prod"}])
def test_shared_claims_are_checked_when_the_template_is_made(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        ReceiptTemplate(replace(CLAIMS, **change), KEY)  # type: ignore[arg-type]
