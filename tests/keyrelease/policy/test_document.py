"""Reading policies: what KMS stores is taken, what it refuses is refused."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES, KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.operators import Operator, Quantifier

GOOD: dict[str, Any] = {"Sid": "A", "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
MISSING = object()


def text(*statements: Any, **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **more})


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | fields).items() if value is not MISSING}


def test_a_policy_is_read_and_keeps_its_text() -> None:
    given_text = text(
        GOOD, changed(Sid="", Effect="Deny", Principal={"AWS": ["111122223333", "*"]}, Action=["kms:*", "*"])
    )
    policy = KeyPolicy.parse(given_text)
    assert policy.text == given_text
    assert [statement.name for statement in policy.statements] == ["A", "statement 2"]
    assert [one.value for one in policy.statements[1].principals] == ["111122223333", "*"]


def test_a_single_statement_needs_no_list() -> None:
    assert KeyPolicy.parse(json.dumps({"Statement": GOOD})).statements[0].name == "A"


def test_values_are_texts_numbers_or_truth() -> None:
    condition = {"Bool": {"aws:SecureTransport": True}, "NumericLessThan": {"aws:EpochTime": [5, 1.5, "7"]}}
    clauses = KeyPolicy.parse(text(changed(Condition=condition))).statements[0].clauses
    assert [clause.values for clause in clauses] == [("true",), ("5", "1.5", "7")]


@pytest.mark.parametrize(
    "fields",
    [
        {"Effect": "allow"},
        {"Effect": MISSING},
        {"Principal": MISSING},
        {"NotPrincipal": "*"},
        {"Principal": "arn:aws:iam::111122223333:role/x"},
        {"Principal": {}},
        {"Principal": {"Aws": "*"}},
        {"Principal": {"AWS": []}},
        {"Principal": {"AWS": "arn:aws:iam::111122223333:role/*"}},
        {"Principal": {"Service": "*"}},
        {"Action": MISSING},
        {"Action": []},
        {"Action": "Decrypt"},
        {"Action": 7},
        {"Action": "\u212ams:Decrypt"},
        {"Action": "kms:Decr\u0443pt"},
        {"Action": "k*:Decrypt"},
        {"Action": "*:Decrypt"},
        {"Action": " kms:Decrypt"},
        {"Action": ["kms:*", "kms:Decrypt:x"]},
        {"NotAction": "?ms:Decrypt", "Action": MISSING},
        {"NotAction": "kms:Encrypt"},
        {"NotResource": "*"},
        {"Resource": []},
        {"Condition": []},
        {"Condition": {"StringEquals": "x"}},
        {"Condition": {"StringEquals": {"a": None}}},
        {"Condition": {"StringEquals": {"a": [{}]}}},
        {"Condition": {"Null": {"\u212ams:RecipientAttestation:ImageSha384": "true"}}},
        {"Sid": 1},
        {"Extra": 1},
    ],
)
def test_a_statement_that_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        KeyPolicy.parse(text(changed(**fields)))


@pytest.mark.parametrize(
    "document",
    [
        text(),
        text("x"),
        text(GOOD, GOOD),
        text(GOOD, Version="2013"),
        text(GOOD, Extra=1),
        text(GOOD, Id=1),
        "[]",
        "{",
        '{"Version": "2012-10-17"}',
        '{"Statement": [], "Statement": []}',
        "\ud800",
    ],
)
def test_a_document_that_is_none(document: str) -> None:
    with pytest.raises(MalformedError):
        KeyPolicy.parse(document)


def test_it_has_a_largest_size_with_a_code_of_its_own() -> None:
    fits = text(GOOD)
    assert KeyPolicy.parse(fits + " " * (MAX_POLICY_BYTES - len(fits)))
    with pytest.raises(MalformedError) as caught:
        KeyPolicy.parse(fits + " " * (MAX_POLICY_BYTES - len(fits) + 1))
    assert caught.value.code == "POLICY_TOO_LARGE"


def test_an_identity_policy_names_no_principal() -> None:
    assert PolicyDocument.parse(text(changed(Principal=MISSING)))
    with pytest.raises(MalformedError):
        PolicyDocument.parse(text(GOOD))


def test_unknown_operators_are_kept_and_told() -> None:
    policy = KeyPolicy.parse(text(changed(Condition={"StringIs": {"a": "b"}, "NullIfExists": {"a": "true"}})))
    assert policy.unknown_operators == ("NullIfExists", "StringIs")


def test_an_operator_is_taken_apart() -> None:
    made = Operator.parse("ForAnyValue:StringNotEqualsIfExists")
    assert (made.name, made.quantifier, made.if_exists, made.negated) == ("StringNotEquals", Quantifier.ANY, True, True)
    assert not Operator.parse("ForSome:StringEquals").known


@pytest.mark.fuzz
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["Statement", "Effect", "Principal", "AWS", "Action", "Condition", "Resource", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_only_our_errors_leave_the_reader(value: Any) -> None:
    for document in (json.dumps(value), text(value), text(changed(Condition=value)), text(changed(Principal=value))):
        with contextlib.suppress(MalformedError):
            KeyPolicy.parse(document)


@pytest.mark.fuzz
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_match_as_the_definition_says(pattern: str, name: str) -> None:
    def defined(mark: str, rest: str) -> bool:
        if not mark:
            return not rest
        if mark[0] == "*":
            return any(defined(mark[1:], rest[at:]) for at in range(len(rest) + 1))
        return bool(rest) and mark[0] in ("?", rest[0]) and defined(mark[1:], rest[1:])

    assert globs.matches(pattern, name) is defined(pattern, name)


def test_no_pattern_makes_a_comparison_slow() -> None:
    start = time.monotonic()
    for pattern in ("*" + "a" * 30_000 + "b", "*" + "a?" * 4_000 + "b", "*a" * 15_000 + "b", "*a?" * 10_000 + "b"):
        assert not globs.matches(pattern, "a" * 8_192)
    assert time.monotonic() - start < 2
