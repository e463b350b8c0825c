"""AWS's error names in our terms: the table of key-release.md section 1, the explanations of section 3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked, Fault

KEY = "aws-kms:arn:aws:kms:eu-central-1:111122223333:key/0f8fad5b-d9cb-469f-a165-70867728950e"
CONTEXT = {"model_id": "minilm", "version": "1.0.0"}
ATTESTED = Asked("Decrypt", KEY, True, b"\xab" * 48, CONTEXT)
PLAIN = Asked("Decrypt", KEY)

TABLE = [
    ("AccessDeniedException", ATTESTED, RejectedError, "KEY_RELEASE_DENIED", "does not release it to this workload"),
    ("ValidationException", ATTESTED, RejectedError, "KEY_DOCUMENT_REFUSED", "refuses the attestation document"),
    (
        "InvalidCiphertextException",
        ATTESTED,
        RejectedError,
        "KEY_CIPHERTEXT_INVALID",
        "wrong context, key or ciphertext",
    ),
    ("IncorrectKeyException", ATTESTED, RejectedError, "KEY_CIPHERTEXT_INVALID", "wrong context, key or ciphertext"),
    ("NotFoundException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "does not exist"),
    ("DisabledException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "is disabled"),
    ("KMSInvalidStateException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "a state that forbids its use"),
    ("ExpiredTokenException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "no valid credentials"),
    ("UnrecognizedClientException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "no valid credentials"),
    ("InvalidSignatureException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "no valid credentials"),
    ("ThrottlingException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "failed at Decrypt"),
    ("KMSInternalException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "failed at Decrypt"),
    ("DependencyTimeoutException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "failed at Decrypt"),
    ("KeyUnavailableException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "failed at Decrypt"),
    ("SomethingNewException", ATTESTED, UnavailableError, "KEY_UNAVAILABLE", "SomethingNewException"),
    ("ValidationException", PLAIN, RejectedError, "KEY_REQUEST_REFUSED", "finds Decrypt with"),
]


@pytest.mark.parametrize(("name", "asked", "kind", "code", "words"), TABLE)
def test_the_table(name: str, asked: Asked, kind: type[EphemeralError], code: str, words: str) -> None:
    error = faults.from_aws(name, asked)
    assert isinstance(error, kind)
    assert error.code == code  # type: ignore[attr-defined]
    assert error.kms_error == name  # type: ignore[attr-defined]
    assert words in error.message
    assert KEY in error.message


def test_a_retry_may_help_against_these_only() -> None:
    for name in (
        "ThrottlingException",
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
    ):
        assert faults.is_transient(name, 400)
    for status in (429, 500, 503):
        assert faults.is_transient("Whatever", status)
    for name, *_ in (row for row in TABLE if row[3] != "KEY_UNAVAILABLE"):
        assert not faults.is_transient(name, 400)
    assert not faults.is_transient("DisabledException", None)


def test_why_it_was_denied() -> None:
    """A2, A3, A7 and A8 are one error of the service; what was sent tells them apart."""
    image = faults.from_aws("AccessDeniedException", ATTESTED)
    assert "PCR0 " + "ab" * 48 in image.message
    assert "'minilm' '1.0.0'" in image.message
    debug = faults.from_aws("AccessDeniedException", Asked("Decrypt", KEY, True, bytes(48)))
    assert "debug enclave" in debug.message
    bare = faults.from_aws("AccessDeniedException", PLAIN)
    assert "not released without an attestation document" in bare.message
    assert "--dek" in str(bare.hint)
    wrap = faults.from_aws("AccessDeniedException", Asked("Encrypt", KEY))
    assert "may not do Encrypt" in wrap.message


def test_the_keys_state_is_said() -> None:
    error = faults.from_aws("KMSInvalidStateException", PLAIN, state="PendingDeletion")
    assert error.message.endswith("forbids its use (PendingDeletion)")


@pytest.mark.parametrize(("name", "asked", "kind", "code", "words"), TABLE)
def test_over_the_relay_it_is_the_same(
    name: str, asked: Asked, kind: type[EphemeralError], code: str, words: str
) -> None:
    told = faults.wire_code(faults.from_aws(name, asked))
    assert told == name
    error = faults.from_wire(told, asked)
    assert (type(error), error.message) == (type(faults.from_aws(name, asked)), faults.from_aws(name, asked).message)


@pytest.mark.parametrize("fault", list(Fault))
def test_our_own_codes_travel_too(fault: Fault) -> None:
    error = faults.from_wire(fault.value, ATTESTED)
    assert error.code == fault.value  # type: ignore[attr-defined]
    assert isinstance(error, UnavailableError if fault is Fault.UNAVAILABLE else RejectedError)


def test_errors_without_a_name_of_their_own() -> None:
    assert faults.wire_code(UnavailableError("no network")) == "KEY_UNAVAILABLE"
    assert faults.wire_code(RejectedError("x", code="KEY_PLAINTEXT_RETURNED")) == "KEY_PLAINTEXT_RETURNED"
    assert faults.wire_code(RejectedError("x", code="with a space")) == "KEY_UNAVAILABLE"


@pytest.mark.fuzz
@given(st.none() | st.integers() | st.text(max_size=100) | st.dictionaries(st.text(), st.text()))
def test_whatever_a_host_answers_is_an_error_of_ours(code: object) -> None:
    error = faults.from_wire(code, ATTESTED)
    assert isinstance(error, RejectedError | UnavailableError)
    assert len(error.message) < 500
    assert error.message.isprintable()
