import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import MalformedError
from ephemeralml.model.keys_file import MAX_KEYS_BYTES, encode_keys, parse_keys

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CONTEXT = {"model_id": "m", "version": "1.0.0"}
ENTRY = {"provider": "aws-kms", "key": f"aws-kms:{ARN}", "ciphertext": "AAEC", "context": CONTEXT}
WRAPPED = WrappedKey("aws-kms", f"aws-kms:{ARN}", b"\0\1\2", CONTEXT)


def parsed(**changes: Any) -> tuple[WrappedKey, ...]:
    return parse_keys(json.dumps([ENTRY | changes]).encode())


def refused(match: str, **changes: Any) -> None:
    with pytest.raises(MalformedError, match=match) as caught:
        parsed(**changes)
    assert caught.value.message.startswith("keys.json: ")


def test_an_entry_reads_as_it_stands() -> None:
    assert parsed() == (WRAPPED,)


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        ("aws-kms", f"aws-kms:{ARN}"),
        ("gcp-kms", "gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k"),
        ("local", f"local:{ARN}"),
    ],
)
def test_what_is_written_reads_back(provider: str, key: str) -> None:
    entries = (WrappedKey(provider, key, bytes(range(200)), CONTEXT | {"manifest": "00" * 32}),) * 16
    assert parse_keys(encode_keys(entries)) == entries


def test_unknown_fields_are_ignored() -> None:
    assert parsed(comment="x", region=1) == (WRAPPED,)


@pytest.mark.parametrize("count", [0, 17, 100])
def test_the_entries_are_1_to_16(count: int) -> None:
    with pytest.raises(MalformedError, match="1 to 16"):
        parse_keys(json.dumps([ENTRY] * count).encode())


@pytest.mark.parametrize("document", [b"{}", b'"x"', b"null", b"[1]", b"[[]]", b"", b"[", b"\xff", b"[NaN]"])
def test_another_document_is_malformed(document: bytes) -> None:
    with pytest.raises(MalformedError, match=r"keys\.json"):
        parse_keys(document)


def test_a_repeated_name_is_malformed() -> None:
    with pytest.raises(MalformedError, match="repeats"):
        parse_keys(json.dumps([ENTRY]).replace('"provider"', '"key": "", "provider"').encode())


def test_the_file_has_at_most_64_kib() -> None:
    data = json.dumps([ENTRY]).encode()
    assert parse_keys(data.ljust(MAX_KEYS_BYTES)) == (WRAPPED,)
    with pytest.raises(MalformedError, match="65536"):
        parse_keys(data.ljust(MAX_KEYS_BYTES + 1))


@pytest.mark.parametrize("provider", ["aws", "AWS-KMS", "", None, 1, ["aws-kms"], "azure"])
def test_another_provider_is_malformed(provider: Any) -> None:
    refused("provider", provider=provider)


@pytest.mark.parametrize("key", [None, 5, "", ARN, f"local:{ARN}", f"aws-kms:{ARN} ", "aws-kms:\u00e4", "aws-kms:a\nb"])
def test_a_key_is_the_full_uri_of_its_provider(key: Any) -> None:
    refused("key", key=key)


def test_a_key_has_at_most_2048_characters() -> None:
    assert parsed(key="aws-kms:".ljust(2_048, "k"))
    refused("2048", key="aws-kms:".ljust(2_049, "k"))


@pytest.mark.parametrize("text", [None, 7, "", "A", "AAE", "AAECA", "AAF=", "AAE C", "AA-_", " AAEC", "AAEC\n"])
def test_the_ciphertext_is_canonical_padded_base64(text: Any) -> None:
    refused("ciphertext", ciphertext=text)


def test_the_ciphertext_has_at_most_8192_characters() -> None:
    assert len(parsed(ciphertext=base64.b64encode(bytes(6_144)).decode())[0].ciphertext) == 6_144
    refused("8192", ciphertext=base64.b64encode(bytes(6_145)).decode())


@pytest.mark.parametrize("context", [None, [], "x", {"a": 1}, {"a": None}, {str(n): "" for n in range(9)}])
def test_the_context_is_at_most_8_pairs_of_texts(context: Any) -> None:
    refused("context", context=context)


def test_the_context_has_at_most_8192_characters() -> None:
    assert parsed(context={"a": "b" * 8_191})
    refused("8192", context={"a": "b" * 8_192})


@pytest.mark.parametrize("name", ["provider", "key", "ciphertext", "context"])
def test_every_field_is_needed(name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        parse_keys(json.dumps([{key: value for key, value in ENTRY.items() if key != name}]).encode())


def test_what_could_not_be_read_is_not_written() -> None:
    with pytest.raises(MalformedError, match="1 to 16"):
        encode_keys([WRAPPED] * 17)
    with pytest.raises(MalformedError, match="ciphertext"):
        encode_keys([WrappedKey("aws-kms", f"aws-kms:{ARN}", b"", CONTEXT)])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "provider": st.sampled_from(["aws-kms", "local", "x"]) | _JSON,
        "key": st.sampled_from([f"aws-kms:{ARN}", f"local:{ARN}"]) | _JSON,
        "ciphertext": st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode()) | _JSON,
        "context": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=9) | _JSON,
    },
)


@pytest.mark.fuzz
@given(st.binary(max_size=300) | st.lists(_ENTRIES, max_size=18).map(lambda value: json.dumps(value).encode()))
def test_only_our_errors_leave_the_parser_and_what_it_took_reads_back(data: bytes) -> None:
    try:
        entries = parse_keys(data)
    except MalformedError:
        return
    assert parse_keys(encode_keys(entries)) == entries
