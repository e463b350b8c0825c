"""One list of requests and the error names they must get: from `kms serve` always, from AWS where it is asked for.

`EPHEMERALML_AWS_KMS_KEY` names an existing symmetric key of one's own on which
the credentials of the environment may do everything, its default policy in
force. Nothing about it is changed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from tests.fakes.kms_server import KmsServer
from tests.keyrelease.local.attested import Boot

MISSING = "00000000-0000-4000-8000-000000000000"
AWS_KEY = "EPHEMERALML_AWS_KMS_KEY"


@dataclass
class Side:
    """A KMS and a key in it."""

    client: Any
    key: str

    def blob(self, **fields: Any) -> bytes:
        made: bytes = self.client.encrypt(KeyId=self.key, Plaintext=b"x", **fields)["CiphertextBlob"]
        return made


def _recipient(document: bytes) -> dict[str, Any]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


def _foreign_document() -> bytes:
    return Boot(Authority.ephemeral(at=clock.now())).document()


CASES: dict[str, tuple[str, Callable[[Side], Any]]] = {
    "describe a missing key": ("NotFoundException", lambda s: s.client.describe_key(KeyId=MISSING)),
    "describe a missing alias": ("NotFoundException", lambda s: s.client.describe_key(KeyId="alias/never-made-here")),
    "a policy of another name": (
        "NotFoundException",
        lambda s: s.client.get_key_policy(KeyId=s.key, PolicyName="another"),
    ),
    "an alias of AWS": (
        "InvalidAliasNameException",
        lambda s: s.client.create_alias(AliasName="no-prefix", TargetKeyId=s.key),
    ),
    "delete a missing alias": (
        "NotFoundException",
        lambda s: s.client.delete_alias(AliasName="alias/never-made-here"),
    ),
    "a mark of nobody's": ("InvalidMarkerException", lambda s: s.client.list_keys(Marker="nobody's")),
    "a malformed policy": (
        "MalformedPolicyDocumentException",
        lambda s: s.client.put_key_policy(KeyId=s.key, Policy="{}"),
    ),
    "a policy that locks out": (
        "MalformedPolicyDocumentException",
        lambda s: s.client.put_key_policy(
            KeyId=s.key,
            Policy='{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*",'
            '"Action":"kms:PutKeyPolicy","Resource":"*"}]}',
        ),
    ),
    "another context": (
        "InvalidCiphertextException",
        lambda s: s.client.decrypt(CiphertextBlob=s.blob(EncryptionContext={"a": "b"}), EncryptionContext={"a": "c"}),
    ),
    "no context": (
        "InvalidCiphertextException",
        lambda s: s.client.decrypt(CiphertextBlob=s.blob(EncryptionContext={"a": "b"})),
    ),
    "a changed ciphertext": (
        "InvalidCiphertextException",
        lambda s: s.client.decrypt(KeyId=s.key, CiphertextBlob=(blob := s.blob())[:-1] + bytes([blob[-1] ^ 1])),
    ),
    "random bytes for a ciphertext": (
        "InvalidCiphertextException",
        lambda s: s.client.decrypt(CiphertextBlob=os.urandom(200)),
    ),
    "two sizes": (
        "ValidationException",
        lambda s: s.client.generate_data_key(KeyId=s.key, KeySpec="AES_256", NumberOfBytes=32),
    ),
    "no size": ("ValidationException", lambda s: s.client.generate_data_key(KeyId=s.key)),
    "too many bytes": ("ValidationException", lambda s: s.client.generate_random(NumberOfBytes=1_025)),
    "too long a plaintext": ("ValidationException", lambda s: s.client.encrypt(KeyId=s.key, Plaintext=b"x" * 4_097)),
    "A4": (
        "ValidationException",
        lambda s: s.client.decrypt(CiphertextBlob=s.blob(), Recipient=_recipient(os.urandom(4_000))),
    ),
    "a document under a root of nobody's": (
        "ValidationException",
        lambda s: s.client.decrypt(CiphertextBlob=s.blob(), Recipient=_recipient(_foreign_document())),
    ),
    "a grant token of nobody's": (
        "InvalidGrantTokenException",
        lambda s: s.client.encrypt(KeyId=s.key, Plaintext=b"x", GrantTokens=["nobody's"]),
    ),
    "a grant of nobody's": (
        "InvalidGrantIdException",
        lambda s: s.client.revoke_grant(KeyId=s.key, GrantId="0" * 64),
    ),
    "a dry run": ("DryRunOperationException", lambda s: s.client.encrypt(KeyId=s.key, Plaintext=b"x", DryRun=True)),
    "not pending deletion": ("KMSInvalidStateException", lambda s: s.client.cancel_key_deletion(KeyId=s.key)),
    "a short waiting period": (
        "ValidationException",
        lambda s: s.client.schedule_key_deletion(KeyId=s.key, PendingWindowInDays=6),
    ),
}


@contextmanager
def _named(name: str) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == name


@pytest.fixture(scope="module")
def local(kms: KmsServer) -> Side:
    client = kms.client()
    return Side(client, client.create_key()["KeyMetadata"]["Arn"])


@pytest.fixture(scope="module")
def aws() -> Side:
    import boto3

    key = os.environ.get(AWS_KEY)
    if key is None:
        pytest.skip(f"{AWS_KEY} names no key at AWS")
    return Side(boto3.client("kms", region_name=key.split(":")[3]), key)


@pytest.mark.parametrize("case", CASES)
def test_here(local: Side, case: str) -> None:
    name, call = CASES[case]
    with _named(name):
        call(local)


@pytest.mark.online
@pytest.mark.parametrize("case", CASES)
def test_at_aws(aws: Side, case: str) -> None:
    name, call = CASES[case]
    with _named(name):
        call(aws)
