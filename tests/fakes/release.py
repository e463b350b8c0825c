"""What key release needs beside a KMS: enclaves that attest, keys whose policies name them."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields, Fault
from ephemeralml.keyrelease.recipient import release_user_data
from tests.fakes.kms_server import ADMINISTRATOR, KmsServer

CONTEXT = {"model_id": "minilm", "version": "1.0.0"}
IMAGE = {index: hashlib.sha384(b"register %d" % index).digest() for index in range(3)}
RECEIPT_KEY = b"\x22" * 32


@dataclass
class Enclave:
    """A `ReleaseAttester`: a software TEE that runs one image."""

    authority: Authority
    pcrs: Mapping[int, bytes] = field(default_factory=lambda: dict(IMAGE))
    faults: Collection[Fault] = ()
    documents: list[bytes] = field(default_factory=list)

    def attest_release(self, recipient_spki: bytes) -> bytes:
        user_data = release_user_data(recipient_spki, RECEIPT_KEY)
        pcrs = {index: self.pcrs.get(index, bytes(48)) for index in range(16)}
        fields = DocumentFields(f"{self.authority.id}-enc01", pcrs, recipient_spki, user_data, os.urandom(32))
        self.documents.append(self.authority.issue_document(fields, clock.now(), self.faults))
        return self.documents[-1]


def policy(server: KmsServer, pcrs: Mapping[int, bytes] = IMAGE) -> str:
    """The key policy of key-release.md section 4, short: publisher wraps, parent releases to one image."""

    def statement(sid: str, who: str, *actions: str, **more: Any) -> dict[str, Any]:
        principal = "*" if who == "*" else {"AWS": server.arn(who)}
        return {"Sid": sid, "Effect": "Allow", "Principal": principal, "Resource": "*", "Action": list(actions), **more}

    attested = "kms:RecipientAttestation:"
    image = {f"{attested}ImageSha384": pcrs[0].hex(), **{f"{attested}PCR{n}": pcrs[n].hex() for n in pcrs if n}}
    administer = ("PutKeyPolicy", "GetKeyPolicy", "DescribeKey", "CreateAlias", "EnableKey", "DisableKey")
    deletion = ("ScheduleKeyDeletion", "CancelKeyDeletion")
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                statement("Administer", ADMINISTRATOR, *(f"kms:{name}" for name in administer + deletion)),
                statement("Publish", "publisher", "kms:GenerateDataKey", "kms:Encrypt", "kms:DescribeKey"),
                statement(
                    "Release",
                    "parent",
                    "kms:Decrypt",
                    Condition={
                        "StringEqualsIgnoreCase": image,
                        "StringEquals": {"kms:EncryptionContext:model_id": CONTEXT["model_id"]},
                    },
                ),
            ],
        }
    )


def make_key(server: KmsServer, text: str | None = None) -> str:
    """A key's ARN."""
    created = server.client().create_key(Policy=policy(server) if text is None else text)
    return created["KeyMetadata"]["Arn"]
