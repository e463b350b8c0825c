"""Cloud KMS, from launcher to data key, over real HTTP with real tokens: key-release.md section 7."""

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease import gcp_client
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.gcp import GcpKms, additional_data
from ephemeralml.keyrelease.gcp_client import GOOGLE, Services
from ephemeralml.keyrelease.launcher import LauncherCredentials
from ephemeralml.keyrelease.records import ReleaseRecord
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes import gcp_kms, launcher, sts
from tests.fakes.credential_scan import credential_tokens
from tests.fakes.gcp_kms import KEY, CloudKms, StaticToken, refuse
from tests.fakes.http_thread import QuietHandler
from tests.fakes.launcher import DIGEST, PROVIDER, Launcher
from tests.fakes.sts import TokenService

URI = KeyUri.parse(f"gcp-kms:{KEY}")
CONTEXT = {"version": "1.0.0", "model_id": "minilm-é"}


class Nobody:
    """Stands where an attester would; it must not be asked."""

    def attest_release(self, recipient_spki: bytes) -> bytes:
        raise AssertionError("asked for a document")


@dataclass
class Cloud:
    launcher: Launcher
    tokens: TokenService
    kms: CloudKms
    socket: Path
    waits: list[float] = field(default_factory=list)
    records: list[ReleaseRecord] = field(default_factory=list)
    made: list[GcpKms] = field(default_factory=list)

    @property
    def services(self) -> Services:
        return Services(self.tokens.url, self.kms.host, "http")

    @property
    def publisher(self) -> GcpKms:
        rules = RetryRules(sleep=self.waits.append)
        connect = lambda _: gcp_client.connect(StaticToken(), self.services)  # noqa: E731
        self.made.append(GcpKms(URI, connect=connect, attested=False, retries=rules))
        return self.made[-1]

    @property
    def workload(self) -> GcpKms:
        kms = GcpKms.of_workload(
            URI,
            LauncherCredentials(PROVIDER, path=self.socket),
            PROVIDER,
            environment={"PATH": "/bin", "HTTPS_PROXY": ""},
            services=self.services,
            retries=RetryRules(sleep=self.waits.append),
            observer=self.records.append,
        )
        self.made.append(kms)
        return kms

    def wrapped(self) -> tuple[bytes, WrappedKey]:
        dek, wrapped = self.publisher.generate(CONTEXT)
        with dek:
            return bytes(dek.reveal()), wrapped

    def unwrap(self, wrapped: WrappedKey) -> bytes:
        with self.workload.unwrap(wrapped, attester=Nobody()) as secret:
            return bytes(secret.reveal())

    def failure(self, wrapped: WrappedKey) -> EphemeralError:
        with pytest.raises((RejectedError, UnavailableError)) as caught:
            self.unwrap(wrapped)
        assert self.records[-1].outcome == caught.value.code  # type: ignore[union-attr]
        return caught.value


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    socket = tmp_path / "launcher.sock"
    with launcher.running(socket) as one, sts.running() as two, gcp_kms.running(two.subjects) as three:
        made = Cloud(one, two, three, socket)
        yield made
        for client in made.made:
            client.close()


def test_generate_and_release(cloud: Cloud) -> None:
    dek, wrapped = cloud.wrapped()
    assert (wrapped.provider, wrapped.key, wrapped.context) == ("gcp-kms", str(URI), CONTEXT)
    assert cloud.unwrap(wrapped) == dek
    assert cloud.waits == []
    record = cloud.records[0]
    assert (record.outcome, record.provider, record.document_sha256, record.pcr0) == ("released", "gcp-kms", None, None)


def test_the_additional_data_has_one_form(cloud: Cloud) -> None:
    """UTF-8 JSON, keys sorted, no spaces, no ASCII escapes; wrapping and releasing send the same."""
    expected = '{"model_id":"minilm-é","version":"1.0.0"}'.encode()
    assert additional_data(CONTEXT) == expected
    _, wrapped = cloud.wrapped()
    cloud.unwrap(wrapped)
    import base64

    sent = [base64.b64decode(body["additionalAuthenticatedData"]) for _, body in cloud.kms.requests]
    assert sent == [expected, expected]
    assert all("additionalAuthenticatedDataCrc32c" in body for _, body in cloud.kms.requests)


def test_wrap_an_existing_key(cloud: Cloud) -> None:
    dek = SecretBytes(bytearray(b"\x07" * 32))
    wrapped = cloud.publisher.wrap(dek, CONTEXT)
    assert bytes(dek.reveal()) == b"\x07" * 32
    assert cloud.unwrap(wrapped) == b"\x07" * 32


def test_where_google_is_stands_in_the_code() -> None:
    assert Services() == GOOGLE
    assert (GOOGLE.token_url, GOOGLE.kms_scheme, GOOGLE.kms_host) == (
        "https://sts.googleapis.com/v1/token",
        "https",
        "cloudkms.googleapis.com",
    )


def test_the_token_goes_to_the_token_service_and_nowhere_else(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    cloud.unwrap(wrapped)
    (token,) = cloud.launcher.tokens
    assert [request["subject_token"] for request in cloud.tokens.requests] == [token]
    assert not credential_tokens(json.dumps(cloud.kms.requests).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"dbgstat": "enabled"},
        {"swname": "CONFIDENTIAL_SPACE_DEBUG"},
        {"hwmodel": "GCP_AMD_SEV"},
        {"secboot": False},
        {"google_service_accounts": []},
    ],
)
def test_a_debug_or_foreign_workload_is_denied(cloud: Cloud, changes: dict[str, Any]) -> None:
    _, wrapped = cloud.wrapped()
    cloud.launcher.changes = changes
    error = cloud.failure(wrapped)
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_RELEASE_DENIED"
    assert error.message.endswith(": unauthorized_client")


def test_a_token_that_does_not_verify_is_denied(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    cloud.launcher.changes = {"exp": int(time.time()) - 60}
    assert cloud.failure(wrapped).message.endswith(": invalid_grant")


def test_a_token_for_a_client_is_not_sent_anywhere(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    cloud.launcher.changes = {"aud": "https://client.example/audience"}
    error = cloud.failure(wrapped)
    assert isinstance(error, RejectedError)
    assert error.code == "CSJWT_CREDENTIAL_REFUSED"
    assert cloud.tokens.requests == []


def test_another_image_is_denied_by_the_keys_policy(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    cloud.kms.roles = {"sha256:other": "decrypter"}
    error = cloud.failure(wrapped)
    assert isinstance(error, RejectedError)
    assert (error.code, "to this workload" in error.message) == ("KEY_RELEASE_DENIED", True)


def test_the_publisher_may_not_decrypt(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    with pytest.raises(RejectedError, match="without an attestation document"):
        cloud.publisher.decrypt_plain(wrapped)
    with pytest.raises(RuntimeError, match="operator's credentials"):
        cloud.publisher.unwrap(wrapped, attester=Nobody())
    with pytest.raises(RejectedError, match="may not do Encrypt"):
        cloud.workload.wrap(SecretBytes(bytearray(32)), CONTEXT)


@pytest.mark.parametrize(
    "change",
    [{"context": {**CONTEXT, "version": "1.0.1"}}, {"context": {"version": "1.0.0"}}, {"ciphertext": bytes(60)}],
)
def test_wrong_context_or_ciphertext(cloud: Cloud, change: dict[str, Any]) -> None:
    _, wrapped = cloud.wrapped()
    error = cloud.failure(replace(wrapped, **change))
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_CIPHERTEXT_INVALID"
    assert cloud.waits == []


def change(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.__setitem__(name, value)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(name)


@pytest.mark.parametrize(
    "damage", [change("plaintextCrc32c", "1"), without("plaintextCrc32c"), change("plaintext", "")]
)
def test_a_damaged_answer_is_asked_for_again_twice(cloud: Cloud, damage: Callable[[dict[str, Any]], None]) -> None:
    dek, wrapped = cloud.wrapped()
    cloud.kms.alter = [damage] * 2
    assert cloud.unwrap(wrapped) == dek
    cloud.kms.alter = [damage] * 3
    error = cloud.failure(wrapped)
    assert isinstance(error, UnavailableError)
    assert "damaged (CRC32C)" in error.message
    assert cloud.kms.alter == []


@pytest.mark.parametrize(
    "damage",
    [
        change("ciphertextCrc32c", "1"),
        without("ciphertextCrc32c"),
        without("verifiedPlaintextCrc32c"),
        without("verifiedAdditionalAuthenticatedDataCrc32c"),
    ],
)
def test_a_damaged_wrapping_is_asked_for_again_twice(cloud: Cloud, damage: Callable[[dict[str, Any]], None]) -> None:
    cloud.kms.alter = [damage] * 2
    cloud.wrapped()
    cloud.kms.alter = [damage] * 3
    with pytest.raises(UnavailableError, match="damaged"):
        cloud.wrapped()


def test_an_answer_of_another_key_or_size(cloud: Cloud) -> None:
    cloud.kms.alter = [change("name", KEY.replace("minilm", "other") + "/cryptoKeyVersions/1")]
    with pytest.raises(RejectedError, match="another key"):
        cloud.wrapped()
    secret = cloud.publisher.wrap(SecretBytes(bytearray(31)), CONTEXT)
    assert "no data key of 32 bytes" in cloud.failure(secret).message


def test_entries_that_are_not_even_sent(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    before = len(cloud.kms.requests)
    for entry in (
        replace(wrapped, key=str(URI) + "x"),
        replace(wrapped, provider="aws-kms"),
        replace(wrapped, ciphertext=b""),
        replace(wrapped, ciphertext=bytes(6_145)),
        replace(wrapped, context={}),
    ):
        with pytest.raises(MalformedError):
            cloud.workload.decrypt_plain(entry)
    assert len(cloud.kms.requests) == before
    assert cloud.launcher.requests == []


def reset(handler: QuietHandler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize(
    "fault", [refuse(503, "UNAVAILABLE"), refuse(429, "RESOURCE_EXHAUSTED"), refuse(500, "INTERNAL"), reset]
)
def test_passing_faults_are_tried_again(cloud: Cloud, fault: Callable[[QuietHandler], None]) -> None:
    dek, wrapped = cloud.wrapped()
    cloud.kms.respond = [fault] * 4
    assert cloud.unwrap(wrapped) == dek
    assert len(cloud.waits) == 4
    cloud.kms.respond = [fault] * 9
    error = cloud.failure(wrapped)
    assert isinstance(error, UnavailableError)
    assert "did not answer Decrypt" in error.message


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (refuse(404, "NOT_FOUND"), "does not exist"),
        (refuse(400, "FAILED_PRECONDITION"), "disabled or destroyed"),
    ],
)
def test_the_keys_state_is_said(cloud: Cloud, fault: Callable[[QuietHandler], None], why: str) -> None:
    _, wrapped = cloud.wrapped()
    cloud.kms.respond = [fault]
    error = cloud.failure(wrapped)
    assert isinstance(error, UnavailableError)
    assert why in error.message
    assert cloud.waits == []


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", [b"garbage", b"\xff", b"null", b'{"plaintext": 5, "name": 5}', b'{"a":' * 50_000])
def test_answers_that_the_libraries_stumble_over(cloud: Cloud, status: int, body: bytes) -> None:
    _, wrapped = cloud.wrapped()
    wanted = {200: {"KEY_RESPONSE_INVALID"}, 400: {"KEY_RESPONSE_INVALID", "KEY_REQUEST_REFUSED"}}[status]
    cloud.kms.respond = [lambda handler: handler.answer(status, body)] * 9
    assert cloud.failure(wrapped).code in wanted  # type: ignore[attr-defined]
    with pytest.raises(EphemeralError) as caught:
        cloud.publisher.generate(CONTEXT)
    assert caught.value.code in wanted  # type: ignore[attr-defined]


def test_an_access_token_that_is_refused_is_exchanged_anew(cloud: Cloud) -> None:
    dek, wrapped = cloud.wrapped()
    workload = cloud.workload
    workload.decrypt_plain(wrapped).wipe()
    assert set(cloud.tokens.subjects.values()) == {DIGEST, "publisher"}
    cloud.tokens.subjects.clear()
    assert bytes(workload.decrypt_plain(wrapped).reveal()) == dek
    assert len(cloud.launcher.tokens) == 2


def test_credentials_that_stay_refused(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    cloud.kms.respond = [refuse(401, "UNAUTHENTICATED")] * 9
    assert "no valid credentials" in cloud.failure(wrapped).message


@pytest.mark.parametrize("status", [500, 503])
def test_a_token_service_that_fails(cloud: Cloud, status: int) -> None:
    _, wrapped = cloud.wrapped()
    cloud.tokens.respond = lambda handler: handler.answer(status, b"<html>", "text/html")
    error = cloud.failure(wrapped)
    assert isinstance(error, UnavailableError)
    assert len(cloud.waits) == 4


def test_a_token_service_that_answers_nonsense(cloud: Cloud) -> None:
    _, wrapped = cloud.wrapped()
    for body in (b"{}", b"nonsense", b'{"access_token": 7}'):
        cloud.tokens.respond = lambda handler, b=body: handler.answer(200, b)
        assert isinstance(cloud.failure(wrapped), UnavailableError)


@pytest.mark.parametrize(
    "name",
    [
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "SSLKEYLOGFILE",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
    ],
)
def test_proxies_and_foreign_authorities_are_refused(name: str) -> None:
    with pytest.raises(RejectedError, match=f"^{name} would lead") as caught:
        GcpKms.of_workload(URI, Launcher(), PROVIDER, environment={name: "x"})  # type: ignore[arg-type]
    assert caught.value.code == "KEY_DETOUR"


def test_what_is_set_later_leads_nowhere_either(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    dek, wrapped = cloud.wrapped()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert cloud.unwrap(wrapped) == dek


def test_the_provider_must_be_one() -> None:
    with pytest.raises(MalformedError, match="not a workload identity provider"):
        GcpKms.of_workload(URI, Launcher(), "https://sts.googleapis.com", environment={})  # type: ignore[arg-type]


def test_one_token_is_in_flight_and_none_is_kept() -> None:
    class Slow:
        calls = 0
        gate = threading.Event()

        def key_release_token(self) -> str:
            self.calls += 1
            assert self.gate.wait(10)
            if self.calls == 2:
                raise UnavailableError("no token")
            return f"token {self.calls}"

    source = Slow()
    supplier = gcp_client._Supplier(source)
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(supplier.get_subject_token(None, None))
        except UnavailableError as error:
            got.append(error)

    for expected in ("token 1", "no token"):
        source.gate.clear()
        got.clear()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        source.gate.set()
        for thread in threads:
            thread.join()
        assert [str(item) for item in got] == [expected] * 4
    assert source.calls == 2
    assert supplier.get_subject_token(None, None) == "token 3"


def test_no_operators_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UnavailableError, match="no valid credentials for Encrypt"):
        GcpKms.of_operator(URI).generate(CONTEXT)
    with pytest.raises(UnavailableError, match="no valid credentials"):
        gcp_client.operator_credentials(Asked("Decrypt", str(URI)))


def test_no_credential_is_in_an_error_record_or_log(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    """What the scanner sees: traces with their chains, records, and every logger at its most talkative."""
    dek, wrapped = cloud.wrapped()
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG):
        cloud.unwrap(wrapped)
        for changes in ({"dbgstat": "enabled"}, {"aud": "https://client.example"}, {"exp": 1}):
            cloud.launcher.changes = changes
            seen += traceback.format_exception(cloud.failure(wrapped))
        cloud.launcher.changes = {}
        cloud.kms.respond = [refuse(403, "PERMISSION_DENIED")]
        seen += traceback.format_exception(cloud.failure(wrapped))
    seen += [caplog.text, json.dumps([record.to_json() for record in cloud.records]), repr(cloud.made)]
    text = "".join(seen).encode()
    assert len(cloud.launcher.tokens) == 5
    assert not credential_tokens(text)
    for secret in (*cloud.launcher.tokens, *cloud.tokens.subjects, dek.hex()):
        assert secret.encode() not in text
