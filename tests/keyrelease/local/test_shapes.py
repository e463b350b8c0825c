"""Bodies as botocore's description of the service reads them."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.keyrelease.local.faults import ServiceFault
from ephemeralml.keyrelease.local.operations import OPERATIONS
from ephemeralml.keyrelease.local.shapes import readers

READERS = readers(OPERATIONS)


def read(name: str, document: Any) -> dict[str, Any]:
    return READERS[name](json.dumps(document).encode())


def test_every_operation_is_described() -> None:
    assert READERS.keys() == OPERATIONS.keys()


def test_blobs_are_bytes_and_unknown_fields_ignored() -> None:
    assert read("Decrypt", {"CiphertextBlob": "AAE=", "New": 1, "KeyId": None}) == {"CiphertextBlob": b"\0\1"}


@pytest.mark.parametrize(
    ("name", "document", "code"),
    [
        ("Decrypt", {"CiphertextBlob": "A"}, "SerializationException"),
        ("Decrypt", {"CiphertextBlob": "AA==\n"}, "SerializationException"),
        ("Decrypt", {"CiphertextBlob": [1]}, "SerializationException"),
        ("Decrypt", {"CiphertextBlob": ""}, "ValidationException"),
        ("Decrypt", {"EncryptionContext": {"a": 1}}, "SerializationException"),
        ("Decrypt", {"EncryptionContext": []}, "SerializationException"),
        ("Decrypt", {"EncryptionContext": {str(n): "" for n in range(1_001)}}, "ValidationException"),
        ("Decrypt", {"GrantTokens": ["a"] * 11}, "ValidationException"),
        ("Decrypt", {"GrantTokens": "a"}, "SerializationException"),
        ("Decrypt", {"Recipient": "a"}, "SerializationException"),
        ("Decrypt", {"Recipient": {"KeyEncryptionAlgorithm": "RSA"}}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": 0}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": True}, "SerializationException"),
        ("GenerateRandom", {"NumberOfBytes": 8.0}, "SerializationException"),
        ("CreateKey", {"MultiRegion": "true"}, "SerializationException"),
        ("CreateKey", {"Policy": "\u20ac"}, "ValidationException"),
        ("CreateAlias", {"AliasName": "alias/ü", "TargetKeyId": "x"}, "ValidationException"),
        ("TagResource", {"KeyId": "x", "Tags": [{"TagKey": "a"}]}, "ValidationException"),
        ("PutKeyPolicy", {"KeyId": "x"}, "ValidationException"),
    ],
)
def test_refused(name: str, document: Any, code: str) -> None:
    with pytest.raises(ServiceFault) as caught:
        read(name, document)
    assert caught.value.code == code


def test_messages_hold_no_values() -> None:
    for document in ({"Plaintext": "secret value", "KeyId": "x"}, {"KeyId": "x" * 3_000, "Plaintext": "AA=="}):
        with pytest.raises(ServiceFault) as caught:
            read("Encrypt", document)
        assert "secret" not in caught.value.message
        assert "xxx" not in caught.value.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.dictionaries(
    st.sampled_from(
        ["KeyId", "CiphertextBlob", "EncryptionContext", "Recipient", "GrantTokens", "NumberOfBytes", "Tags"]
    ),
    _JSON,
    max_size=5,
)


@pytest.mark.fuzz
@given(
    st.sampled_from(sorted(OPERATIONS)), st.binary(max_size=300) | _FIELDS.map(lambda item: json.dumps(item).encode())
)
def test_nothing_but_faults_leaves(name: str, body: bytes) -> None:
    with suppress(ServiceFault):
        assert isinstance(READERS[name](body), dict)
