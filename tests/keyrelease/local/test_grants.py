"""Grants: made, listed, in force at once, revoked."""

import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes.kms_server import KmsServer
from tests.keyrelease.local.attested import Boot, policy
from tests.keyrelease.local.conftest import refused

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient


@pytest.fixture
def admin(kms: KmsServer) -> "KMSClient":
    return kms.client()


@pytest.fixture
def key(admin: "KMSClient") -> str:
    return admin.create_key()["KeyMetadata"]["Arn"]


def test_in_force_and_revoked(kms: KmsServer, admin: "KMSClient", key: str) -> None:
    parent = kms.client("parent")
    blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    with refused("AccessDeniedException"):
        parent.decrypt(CiphertextBlob=blob)
    made = admin.create_grant(KeyId=key, GranteePrincipal=kms.arn("parent"), Operations=["Decrypt"], Name="a")
    assert parent.decrypt(CiphertextBlob=blob, GrantTokens=[made["GrantToken"]])["Plaintext"] == b"x"
    with refused("AccessDeniedException"):
        parent.encrypt(KeyId=key, Plaintext=b"x")
    (listed,) = admin.list_grants(KeyId=key)["Grants"]
    assert (listed["GrantId"], listed["Operations"], listed["Name"]) == (made["GrantId"], ["Decrypt"], "a")
    admin.revoke_grant(KeyId=key, GrantId=made["GrantId"])
    with refused("AccessDeniedException"):
        parent.decrypt(CiphertextBlob=blob)
    with refused("InvalidGrantIdException"):
        admin.revoke_grant(KeyId=key, GrantId=made["GrantId"])


@pytest.mark.parametrize(
    ("constraint", "context", "allowed"),
    [
        ("EncryptionContextEquals", {"a": "1"}, True),
        ("EncryptionContextEquals", {"a": "1", "b": "2"}, False),
        ("EncryptionContextSubset", {"a": "1", "b": "2"}, True),
        ("EncryptionContextSubset", {"b": "2"}, False),
    ],
)
def test_constraints(
    kms: KmsServer, admin: "KMSClient", key: str, constraint: str, context: dict[str, str], allowed: bool
) -> None:
    admin.create_grant(
        KeyId=key,
        GranteePrincipal=kms.arn("parent"),
        Operations=["Encrypt"],
        Constraints={constraint: {"a": "1"}},  # type: ignore[misc] # either name
    )
    parent = kms.client("parent")
    if allowed:
        parent.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)
        return
    with refused("AccessDeniedException"):
        parent.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)


def test_a_grant_does_not_pass_the_deny(kms: KmsServer, admin: "KMSClient") -> None:
    document = policy(kms)
    document["Statement"][0]["Action"].append("kms:CreateGrant")
    key = admin.create_key(Policy=json.dumps(document))["KeyMetadata"]["Arn"]
    blob = kms.client("publisher").encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    admin.create_grant(KeyId=key, GranteePrincipal=kms.arn("root"), Operations=["Decrypt"])
    grantee = kms.client("root")
    with refused("AccessDeniedException"):
        grantee.decrypt(CiphertextBlob=blob)
    assert grantee.decrypt(CiphertextBlob=blob, Recipient=Boot(kms.authority).recipient())["CiphertextForRecipient"]


def test_the_same_wish_under_a_name_is_one_grant(kms: KmsServer, admin: "KMSClient", key: str) -> None:
    def make(name: str) -> str:
        return admin.create_grant(
            KeyId=key, GranteePrincipal=kms.arn("parent"), Operations=["Decrypt", "Encrypt"], Name=name
        )["GrantId"]

    assert make("a") == make("a") != make("b")


def test_pages_and_filters(kms: KmsServer, admin: "KMSClient", key: str) -> None:
    ids = {
        admin.create_grant(KeyId=key, GranteePrincipal=kms.arn(name), Operations=["Decrypt"])["GrantId"]
        for name in ("parent", "publisher", "root")
    }
    pages = admin.get_paginator("list_grants").paginate(KeyId=key, PaginationConfig={"PageSize": 2})
    assert {one["GrantId"] for page in pages for one in page["Grants"]} == ids
    (of_parent,) = admin.list_grants(KeyId=key, GranteePrincipal=kms.arn("parent"))["Grants"]
    assert admin.list_grants(KeyId=key, GrantId=of_parent["GrantId"])["Grants"] == [of_parent]
    with refused("InvalidGrantIdException"):
        admin.list_grants(KeyId=key, GrantId="nothing")


def test_refusals(kms: KmsServer, admin: "KMSClient", key: str) -> None:
    grantee = kms.arn("parent")
    with refused("ValidationException"):
        admin.create_grant(KeyId=key, GranteePrincipal=grantee, Operations=["Sign"])
    with refused("ValidationException"):
        admin.create_grant(KeyId=key, GranteePrincipal=grantee, Operations=[])
    with refused("ValidationException"):
        admin.create_grant(KeyId=key, Operations=["Decrypt"])
    with refused("DryRunOperationException"):
        admin.create_grant(KeyId=key, GranteePrincipal=grantee, Operations=["Decrypt"], DryRun=True)
    with refused("AccessDeniedException"):
        kms.client("publisher").create_grant(KeyId=key, GranteePrincipal=grantee, Operations=["Decrypt"])
    assert not admin.list_grants(KeyId=key)["Grants"]


def test_a_grant_gives_away_nothing_that_it_has_not(kms: KmsServer, admin: "KMSClient", key: str) -> None:
    parent = kms.client("parent")
    blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    admin.create_grant(KeyId=key, GranteePrincipal=kms.arn("parent"), Operations=["CreateGrant", "Encrypt"])
    for operations in (["Decrypt"], ["Encrypt", "Decrypt"]):
        with refused("AccessDeniedException"):
            parent.create_grant(KeyId=key, GranteePrincipal=kms.arn("parent"), Operations=operations)  # type: ignore[arg-type]
    parent.create_grant(KeyId=key, GranteePrincipal=kms.arn("publisher"), Operations=["Encrypt"])
    kms.client("publisher").encrypt(KeyId=key, Plaintext=b"x")
    with refused("AccessDeniedException"):
        parent.decrypt(CiphertextBlob=blob)
