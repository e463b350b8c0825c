"""A key service that throttles, breaks, lies or is not there: key-release.md section 1."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ephemeralml.crypto import cms
from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.keyrelease import aws_client
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes.faulty_kms import FaultyKms, answer, blob, error, reset, serving
from tests.fakes.http_thread import QuietHandler

ARN = "arn:aws:kms:eu-central-1:111122223333:key/0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = ARN[:-1] + "f"
CONTEXT = {"model_id": "minilm", "version": "1.0.0"}
WRAPPED = WrappedKey("aws-kms", f"aws-kms:{ARN}", b"wrapped", CONTEXT)
DEK = b"\x5a" * 32
RECIPIENT = RecipientKey.generate()
ENVELOPE = cms.wrap(RECIPIENT.spki, DEK, constructed=True)
RELEASED = answer(200, {"KeyId": ARN, "CiphertextForRecipient": blob(ENVELOPE)})
GENERATED = {"KeyId": ARN, "Plaintext": blob(DEK), "CiphertextBlob": blob(b"wrapped")}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def kms(waits: list[float]) -> Iterator[Callable[[str], AwsKms]]:
    made = []

    def make(endpoint: str) -> AwsKms:
        made.append(AwsKms(KeyUri.parse(WRAPPED.key), endpoint=endpoint, retries=RetryRules(sleep=waits.append)))
        return made[-1]

    yield make
    for client in made:
        client.close()


def released(client: AwsKms) -> bytes:
    return client.release(b"wrapped", CONTEXT, b"document").ciphertext_for_recipient


def failure(call: Callable[[], object]) -> EphemeralError:
    with pytest.raises((RejectedError, UnavailableError)) as caught:
        call()
    return caught.value


def test_what_is_sent_and_what_comes_back(kms: Callable[[str], AwsKms]) -> None:
    with serving(RELEASED) as service:
        got = kms(service.endpoint).release(b"wrapped", CONTEXT, b"document")
    assert (got.ciphertext_for_recipient, got.key_id, got.request_id) == (ENVELOPE, ARN, "req-1")
    assert ENVELOPE.hex() not in repr(got)
    assert service.requests == [
        (
            "Decrypt",
            {
                "KeyId": ARN,
                "CiphertextBlob": blob(b"wrapped"),
                "EncryptionContext": CONTEXT,
                "Recipient": {
                    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                    "AttestationDocument": blob(b"document"),
                },
            },
        )
    ]


@pytest.mark.parametrize(
    "fault",
    [
        error("ThrottlingException"),
        error("KMSInternalException", 500),
        error("DependencyTimeoutException", 503),
        error("KeyUnavailableException", 500),
        answer(503, b"<html>busy</html>", content_type="text/html"),
        reset,
    ],
)
def test_passing_faults_are_tried_again(
    kms: Callable[[str], AwsKms], waits: list[float], fault: Callable[..., None]
) -> None:
    with serving(fault, fault, fault, fault, RELEASED) as service:
        assert released(kms(service.endpoint)) == ENVELOPE
    assert len(service.requests) == 5
    assert len(waits) == 4
    with serving(fault) as service:
        found = failure(lambda: released(kms(service.endpoint)))
    assert isinstance(found, UnavailableError)
    assert found.code == "KEY_UNAVAILABLE"  # type: ignore[attr-defined]
    assert len(service.requests) == 5


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AccessDeniedException", "KEY_RELEASE_DENIED"),
        ("ValidationException", "KEY_DOCUMENT_REFUSED"),
        ("InvalidCiphertextException", "KEY_CIPHERTEXT_INVALID"),
        ("IncorrectKeyException", "KEY_CIPHERTEXT_INVALID"),
        ("NotFoundException", "KEY_UNAVAILABLE"),
        ("DisabledException", "KEY_UNAVAILABLE"),
        ("ExpiredTokenException", "KEY_UNAVAILABLE"),
        ("UnrecognizedClientException", "KEY_UNAVAILABLE"),
    ],
)
def test_refusals_are_not_tried_again(kms: Callable[[str], AwsKms], waits: list[float], name: str, code: str) -> None:
    with serving(error(name)) as service:
        found = failure(lambda: released(kms(service.endpoint)))
    assert found.code == code  # type: ignore[attr-defined]
    assert "a message of the service's" not in found.message
    assert (len(service.requests), waits) == (1, [])


def plaintext_services() -> Iterator[FaultyKms]:
    for document in (
        {"KeyId": ARN, "Plaintext": blob(DEK)},
        {"KeyId": ARN, "Plaintext": blob(b"x"), "CiphertextForRecipient": blob(ENVELOPE)},
        {"KeyId": OTHER, "Plaintext": blob(DEK), "CiphertextForRecipient": blob(ENVELOPE)},
    ):
        with serving(answer(200, document)) as service:
            yield service


def test_plaintext_beside_a_recipient_ends_it(kms: Callable[[str], AwsKms], monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[int] = []
    monkeypatch.setattr("ephemeralml.keyrelease.aws.wipe_bytes", lambda secret: wiped.append(len(secret)))
    for service in plaintext_services():
        found = failure(lambda s=service: released(kms(s.endpoint)))
        assert isinstance(found, RejectedError)
        assert found.code == "KEY_PLAINTEXT_RETURNED"
        assert len(service.requests) == 1
    assert wiped == [32, 1, 32]


def test_an_empty_plaintext_is_none(kms: Callable[[str], AwsKms]) -> None:
    document = {"KeyId": ARN, "Plaintext": "", "CiphertextForRecipient": blob(ENVELOPE)}
    with serving(answer(200, document)) as service:
        assert released(kms(service.endpoint)) == ENVELOPE


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"KeyId": ARN}, "no ciphertext for the recipient"),
        ({"KeyId": ARN, "CiphertextForRecipient": ""}, "no ciphertext for the recipient"),
        ({"KeyId": ARN, "CiphertextForRecipient": blob(bytes(16_385))}, "no ciphertext for the recipient"),
        ({"KeyId": OTHER, "CiphertextForRecipient": blob(ENVELOPE)}, "another key"),
        ({"CiphertextForRecipient": blob(ENVELOPE)}, "another key"),
    ],
)
def test_answers_to_a_release_that_must_not_be_used(
    kms: Callable[[str], AwsKms], document: dict[str, str], why: str
) -> None:
    with serving(answer(200, document)) as service:
        found = failure(lambda: released(kms(service.endpoint)))
    assert (found.code, why in found.message) == ("KEY_RESPONSE_INVALID", True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Plaintext": blob(DEK[1:])}, "no data key of 32 bytes"),
        ({"Plaintext": blob(DEK + b"x")}, "no data key of 32 bytes"),
        ({"Plaintext": None}, "no data key of 32 bytes"),
        ({"CiphertextBlob": ""}, "no wrapped key"),
        ({"CiphertextBlob": blob(bytes(6_145))}, "no wrapped key"),
        ({"KeyId": OTHER}, "another key"),
    ],
)
def test_answers_to_the_publisher_that_must_not_be_used(
    kms: Callable[[str], AwsKms], changes: dict[str, str | None], why: str
) -> None:
    document = {name: value for name, value in {**GENERATED, **changes}.items() if value is not None}
    with serving(answer(200, document)) as service:
        client = kms(service.endpoint)
        found = failure(lambda: client.generate(CONTEXT))
        assert (found.code, why in found.message) == ("KEY_RESPONSE_INVALID", True)  # type: ignore[attr-defined]
        if "Plaintext" not in changes:
            failure(lambda: client.wrap(SecretBytes(bytearray(DEK)), CONTEXT))
        if "CiphertextBlob" not in changes:
            failure(lambda: client.decrypt_plain(WRAPPED))


@pytest.mark.parametrize(
    "garbage",
    [
        answer(200, []),
        answer(200, b"null"),
        answer(200, {"KeyId": ARN, "CiphertextForRecipient": 5, "CiphertextBlob": 5}),
        answer(200, {"KeyId": ARN, "Plaintext": 5}),
        answer(200, b'{"a":' * 50_000),
        answer(400, b"\xff\xfe"),
        answer(400, []),
        answer(400, {"__type": {"a": 1}}),
    ],
)
def test_answers_that_the_sdk_stumbles_over(kms: Callable[[str], AwsKms], garbage: Callable[..., None]) -> None:
    with serving(garbage) as service:
        client = kms(service.endpoint)
        assert failure(lambda: released(client)).code == "KEY_RESPONSE_INVALID"  # type: ignore[attr-defined]
        assert failure(lambda: client.generate(CONTEXT)).code == "KEY_RESPONSE_INVALID"  # type: ignore[attr-defined]


def test_a_request_id_that_is_none_is_left_out(kms: Callable[[str], AwsKms]) -> None:
    def send(handler: QuietHandler) -> None:
        body = json.dumps({"KeyId": ARN, "CiphertextForRecipient": blob(ENVELOPE)}).encode()
        handler.answer(200, body, "application/x-amz-json-1.1", x_amzn_RequestId="\x1b[2Jforged")

    with serving(send) as service:
        assert kms(service.endpoint).release(b"wrapped", CONTEXT, b"document").request_id == ""


def test_a_service_that_is_not_there(kms: Callable[[str], AwsKms], waits: list[float]) -> None:
    with serving(RELEASED) as service:
        endpoint = service.endpoint
    found = failure(lambda: released(kms(endpoint)))
    assert isinstance(found, UnavailableError)
    assert "did not answer Decrypt" in found.message
    assert len(waits) == 4


def test_a_service_whose_tls_fails(kms: Callable[[str], AwsKms], waits: list[float]) -> None:
    with serving(RELEASED) as service:
        found = failure(lambda: released(kms(service.endpoint.replace("http:", "https:"))))
    assert "TLS fails" in found.message
    assert waits == []


def test_no_credentials(kms: Callable[[str], AwsKms], monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with serving(RELEASED) as service:
        found = failure(lambda: released(kms(service.endpoint)))
    assert "no valid credentials" in found.message
    assert (service.requests, waits) == ([], [])


def test_a_profile_that_does_not_exist(kms: Callable[[str], AwsKms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "no profile 'nobody'" in failure(lambda: released(kms("http://127.0.0.1:9"))).message


def test_an_endpoint_that_is_no_url(kms: Callable[[str], AwsKms]) -> None:
    assert "no client for the key service" in failure(lambda: released(kms("nonsense"))).message


def test_no_secret_is_in_an_error_or_log(kms: Callable[[str], AwsKms], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="ephemeralml"):
        for service in plaintext_services():
            found = failure(lambda s=service: released(kms(s.endpoint)))
            texts = [str(found), repr(found), str(found.hint), caplog.text]
            assert not any(part in text for part in (blob(DEK), DEK.hex(), "secret-of-the-test") for text in texts)


def test_one_client_serves_several_threads(kms: Callable[[str], AwsKms], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    connect = aws_client.connect
    monkeypatch.setattr(aws_client, "connect", lambda *args, **more: (made.append(1), connect(*args, **more))[1])
    with serving(RELEASED) as service, ThreadPoolExecutor(8) as threads:
        client = kms(service.endpoint)
        assert set(threads.map(lambda _: released(client), range(16))) == {ENVELOPE}
    assert len(made) == 1
