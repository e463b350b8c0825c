"""Lint of actions that KMS does not have."""

import json

import pytest

from ephemeralml.keyrelease.policy import lint_actions
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.lint_actions import permissions, unknown_actions
from tests.keyrelease.policy.test_render import image, rendered

pytest.importorskip("botocore", reason="botocore is not installed")


def policy(*actions: str, key: str = "Action") -> KeyPolicy:
    who = {"AWS": "arn:aws:iam::111122223333:role/x"}
    statement = {"Sid": "S", "Effect": "Deny", "Principal": who, "Resource": "*", key: list(actions)}
    return KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


@pytest.mark.parametrize(
    ("action", "meant"),
    [("kms:Decript", "kms:Decrypt"), ("kms:ReEncrypt", "kms:ReEncryptTo"), ("KMS:PutKeyPolicies", "kms:PutKeyPolicy")],
)
@pytest.mark.parametrize("key", ["Action", "NotAction"])
def test_a_slip_is_named_with_what_was_meant(action: str, meant: str, key: str) -> None:
    (found,) = unknown_actions(policy(action, "kms:Encrypt", key=key))
    assert (found.rule.name, found.severity, found.statement) == ("K19", Severity.WARNING, "S")
    assert action in found.path
    assert meant in found.fix


def test_a_pattern_that_fits_no_action() -> None:
    (found,) = unknown_actions(policy("kms:Zz*"))
    assert found.fix.startswith("take it out")


@pytest.mark.parametrize("action", ["kms:*", "kms:decrypt", "kms:Re*From", "kms:ReEncryptTo", "*", "s3:Get*"])
def test_what_is_none(action: str) -> None:
    assert not list(unknown_actions(policy(action)))


def test_ours_has_none() -> None:
    assert not list(unknown_actions(rendered(image("a"))))


def test_without_the_sdk_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_actions, "find_spec", lambda _: None)
    permissions.cache_clear()
    try:
        assert not list(unknown_actions(policy("kms:Decript")))
    finally:
        permissions.cache_clear()
