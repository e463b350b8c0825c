"""What is asked before what, and of which registers: requests that only one check refuses (key-release.md section 8)."""

import json
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ephemeralml import clock
from ephemeralml.attestation.local.authority import ROOT_CERTIFICATE, Authority
from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.keyrelease.local.operations import OPERATIONS
from tests.fakes.kms_server import KmsServer
from tests.keyrelease.local.attested import PCRS, Boot
from tests.keyrelease.local.conftest import refused
from tests.keyrelease.local.test_service import make

OTHER = {**PCRS, 0: b"\x01" * 48}
ATTESTED = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCRS[0].hex()}}


@pytest.fixture(scope="module")
def boot(kms: KmsServer) -> Boot:
    return Boot(kms.authority)


def allowing(who: str, action: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": who}, "Action": action, "Resource": "*", "Condition": ATTESTED}


def test_the_registers_decide_over_data_keys_too(kms: KmsServer, boot: Boot) -> None:
    admin = kms.client()
    key = admin.create_key()["KeyMetadata"]["Arn"]
    statements = [*json.loads(admin.get_key_policy(KeyId=key)["Policy"])["Statement"]]
    statements.append(allowing(kms.arn("parent"), "kms:GenerateDataKey"))
    admin.put_key_policy(KeyId=key, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    parent = kms.client("parent")
    made = parent.generate_data_key(KeyId=key, KeySpec="AES_256", Recipient=boot.recipient())
    assert boot.open(made["CiphertextForRecipient"])
    for wrong in ({}, {"Recipient": Boot(kms.authority, OTHER).recipient()}):
        with refused("AccessDeniedException"):
            parent.generate_data_key(KeyId=key, KeySpec="AES_256", **wrong)


def test_the_registers_decide_over_random_bytes_too(kms: KmsServer, boot: Boot) -> None:
    statement = {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*", "Condition": ATTESTED}
    kms.add("dice", policy={"Version": "2012-10-17", "Statement": statement})
    dice = kms.client("dice")
    assert boot.open(dice.generate_random(NumberOfBytes=8, Recipient=boot.recipient())["CiphertextForRecipient"], 8)
    for wrong in ({}, {"Recipient": Boot(kms.authority, OTHER).recipient()}):
        with refused("AccessDeniedException"):
            dice.generate_random(NumberOfBytes=8, **wrong)


@pytest.mark.parametrize(
    "named",
    [{}, {"KeyId": "00000000-0000-0000-0000-000000000000"}, {"KeyId": "alias/nothing"}],
    ids=["no", "id", "alias"],
)
def test_a_document_is_judged_before_key_and_ciphertext_are_looked_for(
    kms: KmsServer, boot: Boot, named: dict[str, str]
) -> None:
    parent = kms.client("parent")
    with refused("ValidationException"):
        parent.decrypt(CiphertextBlob=b"x", Recipient=boot.recipient(b"y" * 100), **named)
    with refused("NotFoundException" if named else "InvalidCiphertextException"):
        parent.decrypt(CiphertextBlob=b"x", Recipient=boot.recipient(), **named)


@pytest.mark.parametrize("disabled", ["source", "target"])
def test_both_keys_of_a_re_encryption_are_in_use(kms: KmsServer, disabled: str) -> None:
    admin = kms.client()
    keys = {name: admin.create_key()["KeyMetadata"]["Arn"] for name in ("source", "target")}
    blob = admin.encrypt(KeyId=keys["source"], Plaintext=b"x")["CiphertextBlob"]
    assert admin.re_encrypt(CiphertextBlob=blob, DestinationKeyId=keys["target"])["KeyId"] == keys["target"]
    admin.disable_key(KeyId=keys[disabled])
    with refused("DisabledException"):
        admin.re_encrypt(CiphertextBlob=blob, DestinationKeyId=keys["target"])


def test_a_limited_age_takes_little_of_the_future(tmp_path: Path) -> None:
    now = clock.now()
    authority = Authority.create(tmp_path / "authority")
    roots = TrustRoots.of_certificates(RootKind.SOFTWARE, [(tmp_path / "authority" / ROOT_CERTIFICATE).read_bytes()])
    boot = Boot(authority)
    boot.document(at=now)  # the leaf of all that follow, valid from now
    with ExitStack() as stack:
        bench = make(tmp_path, stack, now, roots)
        stack.callback(bench.service.close)
        bench.desk.max_document_age = timedelta(seconds=60)
        for ahead, status in ((0, 200), (4, 200), (6, 400)):
            document = boot.document(at=now + timedelta(minutes=ahead))
            assert bench.ask("GenerateRandom", NumberOfBytes=8, Recipient=boot.recipient(document))[0] == status
        bench.now = now + timedelta(seconds=61)
        bench.refused(
            "ValidationException", "GenerateRandom", NumberOfBytes=8, Recipient=boot.recipient(boot.document(at=now))
        )
        bench.desk.max_document_age = None
        assert bench.ask("GenerateRandom", NumberOfBytes=8, Recipient=boot.recipient(boot.document(at=now)))[0] == 200


def _requests(key: str, blob: bytes, grant: str) -> dict[str, dict[str, Any]]:
    one, tags = {"KeyId": key}, [{"TagKey": "a", "TagValue": "b"}]
    return {
        "CreateKey": {},
        "DescribeKey": one,
        "ListKeys": {},
        "EnableKey": one,
        "DisableKey": one,
        "ScheduleKeyDeletion": one,
        "CancelKeyDeletion": one,
        "EnableKeyRotation": one,
        "DisableKeyRotation": one,
        "GetKeyRotationStatus": one,
        "RotateKeyOnDemand": one,
        "CreateAlias": {"AliasName": "alias/not-allowed", "TargetKeyId": key},
        "DeleteAlias": {"AliasName": "alias/of-somebody"},
        "ListAliases": {},
        "ListResourceTags": one,
        "TagResource": {**one, "Tags": tags},
        "UntagResource": {**one, "TagKeys": ["a"]},
        "Encrypt": {**one, "Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob},
        "ReEncrypt": {"CiphertextBlob": blob, "DestinationKeyId": key},
        "GenerateDataKey": {**one, "KeySpec": "AES_256"},
        "GenerateDataKeyWithoutPlaintext": {**one, "KeySpec": "AES_256"},
        "GenerateRandom": {"NumberOfBytes": 8},
        "GetKeyPolicy": one,
        "PutKeyPolicy": {**one, "Policy": "{}"},
        "ListKeyPolicies": one,
        "CreateGrant": {**one, "GranteePrincipal": "arn:aws:iam::000000000000:role/x", "Operations": ["Decrypt"]},
        "ListGrants": one,
        "RevokeGrant": {**one, "GrantId": grant},
    }


@pytest.fixture(scope="module")
def of_somebody(kms: KmsServer) -> dict[str, dict[str, Any]]:
    admin = kms.client()
    key = admin.create_key()["KeyMetadata"]["Arn"]
    admin.create_alias(AliasName="alias/of-somebody", TargetKeyId=key)
    blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    grantee = "arn:aws:iam::000000000000:role/x"
    grant = admin.create_grant(KeyId=key, GranteePrincipal=grantee, Operations=["Encrypt"])["GrantId"]
    return _requests(key, blob, grant)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("who", ["parent", "arn:aws:iam::999999999999:role/stranger"])
def test_no_operation_is_anybodys(
    kms: KmsServer, of_somebody: dict[str, dict[str, Any]], operation: str, who: str
) -> None:
    client = kms.client(who.partition("::")[2].replace(":", "-").replace("/", "-") or who)
    method = {api: python for python, api in client.meta.method_to_api_mapping.items()}[operation]
    with refused("AccessDeniedException"):
        getattr(client, method)(**of_somebody[operation])


def test_re_encrypting_needs_both_sides(kms: KmsServer) -> None:
    admin, parent = kms.client(), kms.client("parent")
    keys = [admin.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
    blob = admin.encrypt(KeyId=keys[0], Plaintext=b"x")["CiphertextBlob"]

    def give(key: str, *operations: Any) -> None:
        admin.create_grant(KeyId=key, GranteePrincipal=kms.arn("parent"), Operations=[*operations])

    give(keys[0], "ReEncryptFrom", "Encrypt", "Decrypt")
    with refused("AccessDeniedException"):
        parent.re_encrypt(CiphertextBlob=blob, DestinationKeyId=keys[1])
    give(keys[1], "ReEncryptTo")
    assert parent.re_encrypt(CiphertextBlob=blob, DestinationKeyId=keys[1])["KeyId"] == keys[1]
    moved = admin.encrypt(KeyId=keys[1], Plaintext=b"x")["CiphertextBlob"]
    with refused("AccessDeniedException"):
        parent.re_encrypt(CiphertextBlob=moved, DestinationKeyId=keys[1])


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "re_encrypt", "generate_data_key", "create_grant"])
def test_a_grant_token_of_no_grant(kms: KmsServer, operation: str) -> None:
    admin = kms.client()
    key = admin.create_key()["KeyMetadata"]["Arn"]
    fields = _requests(key, admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"], "")
    with refused("InvalidGrantTokenException"):
        getattr(admin, operation)(**fields[admin.meta.method_to_api_mapping[operation]], GrantTokens=["none"])
