"""Receipts from a template are those of `issue`, byte for byte, and are read back as the verifier reads them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import cose
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.issue import issue
from ephemeralml.receipt.policy import ReceiptPolicy
from ephemeralml.receipt.template import ReceiptTemplate, Variable
from ephemeralml.receipt.verify import verify_receipt

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
TEMPLATE = ReceiptTemplate(CLAIMS)
GOOD = Variable(**{name: getattr(CLAIMS, name) for name in Variable._fields})

uints = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 23, 24, 255, 256, 65_535, 65_536, 1 << 32, (1 << 32) - 1])
digests = st.binary(min_size=32, max_size=32)


variables = st.builds(
    Variable,
    iat=uints.filter(bool),
    cti=st.binary(min_size=16, max_size=16).filter(any),
    eat_nonce=st.none() | st.binary(min_size=8, max_size=64),
    request_hash=digests,
    response_hash=digests,
    sequence_number=uints,
    execution_time_ms=uints,
    memory_peak_mb=uints,
)


@given(variables)
def test_the_bytes_are_those_of_issue_and_are_read_back(values: Variable) -> None:
    receipt = TEMPLATE.write(values, KEY)
    assert receipt == issue(replace(CLAIMS, **values._asdict()), KEY)
    assert TEMPLATE.read(receipt, KEY.public) == values


def sealed(payload: bytes) -> bytes:
    """A receipt with an authentic signature over whatever *payload* is."""
    protected = bytes.fromhex("a2012703183d")
    return cose.encode(protected, payload, cose.sign_eddsa(KEY, protected, payload), tagged=True)


@given(variables, st.data())
def test_what_is_read_from_changed_claims_is_what_the_verifier_reads(values: Variable, data: st.DataObject) -> None:
    payload = bytearray(replace(CLAIMS, **values._asdict()).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        how = data.draw(st.sampled_from(["change", "drop", "insert"]))
        if how == "change":
            payload[at] = data.draw(st.integers(0, 255))
        elif how == "drop":
            del payload[at]
        else:
            payload.insert(at, data.draw(st.integers(0, 255)))
    receipt = sealed(bytes(payload))
    found = TEMPLATE.read(receipt, KEY.public)
    if found is not None:
        policy = ReceiptPolicy(allow_evaluation=True)
        verified = verify_receipt(receipt, KEY.public.raw, policy=policy, now=(1 << 64) - 1).require()
        assert verified.claims == replace(CLAIMS, **found._asdict())


@pytest.mark.fuzz
@given(st.binary(max_size=700))
def test_nothing_else_is_read_from_garbage(garbage: bytes) -> None:
    assert TEMPLATE.read(garbage, KEY.public) is None
    assert TEMPLATE.read(sealed(garbage), KEY.public) is None


def test_another_signer_is_not_read() -> None:
    assert TEMPLATE.read(TEMPLATE.write(GOOD, KEY), PrivateKey.generate().public) is None


@pytest.mark.parametrize("change", [{"iss": "other"}, {"policy_version": "other"}, {"model_version": "1.0.1"}])
def test_another_shared_claim_is_not_read(change: dict[str, object]) -> None:
    assert TEMPLATE.read(issue(replace(CLAIMS, **change), KEY), KEY.public) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"iat": 0}, {"cti": bytes(16)}, {"eat_nonce": bytes(7)}, {"eat_nonce": bytes(65)}])
def test_a_value_out_of_bounds_is_not_read(change: dict[str, object]) -> None:
    payload = replace(CLAIMS, **change).encode()  # type: ignore[arg-type]
    assert TEMPLATE.read(sealed(payload), KEY.public) is None


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
    assert ReceiptTemplate(claims).write(GOOD, KEY) == issue(claims, KEY)


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
        TEMPLATE.write(GOOD._replace(**change), KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"iss": ""}, {"model_hash": bytes(32)}, {"security_mode": "prod"}])
def test_shared_claims_are_checked_when_the_template_is_made(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        ReceiptTemplate(replace(CLAIMS, **change))  # type: ignore[arg-type]
