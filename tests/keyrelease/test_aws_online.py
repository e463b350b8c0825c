"""The same answers from AWS itself: `pytest -m online`, with a key and credentials of your own.

EPHEMERALML_ONLINE_KMS_KEY names the key (ARN). Its policy lets these
credentials do GenerateDataKey, Encrypt and Decrypt without a document, so that
rows A4, A8 and A10 of key-release.md section 3 can be asked anywhere.
"""

import os
from dataclasses import replace

import pytest

from ephemeralml.errors import RejectedError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.uris import KeyUri

pytestmark = pytest.mark.online

CONTEXT = {"model_id": "online-test", "version": "1.0.0"}


@pytest.fixture
def kms() -> AwsKms:
    arn = os.environ.get("EPHEMERALML_ONLINE_KMS_KEY")
    if arn is None:
        pytest.skip("EPHEMERALML_ONLINE_KMS_KEY is not set")
    return AwsKms(KeyUri.parse(f"aws-kms:{arn}"))


def refused(code: str, name: str, call: object) -> None:
    with pytest.raises(RejectedError) as caught:
        call()  # type: ignore[operator]
    assert (caught.value.code, caught.value.kms_error) == (code, name)  # type: ignore[attr-defined]


def test_publisher_and_operator(kms: AwsKms) -> None:
    dek, wrapped = kms.generate(CONTEXT)
    assert bytes(kms.decrypt_plain(wrapped).reveal()) == bytes(dek.reveal())
    again = kms.wrap(dek, CONTEXT)
    assert bytes(kms.decrypt_plain(again).reveal()) == bytes(dek.reveal())
    assert kms.describe().state == "Enabled"


def test_the_context_is_exact(kms: AwsKms) -> None:
    _, wrapped = kms.generate(CONTEXT)
    other = replace(wrapped, context={**CONTEXT, "version": "1.0.1"})
    refused("KEY_CIPHERTEXT_INVALID", "InvalidCiphertextException", lambda: kms.decrypt_plain(other))


def test_a_document_of_noise(kms: AwsKms) -> None:
    _, wrapped = kms.generate(CONTEXT)
    refused(
        "KEY_DOCUMENT_REFUSED", "ValidationException", lambda: kms.release(wrapped.ciphertext, CONTEXT, os.urandom(512))
    )
