"""Release records: key-release.md section 1."""

import hashlib
import json
from datetime import UTC, datetime

import pytest

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.keyrelease import records
from tests.fakes.release import CONTEXT, IMAGE, Enclave

AT = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
WRAPPED = WrappedKey("local", "local:arn", b"ciphertext", CONTEXT)


def test_what_a_record_says() -> None:
    document = Enclave(Authority.ephemeral()).attest_release(b"\x30" * 294)
    made = records.record(WRAPPED, at=AT, document=document, request_id="7f-01", outcome=records.RELEASED)
    assert json.loads(json.dumps(made.to_json())) == {
        "time": "2026-01-15T12:00:00Z",
        "provider": "local",
        "key": "local:arn",
        "request_id": "7f-01",
        "document_sha256": hashlib.sha256(document).hexdigest(),
        "ciphertext_sha256": hashlib.sha256(b"ciphertext").hexdigest(),
        "context": CONTEXT,
        "pcr0": IMAGE[0].hex(),
        "outcome": "released",
    }


@pytest.mark.parametrize("request_id", [None, 7, "", "a b", "x\n", "x" * 129, {"id": "x"}])
def test_a_request_id_that_is_none_is_left_out(request_id: object) -> None:
    made = records.record(WRAPPED, at=AT, document=None, request_id=request_id, outcome="released")
    assert (made.request_id, made.document_sha256, made.pcr0) == (None, None, None)


def test_a_document_that_does_not_parse_has_no_register() -> None:
    assert records.document_pcr0(b"noise") is None
    assert records.document_pcr0(None) is None


def test_outcomes() -> None:
    assert records.outcome_of(RejectedError("x", code="KEY_RELEASE_DENIED")) == "KEY_RELEASE_DENIED"
    assert records.outcome_of(UnavailableError("x")) == "UnavailableError"
