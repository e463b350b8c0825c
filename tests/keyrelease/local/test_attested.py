"""What a KMS answers: the table of key-release.md section 3, by error name, through boto3."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import Fault
from ephemeralml.crypto import cms
from ephemeralml.errors import RejectedError
from tests.fakes.kms_server import KmsServer, running
from tests.keyrelease.local.attested import PCRS, Boot, policy, spki
from tests.keyrelease.local.conftest import refused

CONTEXT = {"model_id": "minilm-l6-v2", "version": "1.0.0"}


@pytest.fixture(scope="module")
def boot(kms: KmsServer) -> Boot:
    return Boot(kms.authority)


@pytest.fixture(scope="module")
def key(kms: KmsServer) -> str:
    made = kms.client().create_key(Policy=json.dumps(policy(kms)))
    return made["KeyMetadata"]["Arn"]


@pytest.fixture(scope="module")
def wrapped(kms: KmsServer, key: str) -> tuple[bytes, bytes]:
    made = kms.client("publisher").generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT)
    return made["Plaintext"], made["CiphertextBlob"]


class TestTable:
    def test_a1_right_image(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        dek, blob = wrapped
        answer = kms.client("parent").decrypt(
            KeyId=key, CiphertextBlob=blob, EncryptionContext=CONTEXT, Recipient=boot.recipient()
        )
        assert "Plaintext" not in answer
        assert answer["KeyId"] == key
        assert boot.open(answer["CiphertextForRecipient"]) == dek

    def test_a1_a_session_of_the_role(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        client = kms.client("000000000000-assumed-role-parent-boot-1")
        answer = client.decrypt(
            KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT, Recipient=boot.recipient()
        )
        assert boot.open(answer["CiphertextForRecipient"]) == wrapped[0]
        with refused("AccessDeniedException"):
            client.decrypt(KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT)

    def test_a2_wrong_image(self, kms: KmsServer, key: str, wrapped: tuple[bytes, bytes]) -> None:
        other = Boot(kms.authority, {**PCRS, 0: b"\x01" * 48})
        with refused("AccessDeniedException"):
            kms.client("parent").decrypt(
                KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT, Recipient=other.recipient()
            )

    @pytest.mark.parametrize("who", ["parent", "publisher", "administrator", "root"])
    def test_a3_no_recipient(self, kms: KmsServer, key: str, wrapped: tuple[bytes, bytes], who: str) -> None:
        with refused("AccessDeniedException"):
            kms.client(who).decrypt(KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT)

    def test_a4_random_bytes(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        with refused("ValidationException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=wrapped[1],
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(os.urandom(4_000)),
            )

    def test_a5_any_flipped_bit(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        document = boot.document()
        client = kms.client("parent")
        for place in range(0, len(document), 97):
            changed = bytearray(document)
            changed[place] ^= 1 << place % 8
            with refused("ValidationException"):
                client.decrypt(
                    KeyId=key,
                    CiphertextBlob=wrapped[1],
                    EncryptionContext=CONTEXT,
                    Recipient=boot.recipient(bytes(changed)),
                )

    def test_a6_the_same_document_again_opens_with_its_own_key_alone(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]
    ) -> None:
        recipient = boot.recipient()
        client = kms.client("parent")
        for _ in range(2):
            answer = client.decrypt(
                KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT, Recipient=recipient
            )
            assert boot.open(answer["CiphertextForRecipient"]) == wrapped[0]
        with pytest.raises(RejectedError):
            cms.unwrap(answer["CiphertextForRecipient"], rsa.generate_private_key(65537, 2048))

    def test_a7_debug(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        with refused("AccessDeniedException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=wrapped[1],
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(boot.document(faults=[Fault.ZERO_PCR])),
            )

    @pytest.mark.parametrize("context", [{}, {"model_id": "minilm-l6-v2"}, {**CONTEXT, "version": "1.0.1"}])
    def test_a8_other_context(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes], context: dict[str, str]
    ) -> None:
        with refused("InvalidCiphertextException"):
            kms.client("parent").decrypt(
                KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=context, Recipient=boot.recipient()
            )

    def test_a8_the_policy_demands_the_context(self, kms: KmsServer, boot: Boot) -> None:
        condition = {
            "StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCRS[0].hex()},
            "StringEquals": {"kms:EncryptionContext:model_id": "minilm-l6-v2"},
            "Null": {"kms:EncryptionContext:version": "false"},
        }
        demanding = kms.client().create_key(Policy=json.dumps(policy(kms, condition=condition)))["KeyMetadata"]["Arn"]
        blob = kms.client("publisher").encrypt(KeyId=demanding, Plaintext=bytes(32), EncryptionContext=CONTEXT)
        with refused("AccessDeniedException"):
            kms.client("parent").decrypt(
                KeyId=demanding,
                CiphertextBlob=blob["CiphertextBlob"],
                EncryptionContext={"model_id": "another"},
                Recipient=boot.recipient(),
            )

    def test_a9_no_public_key(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        self._refused_key(kms, boot, key, wrapped[1], None)

    @pytest.mark.parametrize(
        "public_key",
        [
            bytes(32),
            spki(ec.generate_private_key(ec.SECP384R1())),
            spki(rsa.generate_private_key(65537, 1024)),
            spki(rsa.generate_private_key(65537, 2048)) + b"\x00",
        ],
        ids=["raw", "ec", "rsa-1024", "trailing"],
    )
    def test_a9_another_key(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes], public_key: bytes
    ) -> None:
        self._refused_key(kms, boot, key, wrapped[1], public_key)

    def _refused_key(self, kms: KmsServer, boot: Boot, key: str, blob: bytes, public_key: bytes | None) -> None:
        with refused("ValidationException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=blob,
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(boot.document(public_key=public_key)),
            )

    def test_a10_ciphertext_of_another_key(self, kms: KmsServer, boot: Boot, key: str) -> None:
        other = kms.client().create_key(Policy=json.dumps(policy(kms)))["KeyMetadata"]["Arn"]
        blob = kms.client("publisher").encrypt(KeyId=other, Plaintext=bytes(32), EncryptionContext=CONTEXT)
        with refused("IncorrectKeyException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=blob["CiphertextBlob"],
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(),
            )


class TestDocument:
    @pytest.mark.parametrize(
        "fault",
        [
            *(Fault.EXPIRED_LEAF, Fault.WRONG_ISSUER, Fault.OTHER_ROOT, Fault.BAD_SIGNATURE),
            *(Fault.MISSING_FIELD, Fault.EXTRA_FIELD, Fault.OVERSIZE, Fault.UNSIGNED),
        ],
    )
    def test_each_fault_is_a_validation_exception(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes], fault: Fault
    ) -> None:
        with refused("ValidationException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=wrapped[1],
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(boot.document(faults=[fault])),
            )

    def test_expired_certificates(self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]) -> None:
        old = Authority.load(kms.authority_folder)
        document = Boot(old).document(at=clock.now() - timedelta(hours=5))
        with refused("ValidationException"):
            kms.client("parent").decrypt(
                KeyId=key,
                CiphertextBlob=wrapped[1],
                EncryptionContext=CONTEXT,
                Recipient=boot.recipient(document),
            )

    def test_an_old_document_of_valid_certificates_is_taken(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]
    ) -> None:
        old = Boot(Authority.load(kms.authority_folder)).document(at=clock.now() - timedelta(hours=2))
        assert kms.client("parent").decrypt(
            KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT, Recipient=boot.recipient(old)
        )["CiphertextForRecipient"]

    def test_a_document_is_judged_before_policy_and_ciphertext(self, kms: KmsServer, boot: Boot, key: str) -> None:
        with refused("ValidationException"):
            kms.client("publisher").decrypt(KeyId=key, CiphertextBlob=b"x", Recipient=boot.recipient(b"y" * 100))

    def test_both_content_forms_come_by_turns(
        self, kms: KmsServer, boot: Boot, key: str, wrapped: tuple[bytes, bytes]
    ) -> None:
        client = kms.client("parent")
        sealed = [
            client.decrypt(KeyId=key, CiphertextBlob=wrapped[1], EncryptionContext=CONTEXT, Recipient=boot.recipient())[
                "CiphertextForRecipient"
            ]
            for _ in range(4)
        ]
        assert [b"\xa0\x80\x04" in one[-70:] for one in sealed] in ([True, False] * 2, [False, True] * 2)
        assert all(boot.open(one) == wrapped[0] for one in sealed)

    def test_two_registers_need_both(self, kms: KmsServer, boot: Boot) -> None:
        condition = {
            "StringEqualsIgnoreCase": {
                "kms:RecipientAttestation:PCR0": PCRS[0].hex(),
                "kms:RecipientAttestation:PCR8": PCRS[8].hex(),
            }
        }
        key = kms.client().create_key(Policy=json.dumps(policy(kms, condition=condition)))["KeyMetadata"]["Arn"]
        blob = kms.client("publisher").encrypt(KeyId=key, Plaintext=bytes(32))["CiphertextBlob"]
        client = kms.client("parent")
        assert client.decrypt(KeyId=key, CiphertextBlob=blob, Recipient=boot.recipient())["CiphertextForRecipient"]
        for register in (0, 8):
            other = Boot(boot.authority, {**PCRS, register: b"\x01" * 48})
            with refused("AccessDeniedException"):
                client.decrypt(KeyId=key, CiphertextBlob=blob, Recipient=other.recipient())

    def test_data_keys_and_random_bytes_for_a_recipient(self, kms: KmsServer, boot: Boot) -> None:
        client = kms.client()
        key = client.create_key()["KeyMetadata"]["Arn"]
        made = client.generate_data_key(KeyId=key, NumberOfBytes=1_000, Recipient=boot.recipient())
        assert "Plaintext" not in made
        assert (
            boot.open(made["CiphertextForRecipient"])
            == client.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"]
        )
        random = client.generate_random(NumberOfBytes=24, Recipient=boot.recipient())
        assert "Plaintext" not in random
        assert len(boot.open(random["CiphertextForRecipient"])) == 24

    def test_recipient_needs_document_and_algorithm(self, kms: KmsServer, boot: Boot, key: str) -> None:
        client = kms.client("parent")
        for missing in ("AttestationDocument", "KeyEncryptionAlgorithm"):
            recipient = {name: value for name, value in boot.recipient().items() if name != missing}
            with refused("ValidationException"):
                client.decrypt(KeyId=key, CiphertextBlob=b"x", Recipient=recipient)


def test_age_is_limited_where_it_is_asked_for(tmp_path: Path) -> None:
    options = ("--max-document-age", "60", "--cms-form", "primitive")
    with running(tmp_path, principals=(), options=options) as server:
        boot, client = Boot(server.authority), server.client()
        key = client.create_key()["KeyMetadata"]["Arn"]
        for _ in range(2):
            made = client.generate_data_key(KeyId=key, KeySpec="AES_256", Recipient=boot.recipient())
            assert b"\xa0\x80\x04" not in made["CiphertextForRecipient"][-70:]
        for age in (timedelta(minutes=2), timedelta(minutes=-10)):
            document = Boot(Authority.load(server.authority_folder)).document(at=clock.now() - age)
            with refused("ValidationException"):
                client.generate_random(NumberOfBytes=8, Recipient=boot.recipient(document))
