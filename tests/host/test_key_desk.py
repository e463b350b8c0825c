"""Key release on behalf of the enclave: the host's keys only, its answers without secrets."""

import base64
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.host.key_desk import AT_ONCE, KeyDesk
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.aws import Released
from ephemeralml.keyrelease.faults import Asked

KEY = "local:arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000001"
REQUEST = {"key": KEY, "ciphertext": "Y2lwaGVy", "context": {"model_id": "m"}, "document": "ZG9j"}


class Kms:
    """A `Releaser` that answers, or raises."""

    def __init__(self, error: EphemeralError | None = None) -> None:
        self.error = error
        self.calls: list[Any] = []

    def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
        self.calls.append((ciphertext, dict(context), document))
        if self.error is not None:
            raise self.error
        return Released(b"sealed", "arn:x", "request-1")


def ask(desk: KeyDesk, request: Any) -> tuple[int, Any]:
    status, body = desk.handle(request if isinstance(request, bytes) else json.dumps(request).encode())
    return status, json.loads(body)


def test_a_release_goes_on_as_it_came() -> None:
    kms = Kms()
    status, answer = ask(KeyDesk({KEY: kms}), REQUEST)
    assert status == 200
    assert kms.calls == [(b"cipher", {"model_id": "m"}, b"doc")]
    assert answer == {
        "ciphertext_for_recipient": base64.b64encode(b"sealed").decode(),
        "key_id": "arn:x",
        "request_id": "request-1",
    }


def test_only_keys_of_the_hosts_configuration(caplog: pytest.LogCaptureFixture) -> None:
    kms = Kms()
    for key in (KEY[:-1] + "2", KEY.upper(), "", f" {KEY}"):
        assert ask(KeyDesk({KEY: kms}), {**REQUEST, "key": key}) == (403, {"error": "KeyNotConfigured"})
    assert kms.calls == []
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"a key release was asked for under {KEY[:-1]}2, which this host was not given with --key"
    assert all("something that is no key" in line for line in said[1:])


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 30_000,
        b'{"key": 1, "key": 2}',
        {},
        {name: value for name, value in REQUEST.items() if name != "document"},
        {**REQUEST, "endpoint": "http://x"},
        {**REQUEST, "key": 1},
        {**REQUEST, "ciphertext": "no base64!"},
        {**REQUEST, "ciphertext": None},
        {**REQUEST, "document": "é"},
        {**REQUEST, "context": []},
        {**REQUEST, "context": {"a": 1}},
        {**REQUEST, "context": {str(number): "x" for number in range(9)}},
    ],
)
def test_requests_that_are_none(request_: Any) -> None:
    kms = Kms()
    assert ask(KeyDesk({KEY: kms}), request_) == (400, {"error": "MalformedRequest"})
    assert kms.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (faults.from_aws("AccessDeniedException", Asked("Decrypt", KEY, True)), "AccessDeniedException"),
        (faults.from_aws("DisabledException", Asked("Decrypt", KEY, True)), "DisabledException"),
        (RejectedError("clear", code="KEY_PLAINTEXT_RETURNED"), "KEY_PLAINTEXT_RETURNED"),
        (UnavailableError("away"), "KEY_UNAVAILABLE"),
        (MalformedError("odd"), "KEY_UNAVAILABLE"),
    ],
)
def test_a_refusal_is_passed_on_by_its_name(error: EphemeralError, code: str) -> None:
    assert ask(KeyDesk({KEY: Kms(error)}), REQUEST) == (200, {"error": code})


def test_a_few_at_once() -> None:
    gate, inside = threading.Event(), threading.Semaphore(0)

    class Slow(Kms):
        def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
            inside.release()
            gate.wait(10)
            return super().release(ciphertext, context, document)

    desk = KeyDesk({KEY: Slow()})
    threads = [threading.Thread(target=ask, args=(desk, REQUEST)) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
        inside.acquire()
    assert ask(desk, REQUEST) == (503, {"error": "ThrottlingException"})
    gate.set()
    for thread in threads:
        thread.join()
    assert ask(desk, REQUEST)[0] == 200


def test_nothing_that_was_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for request in (REQUEST, {**REQUEST, "key": "secretkey"}, {**REQUEST, "context": {"secretname": 1}}):
        ask(KeyDesk({KEY: Kms()}), request)
    text = caplog.text
    for secret in ("secretkey", "secretname", "Y2lwaGVy", "ZG9j", "sealed"):
        assert secret not in text


@pytest.mark.fuzz
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_every_request_has_an_answer(body: bytes) -> None:
    status, answer = KeyDesk({KEY: Kms()}).handle(body)
    assert status in {200, 400, 403}
    json.loads(answer)
