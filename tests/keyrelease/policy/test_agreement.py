"""The simulator and `kms serve` decide alike: 500 random requests under random policies (key-release.md section 9)."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml import clock
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.simulate import Call, Ciphertext, Recipient, World, predict
from tests.fakes.kms_server import ADMINISTRATOR, KmsServer, running

REQUESTS, POLICIES = 520, 40
CONTEXTS: list[dict[str, str]] = [{}, {"model_id": "m", "version": "1"}, {"model_id": "other"}, {"MODEL_ID": "m"}]
IMAGES = [{index: bytes([16 * image + index + 1]) * 48 for index in range(3)} for image in range(2)]
DEBUG = dict.fromkeys(range(3), bytes(48))
EVERYTHING = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}'
PRINCIPALS = ("publisher", "parent", "strong", "root", ADMINISTRATOR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("agreement")) as started:
        started.add("strong", policy=json.loads(EVERYTHING))
        started.add("root")
        yield started


class Generator:
    """Policies and requests, from a seed."""

    def __init__(self, server: KmsServer, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)

    def some(self, *items: Any) -> list[Any]:
        return self.random.sample(items, self.random.randint(1, min(2, len(items))))

    def clause(self) -> dict[str, dict[str, list[str]]]:
        prefix = "kms:RecipientAttestation:"
        hexes = [value.hex() for image in IMAGES for value in image.values()] + ["0" * 96, IMAGES[0][0].hex().upper()]
        key, values = self.random.choice(
            [
                (f"{prefix}ImageSha384", hexes),
                (f"{prefix}PCR{self.random.randrange(9)}", hexes),
                ("kms:EncryptionContext:model_id", ["m", "other", "M*"]),
                ("kms:EncryptionContextKeys", ["model_id", "version"]),
                ("aws:PrincipalArn", [self.server.arn(name) for name in PRINCIPALS] + ["arn:aws:iam::*:role/p*"]),
                ("aws:SourceIp", ["127.0.0.0/8", "10.0.0.1"]),
                ("aws:SecureTransport", ["true", "false"]),
                ("aws:CurrentTime", ["2099-01-01T00:00:00Z", "2001-01-01T00:00:00Z"]),
                ("kms:CallerAccount", [self.server.account, "999999999999"]),
            ]
        )
        operator = self.random.choice(
            [
                "StringEquals",
                "StringEqualsIgnoreCase",
                "StringNotEqualsIgnoreCase",
                "StringLike",
                "StringNotLike",
                "StringEqualsIfExists",
                "ForAllValues:StringEquals",
                "ForAnyValue:StringEquals",
                "ArnLike",
                "Null",
                "DateLessThan",
                "IpAddress",
                "NotIpAddress",
                "Bool",
                "ForAnyValue:StringNotEquals",
            ]
        )
        return {operator: {key: self.some("true", "false") if operator == "Null" else self.some(*values)}}

    def statement(self) -> dict[str, Any]:
        names = [self.server.arn(name) for name in PRINCIPALS]
        who: Any = self.random.choice(
            ["*", {"AWS": self.some(*names, self.server.account)}, {"AWS": self.some(*names)}]
        )
        action = self.random.choice([["kms:Decrypt"], ["kms:*"], ["kms:De*"], ["kms:GenerateDataKey", "kms:Encrypt"]])
        deny = self.random.random() < 0.25
        made = {"Effect": "Deny" if deny else "Allow", "Principal": who, "Resource": "*"}
        # A Deny of everything would keep the test from putting the next policy.
        whole = deny and action == ["kms:*"]
        made["NotAction" if not deny and self.random.random() < 0.05 else "Action"] = ["kms:D*"] if whole else action
        conditions: dict[str, Any] = {}
        for _ in range(self.random.choice([0, 1, 1, 2])):
            conditions |= self.clause()
        return made | ({"Condition": conditions} if conditions else {})

    def policy(self) -> str:
        first = {"Sid": "First", "Effect": "Allow", "Principal": {"AWS": self.server.arn()}, "Resource": "*"}
        first["Action"] = ["kms:PutKeyPolicy", "kms:Encrypt"]
        others = [self.statement() for _ in range(self.random.randint(1, 4))]
        return json.dumps({"Version": "2012-10-17", "Statement": [first, *others]})

    def call(self) -> Call:
        action = self.random.choice(["kms:Decrypt"] * 6 + ["kms:GenerateDataKey", "kms:Encrypt", "kms:DescribeKey"])
        context = self.random.choice(CONTEXTS)
        if action != "kms:Decrypt":
            return Call(action, context=None if action == "kms:DescribeKey" else context)
        kinds = [Recipient.NONE, *[Recipient.DOCUMENT] * 4, Recipient.RANDOM, Recipient.FLIPPED, Recipient.NO_KEY]
        pcrs = self.random.choice([*IMAGES, DEBUG])
        full = {index: bytes(48) for index in range(16)} | pcrs
        return Call(action, self.random.choice(kinds), full, self.random.choice(list(Ciphertext)), context)


class Asker:
    """Makes the calls for real."""

    def __init__(self, server: KmsServer) -> None:
        self.server = server
        self.clients = {name: server.client(name) for name in PRINCIPALS}
        admin = self.clients[ADMINISTRATOR]
        self.keys = [admin.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
        self.blobs = {
            (key, index): admin.encrypt(KeyId=key, Plaintext=b"x" * 32, EncryptionContext=context)["CiphertextBlob"]
            for key in self.keys
            for index, context in enumerate([*CONTEXTS, {"yet": "another"}])
        }
        self.authority = server.authority
        self.documents: dict[tuple[bool, bytes], bytes] = {}
        public = (
            rsa.generate_private_key(65_537, 2_048).public_key(),
            ec.generate_private_key(ec.SECP384R1()).public_key(),
        )
        self.spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in public]

    def document(self, pcrs: Any, recipient: Recipient) -> bytes:
        if recipient is Recipient.RANDOM:
            return os.urandom(3_000)
        genuine = recipient is not Recipient.NO_KEY
        if (genuine, pcrs[0]) not in self.documents:
            spki = self.spki[0] if genuine else self.spki[1]
            fields = DocumentFields(f"{self.authority.id}-enc01", pcrs, spki, b"", bytes(32))
            self.documents[genuine, pcrs[0]] = self.authority.issue_document(fields, clock.now())
        made = self.documents[genuine, pcrs[0]]
        return made[:-1] + bytes([made[-1] ^ 1]) if recipient is Recipient.FLIPPED else made

    def __call__(self, call: Call, name: str) -> str:
        client, fields = self.clients[name], {"KeyId": self.keys[0]}
        if call.context is not None:
            fields["EncryptionContext"] = dict(call.context)
        try:
            match call.action:
                case "kms:DescribeKey":
                    client.describe_key(KeyId=self.keys[0])
                case "kms:Encrypt":
                    client.encrypt(**fields, Plaintext=b"y")
                case "kms:GenerateDataKey":
                    client.generate_data_key(**fields, KeySpec="AES_256")
                case _:
                    self.decrypt(client, fields, call)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "success"

    def decrypt(self, client: Any, fields: dict[str, Any], call: Call) -> None:
        key = self.keys[1 if call.ciphertext is Ciphertext.OTHER_KEY else 0]
        index = CONTEXTS.index(dict(call.context or {}))
        fields["CiphertextBlob"] = self.blobs[
            key, len(CONTEXTS) if call.ciphertext is Ciphertext.OTHER_CONTEXT else index
        ]
        if call.recipient is not Recipient.NONE:
            document = self.document(call.pcrs, call.recipient)
            fields["Recipient"] = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
        answer = client.decrypt(**fields)
        assert ("CiphertextForRecipient" in answer) is (call.recipient is not Recipient.NONE)
        assert ("Plaintext" in answer) is (call.recipient is Recipient.NONE)


def test_simulator_and_server_give_the_same_answers(server: KmsServer) -> None:
    generator, ask = Generator(server, seed=20_261_120), Asker(server)
    admin = ask.clients[ADMINISTRATOR]
    everything = [PolicyDocument.parse(EVERYTHING)]
    own = {server.arn("strong"): everything, server.arn(): everything}
    granted = admin.create_grant(KeyId=ask.keys[0], GranteePrincipal=server.arn("publisher"), Operations=["Decrypt"])
    grant = Grant(granted["GrantId"], server.arn("publisher"), ("Decrypt",))
    seen: Counter[str] = Counter()
    for _ in range(POLICIES):
        text = generator.policy()
        admin.put_key_policy(KeyId=ask.keys[0], Policy=text, BypassPolicyLockoutSafetyCheck=True)
        for _ in range(REQUESTS // POLICIES):
            call, name = generator.call(), generator.random.choice(PRINCIPALS)
            world = World(
                KeyPolicy.parse(text),
                *(ask.keys[0], server.account, clock.now(), (grant,), own),
                source_ip="127.0.0.1",
                secure_transport=False,
            )
            known = predict(call, server.arn(name), world).name
            assert ask(call, name) == known, (text, call, name)
            seen[known] += 1
    assert seen.total() >= 500
    assert all(seen[name] >= 10 for name in ("success", "AccessDeniedException", "ValidationException"))
    assert all(seen[name] >= 3 for name in ("InvalidCiphertextException", "IncorrectKeyException")), seen
