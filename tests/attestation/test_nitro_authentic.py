"""`authentic_document`: N1 to N8 and nothing else."""

from datetime import timedelta

import pytest

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields, Fault
from ephemeralml.attestation.nitro.authentic import authentic_document
from ephemeralml.attestation.roots import AWS_NITRO, NO_ROOTS
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError

NOW = clock.now()
PCRS = {index: bytes([index]) * 48 for index in range(16)}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.ephemeral(at=NOW)


def made(authority: Authority, *faults: Fault) -> bytes:
    fields = DocumentFields("i-1-enc1", PCRS, public_key=b"any key", user_data=b"u", nonce=b"n")
    return authority.issue_document(fields, NOW, faults)


def test_what_it_says(authority: Authority) -> None:
    found = authentic_document(made(authority), roots=authority.roots, at=NOW)
    assert (found.module_id, dict(found.pcrs)) == ("i-1-enc1", PCRS)
    assert (found.public_key, found.user_data, found.nonce) == (b"any key", b"u", b"n")
    assert abs(found.timestamp - NOW) < timedelta(milliseconds=2)


@pytest.mark.parametrize(
    "fault", [Fault.ZERO_PCR, Fault.STALE_TIME, Fault.FUTURE_TIME, Fault.WRONG_NONCE, Fault.TAGGED]
)
def test_what_is_left_to_others(authority: Authority, fault: Fault) -> None:
    assert authentic_document(made(authority, fault), roots=authority.roots, at=NOW)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.OVERSIZE, "NITRO_DOC_PARSE_FAILED"),
        (Fault.UNSIGNED, "NITRO_DOC_UNSUPPORTED"),
        (Fault.MISSING_FIELD, "NITRO_FIELD_INVALID:module_id"),
        (Fault.EXTRA_FIELD, "NITRO_FIELD_INVALID:comment"),
    ],
)
def test_shape(authority: Authority, fault: Fault, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        authentic_document(made(authority, fault), roots=authority.roots, at=NOW)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.BAD_SIGNATURE, "NITRO_DOC_SIG_INVALID"),
        (Fault.OTHER_ROOT, "NITRO_CERT_CHAIN_INVALID"),
        (Fault.WRONG_ISSUER, "NITRO_CERT_CHAIN_INVALID"),
        (Fault.EXPIRED_LEAF, "NITRO_CERT_TIME_INVALID"),
    ],
)
def test_signature_and_chain(authority: Authority, fault: Fault, code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        authentic_document(made(authority, fault), roots=authority.roots, at=NOW)
    assert caught.value.code == code


def test_later_and_under_other_roots(authority: Authority) -> None:
    with pytest.raises(RejectedError):
        authentic_document(made(authority), roots=authority.roots, at=NOW + timedelta(hours=4))
    with pytest.raises(RejectedError):
        authentic_document(made(authority), roots=AWS_NITRO, at=NOW)
    with pytest.raises(IncompleteError):
        authentic_document(made(authority), roots=NO_ROOTS, at=NOW)
