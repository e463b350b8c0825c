"""An attested recipient: an RSA key and the documents that carry it."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields, Fault
from ephemeralml.crypto import cms

PCRS = {**{index: bytes(48) for index in range(16)}, **{index: bytes([0xB0 + index]) * 48 for index in (0, 1, 2, 3, 8)}}
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"


def spki(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


_KEY = rsa.generate_private_key(65537, 2048)
# One for the whole suite: making it takes longer than a test.


@dataclass
class Boot:
    """One boot of an enclave, as the key server sees it."""

    authority: Authority
    pcrs: Mapping[int, bytes] = field(default_factory=lambda: PCRS)
    key: rsa.RSAPrivateKey = _KEY

    def document(self, *, faults: Collection[Fault] = (), **changed: Any) -> bytes:
        fields = {"public_key": spki(self.key), "user_data": bytes(32), "nonce": os.urandom(32), **changed}
        at = fields.pop("at", None) or clock.now()
        return self.authority.issue_document(DocumentFields(MODULE_ID, self.pcrs, **fields), at, faults)

    def recipient(self, document: bytes | None = None) -> Any:
        return {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": self.document() if document is None else document,
        }

    def open(self, sealed: bytes, size: int | None = None) -> bytes:
        with cms.unwrap(sealed, self.key, plaintext_bytes=size) as secret:
            return bytes(secret.reveal())


def policy(
    server: Any, *, condition: Mapping[str, Any] | None = None, deny: bool = True, pcr0: bytes = PCRS[0]
) -> dict[str, Any]:
    """A key policy as the specification's: publisher, attested parent, and the administrator without Decrypt."""
    release: dict[str, Any] = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": pcr0.hex()}}
    statements: list[dict[str, Any]] = [
        {
            "Sid": "Administer",
            "Effect": "Allow",
            "Principal": {"AWS": server.arn()},
            "Resource": "*",
            "Action": [
                *("kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy", "kms:ListKeyPolicies", "kms:ListGrants"),
                *("kms:EnableKey", "kms:DisableKey", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"),
                *("kms:CreateAlias", "kms:DeleteAlias", "kms:RevokeGrant"),
            ],
        },
        {
            "Sid": "Publish",
            "Effect": "Allow",
            "Principal": {"AWS": server.arn("publisher")},
            "Resource": "*",
            "Action": ["kms:GenerateDataKey", "kms:Encrypt"],
        },
        {
            "Sid": "Release1",
            "Effect": "Allow",
            "Principal": {"AWS": server.arn("parent")},
            "Resource": "*",
            "Action": "kms:Decrypt",
            "Condition": release if condition is None else condition,
        },
    ]
    if deny:
        statements.append(
            {
                "Sid": "OnlyAttested",
                "Effect": "Deny",
                "Principal": "*",
                "Resource": "*",
                "Action": "kms:Decrypt",
                "Condition": {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": [pcr0.hex()]}},
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}
