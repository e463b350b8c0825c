"""Asking a key that may answer wrongly: what it would say crosses no network in the clear."""

from pathlib import Path

import pytest

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.keyrelease.policy.ask import Whose, ask_decrypt, require_credentials
from tests.fakes.faulty_kms import answer, blob, error, serving

ARN = "arn:aws:kms:eu-central-1:111122223333:key/0f8fad5b-d9cb-469f-a165-70867728950e"
FIELDS = {"KeyId": ARN, "CiphertextBlob": b"wrapped", "EncryptionContext": {"model_id": "minilm"}}
RECIPIENT = {"Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"x"}}
OPENED = answer(200, {"KeyId": ARN, "Plaintext": blob(b"\x5a" * 32)})


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_document_nobody_is_asked_over_a_network_without_tls() -> None:
    with pytest.raises(RejectedError) as caught:
        ask_decrypt(FIELDS, endpoint="http://kms.invalid:1", whose=Whose())
    assert caught.value.code == "KEY_ENDPOINT_OPEN"
    with pytest.raises(UnavailableError):  # asked, and not found
        ask_decrypt(FIELDS | RECIPIENT, endpoint="http://kms.invalid:1", whose=Whose())


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(OPENED) as kms:
        assert ask_decrypt(FIELDS, endpoint=kms.endpoint, whose=Whose()) == "plaintext"


def test_nor_is_anybody_before_a_change_that_will_ask_without_one() -> None:
    with pytest.raises(RejectedError) as caught:
        require_credentials(ARN, endpoint="http://kms.invalid:1", whose=Whose())
    assert caught.value.code == "KEY_ENDPOINT_OPEN"


@pytest.mark.parametrize("name", ["UnrecognizedClientException", "ExpiredTokenException", "ThrottlingException"])
def test_an_answer_that_says_nothing_of_the_key_is_no_answer(name: str) -> None:
    with serving(error(name)) as kms, pytest.raises(UnavailableError) as caught:
        ask_decrypt(FIELDS, endpoint=kms.endpoint, whose=Whose(access_key=("A", "s", "t")))
    assert name in caught.value.message


def test_a_file_with_a_session_token() -> None:
    found = Whose.of_file(b"[x]\naws_access_key_id=A\naws_secret_access_key=%s\naws_session_token=t\n", "x")
    assert found.access_key == ("A", "%s", "t")
    assert "%s" not in repr(found)
