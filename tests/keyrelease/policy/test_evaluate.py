"""The evaluator: one decision per rule of key-release.md section 5."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ephemeralml.keyrelease.policy import conditions
from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Decision, Grant, Request, evaluate

ACCOUNT = "111122223333"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/12345678-1234-1234-1234-123456789012"
PARENT = f"arn:aws:iam::{ACCOUNT}:role/hosts/enclave-parent"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave-parent/i-0123"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
FOREIGN = "arn:aws:iam::999988887777:role/enclave-parent"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PCRS = {0: b"\x0a" * 48, 1: b"\x0b" * 48, 2: b"\x0c" * 48}
CONTEXT = {"model_id": "minilm", "version": "1.0.0"}


def allow(action: Any = "kms:Decrypt", principal: Any = PARENT, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "*", **more}


def deny(action: Any = "kms:Decrypt", principal: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Principal": principal, "Action": action, "Resource": "*", **more}


def policy(*statements: dict[str, Any]) -> KeyPolicy:
    return KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


def own(*statements: dict[str, Any]) -> PolicyDocument:
    return PolicyDocument.parse(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


def decide(
    given: KeyPolicy,
    action: str = "kms:Decrypt",
    principal: str = PARENT,
    *,
    pcrs: dict[int, bytes] | None = PCRS,
    context: dict[str, str] | None = CONTEXT,
    now: datetime = NOW,
    **more: Any,
) -> Decision:
    carried = conditions.build(
        principal=principal, account=ACCOUNT, context=context, pcrs=pcrs, now=now, action=action, source_ip="10.0.0.1"
    )
    return evaluate(Request(principal, action, KEY, carried), policy=given, account=ACCOUNT, **more)


ANYTHING = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}


def test_an_allow_that_names_the_caller() -> None:
    decision = decide(policy(allow(Sid="Release")))
    assert (decision.allowed, decision.statement) == (True, "Release")


def test_a_role_is_named_for_its_sessions() -> None:
    assert decide(policy(allow()), principal=SESSION).allowed


def test_a_session_is_not_its_role() -> None:
    assert not decide(policy(allow(principal=SESSION))).allowed
    assert decide(policy(allow(principal=SESSION)), principal=SESSION).allowed


@pytest.mark.parametrize(
    "session",
    [
        "arn:aws:sts::999988887777:assumed-role/enclave-parent/i-0123",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave-parent2/i-0123",
        f"arn:aws-cn:sts::{ACCOUNT}:assumed-role/enclave-parent/i-0123",
        f"arn:aws:iam::{ACCOUNT}:user/enclave-parent",
    ],
)
def test_another_account_name_partition_or_kind_is_someone_else(session: str) -> None:
    assert not decide(policy(allow()), principal=session, identity_policies={session: [own(ANYTHING)]}).allowed


def test_a_deny_wins_wherever_it_stands() -> None:
    gated = policy(allow(), deny(Sid="No"))
    assert decide(gated).statement == "No"
    block = own({"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"})
    assert not decide(policy(allow()), identity_policies={PARENT: [block]}).allowed
    assert not decide(policy(allow()), scps=[block]).allowed


def test_an_organisation_rules_its_own_accounts_only() -> None:
    block = own({"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"})
    assert decide(
        policy(allow(principal=FOREIGN)), principal=FOREIGN, scps=[block], identity_policies={FOREIGN: [own(ANYTHING)]}
    ).allowed


def test_the_account_delegates_to_identity_policies() -> None:
    delegating = policy(allow("kms:*", ROOT, Sid="Root"))
    assert not decide(delegating).allowed
    decision = decide(delegating, identity_policies={PARENT: [own(ANYTHING)]})
    assert (decision.allowed, decision.statement) == (True, "Root")
    assert decide(policy(allow("kms:*", ACCOUNT)), identity_policies={PARENT: [own(ANYTHING)]}).allowed


def test_an_identity_policy_alone_opens_nothing() -> None:
    assert not decide(policy(allow("kms:DescribeKey")), identity_policies={PARENT: [own(ANYTHING)]}).allowed


def test_the_root_user_is_named_by_the_root_statement() -> None:
    assert decide(policy(allow("kms:*", ROOT)), principal=ROOT).allowed


def test_another_account_needs_both_sides() -> None:
    named = policy(allow(principal=FOREIGN))
    assert not decide(named, principal=FOREIGN).allowed
    assert decide(named, principal=FOREIGN, identity_policies={FOREIGN: [own(ANYTHING)]}).allowed
    assert not decide(policy(allow(principal="*")), principal=FOREIGN).allowed


def test_a_deny_on_an_account_is_about_everyone_in_it() -> None:
    assert not decide(policy(allow(), deny(principal={"AWS": ACCOUNT}))).allowed


def test_a_deny_with_an_exception_spares_the_named_one_only() -> None:
    statement = deny()
    del statement["Principal"]
    spared = policy(allow(principal=[PARENT, ROOT]), statement | {"NotPrincipal": {"AWS": PARENT}})
    assert decide(spared).allowed
    assert not decide(spared, principal=ROOT).allowed


class TestGrants:
    def test_a_grant_allows_what_it_lists_to_its_grantee(self) -> None:
        grants = [Grant("g1", PARENT, ("Decrypt",))]
        shut = policy(allow("kms:DescribeKey"))
        assert decide(shut, grants=grants).statement == "grant g1"
        assert not decide(shut, "kms:Encrypt", grants=grants).allowed
        assert not decide(shut, principal=ROOT, grants=grants).allowed

    def test_a_deny_stops_a_grant(self) -> None:
        assert not decide(policy(deny()), grants=[Grant("g1", PARENT, ("Decrypt",))]).allowed

    @pytest.mark.parametrize(
        ("equals", "subset", "context", "allowed"),
        [
            (CONTEXT, None, CONTEXT, True),
            (CONTEXT, None, {**CONTEXT, "more": "x"}, False),
            (CONTEXT, None, {"Model_id": "minilm", "version": "1.0.0"}, False),
            (CONTEXT, None, None, False),
            (None, {"model_id": "minilm"}, CONTEXT, True),
            (None, {"model_id": "other"}, CONTEXT, False),
            (None, {"model_id": "a"}, {"Model_ID": "b", "model_id": "a"}, True),
            (None, {"model_id": "b"}, {"Model_ID": "b", "model_id": "a"}, False),
        ],
    )
    def test_its_constraint_keeps_letter_case(
        self, equals: Any, subset: Any, context: dict[str, str] | None, allowed: bool
    ) -> None:
        grants = [Grant("g1", PARENT, ("Decrypt",), equals, subset)]
        assert decide(policy(allow("kms:DescribeKey")), context=context, grants=grants).allowed is allowed


def condition(operator: str, key: str, *values: str) -> dict[str, Any]:
    return {"Condition": {operator: {key: list(values)}}}


IMAGE = "kms:RecipientAttestation:ImageSha384"
RIGHT, WRONG = PCRS[0].hex(), "ff" * 48


@pytest.mark.parametrize(
    ("operator", "values", "with_document", "without"),
    [
        ("StringEquals", [RIGHT], True, False),
        ("StringEquals", [RIGHT.upper()], False, False),
        ("StringEqualsIgnoreCase", [RIGHT.upper()], True, False),
        ("StringEqualsIgnoreCase", [WRONG, RIGHT], True, False),
        ("StringEqualsIgnoreCase", [], False, False),
        ("StringLike", ["0a*"], True, False),
        ("StringLike", ["?b*"], False, False),
        ("StringNotEqualsIgnoreCase", [RIGHT], False, True),
        ("StringNotEqualsIgnoreCase", [WRONG], True, True),
        ("StringNotLike", ["*"], False, True),
        ("StringEqualsIfExists", [WRONG], False, True),
        ("StringEqualsIgnoreCaseIfExists", [RIGHT], True, True),
        ("ForAllValues:StringEquals", [RIGHT], True, True),
        ("ForAllValues:StringEquals", [WRONG], False, True),
        ("ForAnyValue:StringEquals", [RIGHT], True, False),
        ("ForAnyValue:StringNotEquals", [WRONG], True, False),
        ("ForAllValues:StringNotEquals", [WRONG], True, True),
        ("Null", ["true"], False, True),
        ("Null", ["false"], True, False),
        ("Null", ["true", "false"], True, True),
        ("StringEquals", ["${aws:username}"], False, False),
        ("StringMatches", [RIGHT], False, False),
        ("stringequals", [RIGHT], False, False),
        ("Null", ["perhaps"], False, False),
    ],
)
def test_what_an_absent_document_does_to_each_operator(
    operator: str, values: list[str], with_document: bool, without: bool
) -> None:
    gated = policy(allow(**condition(operator, IMAGE, *values)))
    assert decide(gated).allowed is with_document
    assert decide(gated, pcrs=None).allowed is without


@pytest.mark.parametrize("operator", ["StringMatches", "NumericLessThan", "IpAddress", "DateLessThan", "NullIfExists"])
def test_a_deny_that_cannot_be_decided_denies(operator: str) -> None:
    assert not decide(policy(allow(), deny(**condition(operator, IMAGE, "x")))).allowed


@pytest.mark.parametrize(
    ("operator", "key", "value", "holds"),
    [
        ("DateLessThan", "aws:CurrentTime", "2026-11-20T12:00:01Z", True),
        ("DateLessThan", "aws:CurrentTime", "2026-11-20T12:00:00Z", False),
        ("DateLessThanEquals", "aws:CurrentTime", "2026-11-20T12:00:00Z", True),
        ("DateGreaterThan", "aws:CurrentTime", "2026-11-20", True),
        ("DateNotEquals", "aws:CurrentTime", "2026-11-20T13:00:00+01:00", False),
        ("DateLessThan", "aws:EpochTime", "1900000000", True),
        ("NumericGreaterThan", "aws:EpochTime", "1700000000", True),
        ("NumericNotEquals", "aws:EpochTime", "1", True),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", True),
        ("IpAddress", "aws:SourceIp", "10.0.0.2", False),
        ("NotIpAddress", "aws:SourceIp", "192.168.0.0/16", True),
        ("Bool", "aws:SecureTransport", "true", True),
        ("Bool", "aws:SecureTransport", "false", False),
        ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::*:role/hosts/*", True),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::111122223333:user/*", False),
        ("ArnLike", "aws:PrincipalArn", "arn:*/hosts/enclave-parent", False),
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::111122223333:user/*", True),
        ("StringEquals", "kms:callerACCOUNT", ACCOUNT, True),
        ("StringEquals", "KMS:EncryptionContext:MODEL_ID", "minilm", True),
        ("StringEquals", "kms:EncryptionContext:model_id", "Minilm", False),
        ("ForAllValues:StringEquals", "kms:EncryptionContextKeys", "model_id", False),
        ("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "model_id", True),
    ],
)
def test_operators(operator: str, key: str, value: str, holds: bool) -> None:
    assert decide(policy(allow(**condition(operator, key, value)))).allowed is holds


def test_names_of_a_context_that_meet_in_one_condition_key_must_all_agree() -> None:
    gated = policy(allow(**condition("StringEquals", "kms:EncryptionContext:model_id", "minilm")))
    assert not decide(gated, context={"model_id": "minilm", "MODEL_ID": "other"}).allowed


@pytest.mark.parametrize(
    ("patterns", "action", "covered"),
    [
        ("kms:*", "kms:Decrypt", True),
        ("*", "kms:Decrypt", True),
        ("KMS:decrypt", "kms:Decrypt", True),
        ("kms:De?rypt", "kms:Decrypt", True),
        ("kms:ReEncrypt*", "kms:ReEncryptFrom", True),
        ("kms:Decryp", "kms:Decrypt", False),
        (["kms:Encrypt", "kms:*crypt"], "kms:Decrypt", True),
    ],
)
def test_actions_match_without_letter_case_and_with_wildcards(patterns: Any, action: str, covered: bool) -> None:
    assert decide(policy(allow(patterns)), action).allowed is covered


def test_not_action_speaks_of_all_the_others() -> None:
    statement = allow()
    del statement["Action"]
    others = policy(statement | {"NotAction": "kms:Encrypt"})
    assert decide(others).allowed
    assert not decide(others, "kms:Encrypt").allowed


@pytest.mark.parametrize(("resource", "covered"), [("*", True), (KEY, True), (f"{KEY[:-1]}3", False), (None, False)])
def test_the_statement_has_to_speak_of_this_key(resource: str | None, covered: bool) -> None:
    statement = allow(Resource=resource)
    if resource is None:
        del statement["Resource"]
    assert decide(policy(statement)).allowed is covered


def test_registers_are_carried_by_attested_actions_alone() -> None:
    gated = policy(allow("kms:*", **condition("StringEquals", IMAGE, RIGHT)))
    assert decide(gated, "kms:GenerateDataKey").allowed
    assert not decide(gated, "kms:Encrypt").allowed


def test_an_encryption_context_is_carried_by_symmetric_operations_alone() -> None:
    gated = policy(allow("kms:*", **condition("StringEquals", "kms:EncryptionContext:model_id", "minilm")))
    assert decide(gated, "kms:Encrypt").allowed
    assert not decide(gated, "kms:DescribeKey").allowed
