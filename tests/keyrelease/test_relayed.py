"""Key release through a host that is not trusted: nitro-platform.md section 7, key-release.md section 2."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.crypto import cms
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.faults import wire_code
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.relayed import MAX_REQUEST_BYTES, RelayedKms
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes.kms_server import KmsServer
from tests.fakes.release import CONTEXT, IMAGE, Enclave

KEY = "local:arn:aws:kms:local:000000000000:key/0f8fad5b-d9cb-469f-a165-70867728950e"
ARN = KEY.removeprefix("local:")
DEK = b"\x5a" * 32
WRAPPED = WrappedKey("local", KEY, b"wrapped", CONTEXT)
RECIPIENT = RecipientKey.generate()
ENCLAVE = Enclave(Authority.ephemeral())


def good() -> dict[str, Any]:
    envelope = cms.wrap(RECIPIENT.spki, DEK, constructed=True)
    return {
        "ciphertext_for_recipient": base64.b64encode(envelope).decode(),
        "key_id": ARN,
        "request_id": "req-1",
    }


def unwrap(answer: Mapping[str, Any], wrapped: WrappedKey = WRAPPED, observer: Any = lambda _: None) -> bytes:
    kms = RelayedKms(lambda _: answer, RECIPIENT, observer=observer)
    with kms.unwrap(wrapped, attester=ENCLAVE) as secret:
        return bytes(secret.reveal())


def failure(answer: Mapping[str, Any], wrapped: WrappedKey = WRAPPED) -> EphemeralError:
    with pytest.raises((MalformedError, RejectedError, UnavailableError)) as caught:
        unwrap(answer, wrapped)
    return caught.value


def host(kms: AwsKms) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """The host's part, as small as it can be: credentials, endpoint, and nothing else."""

    def post(request: Mapping[str, Any]) -> Mapping[str, Any]:
        request = json.loads(json.dumps(request))
        ciphertext, document = (base64.b64decode(request[name]) for name in ("ciphertext", "document"))
        try:
            released = kms.release(ciphertext, request["context"], document)
        except EphemeralError as error:
            return {"error": wire_code(error)}
        envelope = base64.b64encode(released.ciphertext_for_recipient).decode()
        return {"ciphertext_for_recipient": envelope, "key_id": released.key_id, "request_id": released.request_id}

    return post


def test_a_release_through_the_host(server: KmsServer, key: str) -> None:
    uri = KeyUri.parse(key)
    dek, wrapped = AwsKms(uri, client=server.client("publisher")).generate(CONTEXT)
    records: list[Any] = []
    post = host(AwsKms(uri, client=server.client("parent"), retries=RetryRules(tries=1)))
    kms = RelayedKms(post, RecipientKey.generate(), observer=records.append)
    enclave = Enclave(server.authority)
    assert bytes(kms.unwrap(wrapped, attester=enclave).reveal()) == bytes(dek.reveal())
    with pytest.raises(RejectedError, match="PCR0 0101") as denied:
        kms.unwrap(wrapped, attester=replace(enclave, pcrs={**IMAGE, 0: b"\x01" * 48}))
    assert denied.value.code == "KEY_RELEASE_DENIED"
    server.client().disable_key(KeyId=uri.resource)
    with pytest.raises(UnavailableError, match="is disabled"):
        kms.unwrap(wrapped, attester=enclave)
    server.client().enable_key(KeyId=uri.resource)
    assert [record.outcome for record in records] == ["released", "KEY_RELEASE_DENIED", "KEY_UNAVAILABLE"]
    assert records[0].request_id is not None
    assert records[1].pcr0 == "01" * 48


def test_what_the_host_is_told() -> None:
    seen: list[Mapping[str, Any]] = []
    enclave = Enclave(Authority.ephemeral())
    kms = RelayedKms(lambda request: (seen.append(request), good())[1], RECIPIENT)
    kms.unwrap(WRAPPED, attester=enclave)
    assert seen == [
        {
            "key": KEY,
            "ciphertext": base64.b64encode(b"wrapped").decode(),
            "context": CONTEXT,
            "document": base64.b64encode(enclave.documents[0]).decode(),
        }
    ]
    assert len(json.dumps(seen[0])) < MAX_REQUEST_BYTES


def test_the_answer_in_full() -> None:
    assert unwrap(good()) == DEK


@pytest.mark.parametrize(
    "change",
    [
        {"plaintext": base64.b64encode(DEK).decode()},
        {"Plaintext": "x"},
        {"PLAINTEXT": ["x"]},
        {"error": "AccessDeniedException", "plaintext": "x"},
    ],
)
def test_plaintext_in_the_answer_ends_it(change: dict[str, Any]) -> None:
    error = failure({**good(), **change})
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_PLAINTEXT_RETURNED"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"more": 1}, "other fields"),
        ({"plaintext": ""}, "other fields"),
        ({"request_id": ...}, "other fields"),
        ({"key_id": ...}, "other fields"),
        ({"key_id": KEY}, "another key"),
        ({"key_id": ARN[:-1] + "f"}, "another key"),
        ({"key_id": None}, "another key"),
        ({"ciphertext_for_recipient": ""}, "no ciphertext"),
        ({"ciphertext_for_recipient": None}, "no ciphertext"),
        ({"ciphertext_for_recipient": "A" * 21_848}, "no ciphertext"),
        ({"ciphertext_for_recipient": "****"}, "not base64"),
        ({"ciphertext_for_recipient": "AAAA\n"}, "not base64"),
        ({"ciphertext_for_recipient": "é"}, "not base64"),
        ({"ciphertext_for_recipient": "AAB="}, "second spelling"),
        ({"ciphertext_for_recipient": "AAAA"}, "no CMS"),
    ],
)
def test_answers_that_must_not_be_used(change: dict[str, Any], why: str) -> None:
    answer = {name: value for name, value in {**good(), **change}.items() if value is not ...}
    error = failure(answer)
    assert why in error.message
    assert error.code == "KEY_RESPONSE_INVALID"  # type: ignore[attr-defined]


def test_an_envelope_for_somebody_else() -> None:
    envelope = cms.wrap(RecipientKey.generate().spki, DEK, constructed=False)
    error = failure({**good(), "ciphertext_for_recipient": base64.b64encode(envelope).decode()})
    assert "does not open with this boot's key" in error.message


@pytest.mark.parametrize(
    ("entry", "kind", "why"),
    [
        (replace(WRAPPED, key="local:nonsense"), MalformedError, "not a key's URI"),
        (replace(WRAPPED, key=KEY.rsplit(":", 1)[0] + ":alias/x"), MalformedError, "names an alias"),
        (replace(WRAPPED, provider="aws-kms"), MalformedError, "an entry of 'aws-kms'"),
        (replace(WRAPPED, ciphertext=b""), MalformedError, "of 0 bytes"),
        (replace(WRAPPED, ciphertext=bytes(6_145)), MalformedError, "of 6145 bytes"),
        (replace(WRAPPED, context={}), MalformedError, "of 0 pairs"),
        (
            WrappedKey("gcp-kms", "gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k", b"x", CONTEXT),
            UnavailableError,
            "not released through a relay",
        ),
    ],
)
def test_entries_that_are_not_even_sent(entry: WrappedKey, kind: type[EphemeralError], why: str) -> None:
    def unreachable(_: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("sent")

    with pytest.raises(kind, match=why):
        RelayedKms(unreachable, RECIPIENT).unwrap(entry, attester=ENCLAVE)


def test_a_host_that_does_not_answer() -> None:
    def post(_: Mapping[str, Any]) -> Mapping[str, Any]:
        raise UnavailableError("the host services did not answer within 10 s")

    records: list[Any] = []
    with pytest.raises(UnavailableError, match="within 10 s"):
        RelayedKms(post, RECIPIENT, observer=records.append).unwrap(WRAPPED, attester=ENCLAVE)
    assert [record.outcome for record in records] == ["UnavailableError"]


def test_a_dropped_recipient_opens_nothing() -> None:
    recipient = RecipientKey.generate()
    kms = RelayedKms(lambda _: good(), recipient)
    recipient.drop()
    with pytest.raises(RuntimeError, match="dropped"):
        kms.unwrap(WRAPPED, attester=ENCLAVE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(["ciphertext_for_recipient", "key_id", "request_id", "error", "Plaintext", "other"])


@pytest.mark.fuzz
@given(st.dictionaries(fields, json_values | st.just(ARN), max_size=5), st.booleans())
def test_whatever_the_host_answers_is_an_error_of_ours(answer: dict[str, Any], based: bool) -> None:
    merged = {**good(), **answer} if based else answer
    try:
        assert unwrap(merged) == DEK
    except (MalformedError, RejectedError, UnavailableError):
        return
    assert {**merged, "request_id": ""} == {
        **good(),
        "ciphertext_for_recipient": merged["ciphertext_for_recipient"],
        "request_id": "",
    }
