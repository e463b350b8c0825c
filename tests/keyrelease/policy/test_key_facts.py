"""What KMS prints of keys and grants, read; and what it never prints, refused."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.key_facts import parse_grants, parse_key

METADATA = {"Arn": "arn:x", "MultiRegion": False, "Origin": "AWS_KMS", "KeySpec": "SYMMETRIC_DEFAULT"}
GRANT = {"GrantId": "g", "GranteePrincipal": "arn:aws:iam::111122223333:role/x", "Operations": ["Decrypt"]}


def test_a_key() -> None:
    facts = parse_key(json.dumps({"KeyMetadata": METADATA, "KeyRotationEnabled": True}).encode())
    assert (facts.arn, facts.multi_region, facts.origin, facts.usage, facts.rotation) == (
        *("arn:x", False, "AWS_KMS", None),
        True,
    )
    assert parse_key(json.dumps(METADATA).encode()).rotation is None


@pytest.mark.parametrize(
    "document",
    [
        {"KeyMetadata": []},
        {"KeyMetadata": METADATA | {"Arn": 5}},
        {"KeyMetadata": METADATA | {"MultiRegion": "no"}},
        {"KeyMetadata": METADATA, "KeyRotationEnabled": "yes"},
        [],
    ],
)
def test_what_is_no_key(document: Any) -> None:
    with pytest.raises(MalformedError):
        parse_key(json.dumps(document).encode())


def test_grants() -> None:
    constraints = {"EncryptionContextSubset": {"model_id": "m"}}
    (one,) = parse_grants(json.dumps({"Grants": [GRANT | {"Constraints": constraints, "Name": "n"}]}).encode())
    assert (one.id, one.name, one.operations, one.context_subset) == ("g", "n", ("Decrypt",), {"model_id": "m"})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"Grants": {}},
        {"Grants": [5]},
        {"Grants": [{}]},
        {"Grants": [GRANT | {"Operations": "Decrypt"}]},
        {"Grants": [GRANT | {"Operations": [5]}]},
        {"Grants": [GRANT | {"Constraints": []}, GRANT | {"Constraints": "x"}]},
        {"Grants": [GRANT | {"Constraints": {"EncryptionContextEquals": ["m"]}}]},
        {"Grants": [GRANT | {"Constraints": {"EncryptionContextSubset": {"m": 5}}}]},
    ],
)
def test_what_are_no_grants(document: Any) -> None:
    with pytest.raises(MalformedError):
        parse_grants(json.dumps(document).encode())


@pytest.mark.fuzz
@given(
    st.recursive(
        st.none() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["Grants", "KeyMetadata", *GRANT, *METADATA, "Constraints"]), inner, max_size=4
            )
        ),
        max_leaves=9,
    )
)
def test_only_our_errors_leave_the_readers(value: Any) -> None:
    for reader in (parse_key, parse_grants):
        with contextlib.suppress(MalformedError):
            reader(json.dumps(value).encode())
