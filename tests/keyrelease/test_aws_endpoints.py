"""No data key crosses a network without TLS, and none goes through a proxy of the environment's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes.faulty_kms import answer, blob, error, serving

ARN = "arn:aws:kms:eu-central-1:111122223333:key/0f8fad5b-d9cb-469f-a165-70867728950e"
CONTEXT = {"model_id": "minilm", "version": "1.0.0"}
WRAPPED = WrappedKey("local", f"local:{ARN}", b"wrapped", CONTEXT)
GENERATED = answer(200, {"KeyId": ARN, "Plaintext": blob(b"\x5a" * 32), "CiphertextBlob": blob(b"wrapped")})

CALLS: dict[str, Callable[[AwsKms], object]] = {
    "generate": lambda keys: keys.generate(CONTEXT),
    "wrap": lambda keys: keys.wrap(SecretBytes(bytearray(32)), CONTEXT),
    "decrypt": lambda keys: keys.decrypt_plain(WRAPPED),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def failure(endpoint: str | None, call: Callable[[AwsKms], object]) -> EphemeralError:
    keys = AwsKms(KeyUri.parse(WRAPPED.key), endpoint=endpoint, retries=RetryRules(tries=1))
    try:
        with pytest.raises((RejectedError, UnavailableError)) as caught:
            call(keys)
    finally:
        keys.close()
    return caught.value


@pytest.mark.parametrize("call", CALLS)
def test_a_key_goes_to_no_other_machine_without_tls(call: str) -> None:
    found = failure("http://kms.example.internal:8480", CALLS[call])
    assert isinstance(found, RejectedError)
    assert found.code == "KEY_ENDPOINT_OPEN"
    assert "kms.example.internal" in found.message


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", "[2001:db8::1]"])
def test_what_is_another_machine(host: str) -> None:
    assert failure(f"http://{host}:1", CALLS["wrap"]).code == "KEY_ENDPOINT_OPEN"  # type: ignore[attr-defined]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://[::1]:1"])
def test_what_may_be_tried(endpoint: str) -> None:
    assert failure(endpoint, CALLS["wrap"]).code == "KEY_UNAVAILABLE"  # type: ignore[attr-defined]


def test_an_endpoint_of_the_environment_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://10.0.0.1:1")
    assert failure(None, CALLS["generate"]).code == "KEY_ENDPOINT_OPEN"  # type: ignore[attr-defined]


def test_a_sealed_answer_needs_no_tls() -> None:
    found = failure("http://[100::1]:1", lambda keys: keys.release(b"wrapped", CONTEXT, b"document"))
    assert found.code == "KEY_UNAVAILABLE"  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", CALLS)
def test_a_proxy_sees_nothing_of_a_server_on_this_machine(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(GENERATED) as proxy, serving(GENERATED) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        keys = AwsKms(KeyUri.parse(WRAPPED.key), endpoint=server.endpoint)
        CALLS[call](keys)
        keys.close()
    assert (len(proxy.requests), len(server.requests)) == (0, 1)


def test_a_name_that_is_none_is_not_quoted() -> None:
    with serving(error("Nice\x1b[2J\nverified")) as service:
        found = failure(service.endpoint, CALLS["wrap"])
    assert "UnreadableError" in found.message
    assert "verified" not in found.message
