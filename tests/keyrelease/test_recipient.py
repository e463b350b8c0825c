"""This boot's RSA key: key-release.md section 2."""

import copy
import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ephemeralml.crypto import cms
from ephemeralml.errors import RejectedError
from ephemeralml.keyrelease.recipient import RecipientKey, release_user_data

DEK = bytes(range(32))


@pytest.fixture(scope="module")
def recipient() -> RecipientKey:
    return RecipientKey.generate()


def test_the_key_is_what_a_kms_takes(recipient: RecipientKey) -> None:
    key = load_der_public_key(recipient.spki)
    assert isinstance(key, RSAPublicKey)
    assert (key.key_size, key.public_numbers().e) == (2_048, 65_537)
    assert RecipientKey.generate().spki != recipient.spki


def test_it_opens_what_was_sent_to_it(recipient: RecipientKey) -> None:
    envelope = cms.wrap(recipient.spki, DEK, constructed=True)
    assert bytes(recipient.open(envelope).reveal()) == DEK
    with pytest.raises(RejectedError, match="does not open with this boot's key"):
        RecipientKey.generate().open(envelope)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_data_key_has_32_bytes(recipient: RecipientKey, size: int) -> None:
    with pytest.raises(RejectedError, match="does not open"):
        recipient.open(cms.wrap(recipient.spki, bytes(size), constructed=False))


def test_once_dropped_it_opens_nothing() -> None:
    recipient = RecipientKey.generate()
    envelope = cms.wrap(recipient.spki, DEK, constructed=False)
    recipient.drop()
    recipient.drop()
    with pytest.raises(RuntimeError, match="dropped"):
        recipient.open(envelope)


def test_it_is_shown_and_stored_by_nothing(recipient: RecipientKey) -> None:
    assert repr(recipient) == f"RecipientKey(sha256={hashlib.sha256(recipient.spki).hexdigest()[:16]})"
    for store in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            store(recipient)


def test_user_data_has_one_reading() -> None:
    """SHA-256(lp(label) || lp(SPKI) || lp(receipt public key)), written out."""
    spki, receipt = b"\x30" * 294, b"\x22" * 32
    parts = (b"ephemeralml/keyrelease/1", spki, receipt)
    expected = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    assert release_user_data(spki, receipt) == expected
    assert release_user_data(spki + receipt[:1], receipt[1:]) != expected
