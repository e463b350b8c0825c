"""Kill -9 at any point: what was acknowledged is there, nothing half-written is, the audit log is unbroken."""

import json
import random
import signal
import threading
import time
from pathlib import Path

import botocore.exceptions

from ephemeralml.keyrelease.local import audit_log
from tests.fakes.kms_server import KmsServer, running
from tests.keyrelease.local.attested import policy

_ROUNDS = 6


class _Writer:
    """Makes keys, aliases and policies until the server is gone, and remembers what was acknowledged."""

    def __init__(self, server: KmsServer) -> None:
        self.aliases: dict[str, str] = {}
        self.policies: dict[str, set[str]] = {}
        self.ciphertexts: dict[str, bytes] = {}
        self._client = server.client()
        self._text = json.dumps(policy(server))
        self._stamp = random.Random(server.process.pid if server.process else 0)

    def run(self) -> None:
        try:
            while True:
                key = self._client.create_key()["KeyMetadata"]["Arn"]
                self.ciphertexts[key] = self._client.encrypt(KeyId=key, Plaintext=key.encode())["CiphertextBlob"]
                alias = f"alias/durable-{self._stamp.getrandbits(64):x}"
                self._client.create_alias(AliasName=alias, TargetKeyId=key)
                self.aliases[alias] = key
                # Either the old or the new one, until the change is acknowledged.
                new = self._text + " " * self._stamp.randrange(9)
                self.policies[key] = {"default", new}
                self._client.put_key_policy(KeyId=key, Policy=new, BypassPolicyLockoutSafetyCheck=True)
                self.policies[key] = {new}
        except (botocore.exceptions.EndpointConnectionError, botocore.exceptions.HTTPClientError, OSError):
            return


def test_kill_at_any_point(tmp_path: Path) -> None:
    with running(tmp_path, principals=()) as server:
        writers: list[_Writer] = []
        for index in range(_ROUNDS):
            writer = _Writer(server)
            writers.append(writer)
            thread = threading.Thread(target=writer.run)
            thread.start()
            time.sleep(0.15 + 0.11 * index)
            assert server.process is not None
            server.process.kill()
            server.process.wait(20)
            thread.join(30)
            assert not thread.is_alive()
            server.stop(signal.SIGKILL)
            server.start()
            _check(server, writers)
        head = audit_log.verify(server.state / "audit.jsonl")
        assert head.count > _ROUNDS
        assert sum(len(writer.aliases) for writer in writers) > _ROUNDS


def _check(server: KmsServer, writers: list[_Writer]) -> None:
    client = server.client()
    listed = {
        one["AliasName"]: one["TargetKeyId"]
        for page in client.get_paginator("list_aliases").paginate()
        for one in page["Aliases"]
    }
    keys = {one["KeyArn"] for page in client.get_paginator("list_keys").paginate() for one in page["Keys"]}
    assert {key.rpartition("/")[2] for key in keys} >= set(listed.values())
    for writer in writers:
        assert {alias: key.rpartition("/")[2] for alias, key in writer.aliases.items()}.items() <= listed.items()
        assert writer.ciphertexts.keys() <= keys
    for key, texts in writers[-1].policies.items():
        found = client.get_key_policy(KeyId=key)["Policy"]
        assert found in texts or ("default" in texts and "key-default-1" in found)
    for key, blob in writers[-1].ciphertexts.items():
        if key not in writers[-1].policies:
            assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == key.encode()
