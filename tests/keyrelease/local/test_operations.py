"""Every operation and its named errors, through boto3."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.kms_server import KmsServer, running
from tests.keyrelease.local.attested import policy
from tests.keyrelease.local.conftest import refused

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

MISSING = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def admin(kms: KmsServer) -> "KMSClient":
    return kms.client()


@pytest.fixture
def key(admin: "KMSClient") -> str:
    return admin.create_key(Description="a test's")["KeyMetadata"]["Arn"]


class TestCreateKey:
    def test_metadata(self, kms: KmsServer, admin: "KMSClient") -> None:
        made = admin.create_key(Description="für Modelle", Tags=[{"TagKey": "team", "TagValue": "a"}])["KeyMetadata"]
        assert made["Arn"] == f"arn:aws:kms:{kms.region}:{kms.account}:key/{made['KeyId']}"
        assert (made["KeyState"], made["Enabled"], made["Origin"]) == ("Enabled", True, "AWS_KMS")
        assert (made["KeySpec"], made["KeyUsage"], made["MultiRegion"]) == (
            "SYMMETRIC_DEFAULT",
            "ENCRYPT_DECRYPT",
            False,
        )
        assert abs(made["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=1)
        assert admin.describe_key(KeyId=made["KeyId"])["KeyMetadata"] == made
        assert admin.list_resource_tags(KeyId=made["KeyId"])["Tags"] == [{"TagKey": "team", "TagValue": "a"}]

    @pytest.mark.parametrize(
        "fields",
        [
            {"KeySpec": "RSA_2048"},
            {"CustomerMasterKeySpec": "HMAC_256"},
            {"KeyUsage": "SIGN_VERIFY"},
            {"Origin": "EXTERNAL"},
            {"MultiRegion": True},
            {"CustomKeyStoreId": "cks-1"},
        ],
    )
    def test_other_keys_are_unsupported(self, admin: "KMSClient", fields: Any) -> None:
        with refused("UnsupportedOperationException"):
            admin.create_key(**fields)

    def test_needs_an_identity_policy(self, kms: KmsServer) -> None:
        for who in ("parent", "999999999999-role-stranger"):
            with refused("AccessDeniedException"):
                kms.client(who).create_key()
        kms.client("root").create_key()

    @pytest.mark.parametrize(
        "tags", [[{"TagKey": "a", "TagValue": ""}] * 2, [{"TagKey": "aws:x", "TagValue": "y"}]], ids=["twice", "aws"]
    )
    def test_tags(self, admin: "KMSClient", tags: Any) -> None:
        with refused("TagException"):
            admin.create_key(Tags=tags)


class TestFinding:
    def test_by_id_arn_and_alias(self, kms: KmsServer, admin: "KMSClient", key: str) -> None:
        key_id = key.rpartition("/")[2]
        name = f"alias/finding-{key_id}"
        admin.create_alias(AliasName=name, TargetKeyId=key)
        for text in (key_id, key, name, f"arn:aws:kms:{kms.region}:{kms.account}:{name}"):
            assert admin.describe_key(KeyId=text)["KeyMetadata"]["Arn"] == key
        admin.delete_alias(AliasName=name)
        with refused("NotFoundException"):
            admin.describe_key(KeyId=name)

    @pytest.mark.parametrize(
        "text",
        [
            *(MISSING, f"arn:aws:kms:local:000000000000:key/{MISSING}", "alias/nothing", "key/x", "x", "alias/"),
            f"arn:aws:kms:other:000000000000:key/{MISSING}",
        ],
    )
    def test_nothing_there(self, admin: "KMSClient", text: str) -> None:
        with refused("NotFoundException"):
            admin.describe_key(KeyId=text)
        with refused("NotFoundException"):
            admin.decrypt(KeyId=text, CiphertextBlob=b"x")

    def test_changes_take_no_alias(self, admin: "KMSClient", key: str) -> None:
        name = f"alias/no-change-{key.rpartition('/')[2]}"
        admin.create_alias(AliasName=name, TargetKeyId=key)
        with refused("NotFoundException"):
            admin.disable_key(KeyId=name)


class TestPages:
    def test_keys(self, admin: "KMSClient") -> None:
        made = {admin.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
        pages = list(admin.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
        assert all(len(page["Keys"]) == 2 for page in pages[:-1])
        found = [one["KeyId"] for page in pages for one in page["Keys"]]
        assert made <= set(found)
        assert found == sorted(set(found))

    def test_a_mark_is_the_lists_own(self, admin: "KMSClient", key: str) -> None:
        admin.create_key()
        mark = admin.list_keys(Limit=1)["NextMarker"]
        with refused("InvalidMarkerException"):
            admin.list_aliases(Marker=mark)
        for wrong in ("x", "!", mark[:-4] + "AAAA", "A" * 1_000):
            with refused("InvalidMarkerException"):
                admin.list_keys(Marker=wrong)

    def test_aliases(self, admin: "KMSClient", key: str) -> None:
        names = [f"alias/page-{index}-{key.rpartition('/')[2]}" for index in range(3)]
        for name in names:
            admin.create_alias(AliasName=name, TargetKeyId=key)
        first = admin.list_aliases(KeyId=key, Limit=2)
        assert [one["AliasName"] for one in first["Aliases"]] == names[:2]
        rest = admin.list_aliases(KeyId=key, Marker=first["NextMarker"])
        assert [one["TargetKeyId"] for one in rest["Aliases"]] == [key.rpartition("/")[2]]
        assert not rest["Truncated"]

    def test_tags(self, admin: "KMSClient", key: str) -> None:
        admin.tag_resource(KeyId=key, Tags=[{"TagKey": name, "TagValue": name} for name in "abc"])
        admin.tag_resource(KeyId=key, Tags=[{"TagKey": "b", "TagValue": "2"}])
        first = admin.list_resource_tags(KeyId=key, Limit=1)
        assert first["Truncated"]
        rest = admin.list_resource_tags(KeyId=key, Marker=first["NextMarker"])["Tags"]
        assert [(one["TagKey"], one["TagValue"]) for one in rest] == [("b", "2"), ("c", "c")]
        admin.untag_resource(KeyId=key, TagKeys=["b", "zz"])
        assert len(admin.list_resource_tags(KeyId=key)["Tags"]) == 2
        with refused("LimitExceededException"):
            admin.tag_resource(KeyId=key, Tags=[{"TagKey": str(n), "TagValue": ""} for n in range(49)])


class TestAliases:
    def test_refusals(self, admin: "KMSClient", key: str) -> None:
        name = f"alias/twice-{key.rpartition('/')[2]}"
        admin.create_alias(AliasName=name, TargetKeyId=key)
        with refused("AlreadyExistsException"):
            admin.create_alias(AliasName=name, TargetKeyId=key)
        for wrong in ("alias/aws/mine", "nothing", "alias/"):
            with refused("InvalidAliasNameException"):
                admin.create_alias(AliasName=wrong, TargetKeyId=key)
        with refused("NotFoundException"):
            admin.delete_alias(AliasName="alias/never-made")
        with refused("NotFoundException"):
            admin.create_alias(AliasName="alias/of-nothing", TargetKeyId=MISSING)


class TestData:
    def test_encrypt_and_decrypt(self, admin: "KMSClient", key: str) -> None:
        context = {"model_id": "a", "Größe": "ß"}
        made = admin.encrypt(KeyId=key, Plaintext=b"x" * 4_096, EncryptionContext=context)
        assert made["CiphertextBlob"].startswith(b"EMLK\x01")
        for fields in ({}, {"KeyId": key}):
            opened = admin.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context, **fields)
            assert opened["Plaintext"] == b"x" * 4_096
            assert opened["KeyId"] == key

    def test_sizes(self, admin: "KMSClient", key: str) -> None:
        with refused("ValidationException"):
            admin.encrypt(KeyId=key, Plaintext=b"x" * 4_097)
        with refused("ValidationException"):
            admin.decrypt(CiphertextBlob=b"x" * 6_145)
        with refused("ValidationException"):
            admin.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"a": "x" * 8_192})

    def test_every_changed_byte_is_refused(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
        for place in range(len(blob)):
            changed = bytearray(blob)
            changed[place] ^= 1
            with refused("InvalidCiphertextException"):
                admin.decrypt(CiphertextBlob=bytes(changed))
        with refused("InvalidCiphertextException"):
            admin.decrypt(KeyId=key, CiphertextBlob=b"nothing of ours")

    def test_the_key_that_is_named(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=admin.create_key()["KeyMetadata"]["Arn"], Plaintext=b"x")["CiphertextBlob"]
        with refused("IncorrectKeyException"):
            admin.decrypt(KeyId=key, CiphertextBlob=blob)

    def test_other_algorithms(self, admin: "KMSClient", key: str) -> None:
        with refused("InvalidKeyUsageException"):
            admin.encrypt(KeyId=key, Plaintext=b"x", EncryptionAlgorithm="RSAES_OAEP_SHA_256")

    @pytest.mark.parametrize(
        ("fields", "size"),
        [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1_024}, 1_024)],
    )
    def test_data_keys(self, admin: "KMSClient", key: str, fields: Any, size: int) -> None:
        made = admin.generate_data_key(KeyId=key, EncryptionContext={"a": "b"}, **fields)
        assert len(made["Plaintext"]) == size
        opened = admin.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "b"})
        assert opened["Plaintext"] == made["Plaintext"]
        blind = admin.generate_data_key_without_plaintext(KeyId=key, **fields)
        assert "Plaintext" not in blind
        assert len(admin.decrypt(CiphertextBlob=blind["CiphertextBlob"])["Plaintext"]) == size

    @pytest.mark.parametrize("fields", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1_025}])
    def test_data_keys_of_no_or_two_sizes(self, admin: "KMSClient", key: str, fields: Any) -> None:
        with refused("ValidationException"):
            admin.generate_data_key(KeyId=key, **fields)

    def test_random(self, kms: KmsServer, admin: "KMSClient") -> None:
        assert len(admin.generate_random(NumberOfBytes=1_024)["Plaintext"]) == 1_024
        with refused("ValidationException"):
            admin.generate_random()
        with refused("AccessDeniedException"):
            kms.client("parent").generate_random(NumberOfBytes=8)
        with refused("CustomKeyStoreNotFoundException"):
            admin.generate_random(NumberOfBytes=8, CustomKeyStoreId="cks-1")

    def test_re_encrypt(self, kms: KmsServer, admin: "KMSClient", key: str) -> None:
        target = admin.create_key()["KeyMetadata"]["Arn"]
        blob = admin.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"a": "1"})["CiphertextBlob"]
        moved = admin.re_encrypt(
            CiphertextBlob=blob,
            SourceEncryptionContext={"a": "1"},
            DestinationKeyId=target,
            DestinationEncryptionContext={"a": "2"},
        )
        assert (moved["SourceKeyId"], moved["KeyId"]) == (key, target)
        opened = admin.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"a": "2"})
        assert opened["Plaintext"] == b"x"
        with refused("InvalidCiphertextException"):
            admin.re_encrypt(CiphertextBlob=blob, DestinationKeyId=target)
        with refused("IncorrectKeyException"):
            admin.re_encrypt(
                CiphertextBlob=blob, SourceKeyId=target, SourceEncryptionContext={"a": "1"}, DestinationKeyId=target
            )
        gated = admin.create_key(Policy=json.dumps(policy(kms)))["KeyMetadata"]["Arn"]
        wrapped = kms.client("publisher").encrypt(KeyId=gated, Plaintext=b"x")["CiphertextBlob"]
        with refused("AccessDeniedException"):
            admin.re_encrypt(CiphertextBlob=wrapped, DestinationKeyId=target)
        with refused("AccessDeniedException"):
            admin.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext={"a": "1"}, DestinationKeyId=gated)

    def test_dry_runs_change_and_return_nothing(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        with refused("DryRunOperationException"):
            admin.decrypt(CiphertextBlob=blob, DryRun=True)
        with refused("DryRunOperationException"):
            admin.generate_data_key(KeyId=key, KeySpec="AES_256", DryRun=True)
        with refused("InvalidCiphertextException"):
            admin.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"}, DryRun=True)

    def test_grant_tokens_must_be_some_grants(self, admin: "KMSClient", key: str) -> None:
        with refused("InvalidGrantTokenException"):
            admin.encrypt(KeyId=key, Plaintext=b"x", GrantTokens=["nobody's"])


class TestStates:
    def test_disabled(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        admin.disable_key(KeyId=key)
        assert admin.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
        for call in (
            lambda: admin.decrypt(CiphertextBlob=blob),
            lambda: admin.generate_data_key(KeyId=key, KeySpec="AES_256"),
            lambda: admin.enable_key_rotation(KeyId=key),
        ):
            with refused("DisabledException"):
                call()
        admin.enable_key(KeyId=key)
        assert admin.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"

    def test_pending_deletion(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        answer = admin.schedule_key_deletion(KeyId=key)
        assert (answer["PendingWindowInDays"], answer["KeyState"]) == (30, "PendingDeletion")
        assert abs(answer["DeletionDate"] - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
        assert admin.describe_key(KeyId=key)["KeyMetadata"]["DeletionDate"] == answer["DeletionDate"]
        for call in (
            lambda: admin.decrypt(CiphertextBlob=blob),
            lambda: admin.schedule_key_deletion(KeyId=key),
            lambda: admin.enable_key(KeyId=key),
            lambda: admin.put_key_policy(KeyId=key, Policy="{}"),
            lambda: admin.create_alias(AliasName="alias/of-the-dying", TargetKeyId=key),
        ):
            with refused("KMSInvalidStateException"):
                call()
        admin.cancel_key_deletion(KeyId=key)
        assert admin.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
        with refused("KMSInvalidStateException"):
            admin.cancel_key_deletion(KeyId=key)

    @pytest.mark.parametrize("days", [1, 6, 31, 365])
    def test_waiting_periods(self, admin: "KMSClient", key: str, days: int) -> None:
        with refused("ValidationException"):
            admin.schedule_key_deletion(KeyId=key, PendingWindowInDays=days)

    def test_rotation(self, admin: "KMSClient", key: str) -> None:
        blob = admin.encrypt(KeyId=key, Plaintext=b"old")["CiphertextBlob"]
        assert not admin.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
        admin.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
        status = admin.get_key_rotation_status(KeyId=key)
        assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 90)
        admin.disable_key_rotation(KeyId=key)
        admin.rotate_key_on_demand(KeyId=key)
        new = admin.encrypt(KeyId=key, Plaintext=b"new")["CiphertextBlob"]
        assert (blob[21:25], new[21:25]) == (b"\0\0\0\1", b"\0\0\0\2")
        assert [admin.decrypt(CiphertextBlob=one)["Plaintext"] for one in (blob, new)] == [b"old", b"new"]
        for _ in range(24):
            admin.rotate_key_on_demand(KeyId=key)
        with refused("LimitExceededException"):
            admin.rotate_key_on_demand(KeyId=key)


class TestPolicies:
    def test_get_put_list(self, kms: KmsServer, admin: "KMSClient", key: str) -> None:
        assert json.loads(admin.get_key_policy(KeyId=key)["Policy"])["Statement"][0]["Action"] == "kms:*"
        text = json.dumps(policy(kms))
        admin.put_key_policy(KeyId=key, Policy=text, PolicyName="default")
        assert admin.get_key_policy(KeyId=key, PolicyName="default")["Policy"] == text
        assert admin.list_key_policies(KeyId=key)["PolicyNames"] == ["default"]
        with refused("NotFoundException"):
            admin.get_key_policy(KeyId=key, PolicyName="other")
        with refused("AccessDeniedException"):
            kms.client("publisher").put_key_policy(KeyId=key, Policy=text)

    @pytest.mark.parametrize(
        "text",
        [
            *("{}", "x", "[]", '{"Version":"2012-10-17","Statement":[{"Effect":"Allow"}]}'),
            '{"Version":"2012-10-17","Version":"2012-10-17","Statement":[]}',
        ],
    )
    def test_malformed(self, admin: "KMSClient", key: str, text: str) -> None:
        with refused("MalformedPolicyDocumentException"):
            admin.put_key_policy(KeyId=key, Policy=text, BypassPolicyLockoutSafetyCheck=True)
        with refused("MalformedPolicyDocumentException"):
            admin.create_key(Policy=text, BypassPolicyLockoutSafetyCheck=True)

    @pytest.mark.parametrize("operator", ["StringIs", "NullIfExists", "ForAllValues:StringEqual"])
    def test_an_operator_that_kms_does_not_know(
        self, kms: KmsServer, admin: "KMSClient", key: str, operator: str
    ) -> None:
        made = policy(kms)
        made["Statement"][-1]["Condition"] = {operator: {"aws:userid": "x"}}
        for bypass in (False, True):
            asked = {"Policy": json.dumps(made), "BypassPolicyLockoutSafetyCheck": bypass}
            with refused("MalformedPolicyDocumentException"):
                admin.put_key_policy(KeyId=key, **asked)  # type: ignore[arg-type] # one of two types each
            with refused("MalformedPolicyDocumentException"):
                admin.create_key(**asked)  # type: ignore[arg-type] # as above
        assert operator not in admin.get_key_policy(KeyId=key)["Policy"]

    def test_too_long(self, kms: KmsServer, admin: "KMSClient", key: str) -> None:
        text = json.dumps(policy(kms)) + " " * 32_768
        with refused("LimitExceededException"):
            admin.put_key_policy(KeyId=key, Policy=text)

    def test_lock_out(self, kms: KmsServer, admin: "KMSClient", key: str) -> None:
        locked = policy(kms)
        locked["Statement"] = locked["Statement"][1:]
        text = json.dumps(locked)
        with refused("MalformedPolicyDocumentException"):
            admin.put_key_policy(KeyId=key, Policy=text)
        with refused("MalformedPolicyDocumentException"):
            admin.create_key(Policy=text)
        admin.put_key_policy(KeyId=key, Policy=text, BypassPolicyLockoutSafetyCheck=True)
        with refused("AccessDeniedException"):
            admin.get_key_policy(KeyId=key)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("limited"), principals=(), options=()) as server:
        yield server


def test_identity_policies_are_asked_where_a_key_leaves_it_to_the_account(limited: KmsServer, tmp_path: Path) -> None:
    statement = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:ListKeys"], "Resource": "*"}
    limited.add("writer", policy={"Version": "2012-10-17", "Statement": [statement]})
    key = limited.client().create_key()["KeyMetadata"]["Arn"]
    writer = limited.client("writer")
    blob = writer.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert writer.list_keys()["Keys"]
    with refused("AccessDeniedException"):
        writer.decrypt(CiphertextBlob=blob)
