"""Many clients at once: every answer is its own request's, and the log has all of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.exceptions import ClientError

from ephemeralml.keyrelease.local import audit_log
from tests.fakes.kms_server import running
from tests.keyrelease.local.attested import Boot

_CLIENTS, _EACH = 8, 25


def test_many_clients(tmp_path: Path) -> None:
    with running(tmp_path, principals=()) as server:
        boot, admin = Boot(server.authority), server.client()
        keys = [admin.create_key()["KeyMetadata"]["Arn"] for _ in range(_CLIENTS)]
        before = audit_log.verify(server.state / "audit.jsonl").count

        def work(index: int) -> int:
            client, done = server.client(max_pool_connections=1), 0
            for number in range(_EACH):
                text = f"{index}/{number}".encode()
                context = {"client": str(index)}
                blob = client.encrypt(KeyId=keys[index], Plaintext=text, EncryptionContext=context)["CiphertextBlob"]
                if number % 2:
                    answer = client.decrypt(CiphertextBlob=blob, EncryptionContext=context, Recipient=boot.recipient())
                    assert boot.open(answer["CiphertextForRecipient"]) == text
                else:
                    assert client.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == text
                done += 2
            return done

        with ThreadPoolExecutor(_CLIENTS) as pool:
            done = sum(pool.map(work, range(_CLIENTS)))
        assert audit_log.verify(server.state / "audit.jsonl").count == before + done == before + 2 * _CLIENTS * _EACH


def test_a_policy_is_in_force_for_the_next_request(tmp_path: Path) -> None:
    with running(tmp_path, principals=("parent",)) as server:
        admin, parent = server.client(), server.client("parent")
        key = admin.create_key()["KeyMetadata"]["Arn"]
        for _ in range(10):
            grant = admin.create_grant(KeyId=key, GranteePrincipal=server.arn("parent"), Operations=["DescribeKey"])
            parent.describe_key(KeyId=key)
            admin.revoke_grant(KeyId=key, GrantId=grant["GrantId"])
            try:
                parent.describe_key(KeyId=key)
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDeniedException"  # noqa: PT017 - either way is looked at
            else:
                raise AssertionError("a revoked grant was honoured")
