"""The older binding in `user_data`: offline, with a warning, and never live (air-v1 section 7)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format
from ephemeralml.attestation.nitro import compat
from ephemeralml.attestation.verdict import Verdict
from ephemeralml.attestation.verify import yielded_receipt_keys
from ephemeralml.crypto import cbor
from tests.fakes.nitro import RECEIPT_KEY, check, failures, policy, row, workshop

VENDOR = workshop()
RECORD = {"receipt_signing_key": list(RECEIPT_KEY), "protocol_version": 1, "supported_features": ["embeddings"]}


def as_json(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (RECORD | changes).items() if v is not ...}).encode()


def as_cbor(**changes: Any) -> bytes:
    return cbor.encode({k: v for k, v in (RECORD | changes).items() if v is not ...})


def archive(document: bytes, **changes: Any):
    case = {
        "expected": ExpectedBinding(RECEIPT_KEY),
        "live": False,
        "at": AppraisalTime.of_document(),
        "policy": policy(nonce="optional"),
        **changes,
    }
    return check(document, **case).run()


@pytest.mark.parametrize(
    ("user_data", "form"),
    [
        (as_json(), "nitro-user-data-json"),
        (as_cbor(), "nitro-user-data-cbor"),
        (as_cbor(receipt_signing_key=RECEIPT_KEY), "nitro-user-data-cbor"),
        (
            as_cbor(hpke_public_key=bytes(32), kms_public_key=bytes(100), platform_evidence_hash=None),
            "nitro-user-data-cbor",
        ),
    ],
    ids=["json", "cbor list", "cbor bytes", "cbor with the optional fields"],
)
@pytest.mark.parametrize("public_key", [None, bytes(294), b"\x09" * 32], ids=["absent", "RSA", "X25519"])
def test_binds_offline_with_a_warning(user_data: bytes, form: str, public_key: bytes | None) -> None:
    document = VENDOR.document(user_data=user_data, public_key=public_key)
    appraisal = archive(document)
    assert appraisal.verdict is Verdict.VERIFIED
    assert appraisal.binding_form == form
    assert form in row(appraisal, "N9").detail
    assert "WARN_COMPAT_BINDING" in appraisal.warnings


def test_never_satisfies_a_live_session() -> None:
    document = VENDOR.document(user_data=as_json(), public_key=None)
    assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failures(check(document).run())


def test_public_key_is_tried_first() -> None:
    document = VENDOR.document(user_data=as_json(), public_key=RECEIPT_KEY)
    appraisal = archive(document)
    assert appraisal.binding_form == "nitro-public-key"
    assert "WARN_COMPAT_BINDING" not in appraisal.warnings


def test_another_key_does_not_bind() -> None:
    document = VENDOR.document(user_data=as_json(), public_key=None)
    appraisal = archive(document, expected=ExpectedBinding(b"\x55" * 32))
    assert failures(appraisal) == [("N9", "NITRO_PUBKEY_BINDING_MISMATCH")]


def test_the_key_can_be_taken_from_the_document() -> None:
    document = VENDOR.document(user_data=as_cbor(), public_key=None)
    assert yielded_receipt_keys(Evidence(Format.NITRO, document)) == (RECEIPT_KEY,)
    assert archive(document, expected=None).receipt_key == RECEIPT_KEY
    both = VENDOR.document(user_data=as_cbor(), public_key=b"\x55" * 32)
    assert yielded_receipt_keys(Evidence(Format.NITRO, both)) == (b"\x55" * 32, RECEIPT_KEY)


@pytest.mark.parametrize(
    "user_data",
    [
        b"",
        b"hello, world!",
        b"null",
        b"[]",
        as_json(protocol_version=2),
        as_json(protocol_version=True),
        as_json(protocol_version=1.0),
        as_json(protocol_version=...),
        as_json(supported_features=...),
        as_json(supported_features="embeddings"),
        as_json(supported_features=[1]),
        as_json(receipt_signing_key=...),
        as_json(receipt_signing_key=RECEIPT_KEY.hex()),
        as_json(receipt_signing_key=[True, *RECEIPT_KEY[1:]]),
        as_json(receipt_signing_key=[256, *RECEIPT_KEY[1:]]),
        as_json(receipt_signing_key=[-1, *RECEIPT_KEY[1:]]),
        as_json(receipt_signing_key=list(RECEIPT_KEY)[1:]),
        as_json(receipt_signing_key=[*RECEIPT_KEY, 0]),
        as_json(receipt_signing_key=[34.0, *RECEIPT_KEY[1:]]),
        as_json(other=1),
        b'{"protocol_version": 1, ' + as_json()[1:],
        as_cbor(receipt_signing_key=RECEIPT_KEY[1:]),
        as_cbor(receipt_signing_key=[True, *RECEIPT_KEY[1:]]),
        as_cbor(protocol_version=2),
        as_cbor() + b"\x00",
        b"\xbf" + cbor.encode("protocol_version") + b"\x01" + as_cbor()[1:] + b"\xff",
    ],
)
def test_nothing_else_binds(user_data: bytes) -> None:
    assert compat.receipt_key(user_data) is None


@pytest.mark.fuzz
@given(st.one_of(st.binary(max_size=600), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_no_error(user_data: bytes) -> None:
    found = compat.receipt_key(user_data)
    assert found is None or len(found.key) == 32


@pytest.mark.parametrize("encode", [as_json, as_cbor])
def test_every_byte_value_is_read(encode: Any) -> None:
    key = bytes([0, 255, 1, 254]) * 8
    found = compat.receipt_key(encode(receipt_signing_key=list(key)))
    assert found is not None
    assert found.key == key
