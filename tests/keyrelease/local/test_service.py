"""The service under a clock of the test's: genuine documents at their date, ends of waiting, faults of ours."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation.nitro.authentic import authentic_document
from ephemeralml.attestation.roots import AWS_NITRO, TrustRoots
from ephemeralml.keyrelease.local import audit_log, principals, state
from ephemeralml.keyrelease.local.audit_log import AuditLog
from ephemeralml.keyrelease.local.call import Call, Trail
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.names import Names
from ephemeralml.keyrelease.local.service import Received, Service
from ephemeralml.keyrelease.local.sigv4 import Credential, SignedRequest, sign
from ephemeralml.keyrelease.local.state import KeySource
from tests.keyrelease.local.test_store import sql

GENUINE = datetime(2022, 10, 13, 8, 58, 2, 136_000, tzinfo=UTC)
"""When the genuine document with PCR8 was made."""
FILE = KeySource.parse("file")


@dataclass
class Bench:
    folder: Path
    service: Service
    desk: Desk
    audit: AuditLog
    now: datetime

    def ask(self, operation: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        body = json.dumps(fields, default=lambda data: base64.b64encode(data).decode()).encode()
        headers = {
            "host": "test",
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"TrentService.{operation}",
        }
        words = (self.folder / "credentials" / "administrator").read_text().split()
        credential = Credential(words[3], words[6])
        signed = sign("POST", headers, body, credential=credential, region="local", now=self.now)
        pairs = tuple((name.encode(), value.encode()) for name, value in signed.items())
        answer = self.service.answer(Received(SignedRequest("POST", b"/", b"", pairs, body)))
        return answer.status, json.loads(answer.body)

    def refused(self, name: str, operation: str, **fields: Any) -> None:
        _, document = self.ask(operation, **fields)
        assert document.get("__type") == name, document

    @property
    def last(self) -> dict[str, Any]:
        return json.loads((self.folder / "audit.jsonl").read_bytes().splitlines()[-1])


def make(tmp_path: Path, stack: ExitStack, now: datetime, roots: TrustRoots = AWS_NITRO) -> Bench:
    folder = tmp_path / "state"
    state.create(folder, FILE, Names("000000000000", "local"), now)
    opened = stack.enter_context(state.opened(folder, FILE))
    desk = Desk(opened.store, opened.names, roots)
    audit = AuditLog.open(state.audit_path(folder))
    bench = Bench(folder, None, desk, audit, now)  # type: ignore[arg-type] # its clock is the bench's
    bench.service = Service(desk, audit, lambda: bench.now)
    return bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        made = make(tmp_path, stack, GENUINE)
        yield made
        made.service.close()


def _recipient(document: bytes) -> dict[str, Any]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


class TestGenuine:
    """Documents of real hardware, at their date, under Amazon's root.

    The two that are published carry no RSA key, so none of them can be released
    to: authentic, and refused for the key (A9), is how far they go.
    """

    @pytest.mark.parametrize(
        ("name", "at", "pcr0"),
        [
            ("nitro-evervault-2022-pcr8.bin", GENUINE, "f4d48b81a460c991"),
            ("nitro-evervault-2022-debug.bin", datetime(2022, 10, 12, 13, 50, 6, tzinfo=UTC), "0" * 16),
        ],
    )
    def test_authentic_and_without_a_key(self, bench: Bench, shared: Path, name: str, at: datetime, pcr0: str) -> None:
        document = (shared / "evidence" / name).read_bytes()
        bench.now = at
        bench.refused("ValidationException", "GenerateRandom", NumberOfBytes=8, Recipient=_recipient(document))
        assert bench.last["pcr0"].startswith(pcr0)
        assert bench.last["module_id"].startswith("i-")
        assert "document" not in bench.last

    @pytest.mark.parametrize(
        ("name", "at", "pinned", "allowed"),
        [
            ("nitro-evervault-2022-pcr8.bin", GENUINE, None, True),
            ("nitro-evervault-2022-pcr8.bin", GENUINE, b"\x01" * 48, False),
            ("nitro-evervault-2022-debug.bin", datetime(2022, 10, 12, 13, 50, 6, tzinfo=UTC), b"\x01" * 48, False),
            (None, GENUINE, b"\x01" * 48, False),
        ],
        ids=["a1", "a2", "a7", "a3"],
    )
    def test_a_policy_over_genuine_registers(
        self, bench: Bench, shared: Path, name: str | None, at: datetime, pinned: bytes | None, allowed: bool
    ) -> None:
        pcrs = None
        if name is not None:
            document = (shared / "evidence" / name).read_bytes()
            pcrs = authentic_document(document, roots=AWS_NITRO, at=at).pcrs
        image = (pinned or (pcrs or {})[0]).hex()
        condition = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": image}}
        (principal,) = bench.desk.store.principals()
        statement = {"Sid": "Release1", "Effect": "Allow", "Principal": {"AWS": principal.arn}, "Condition": condition}
        policy = {"Version": "2012-10-17", "Statement": [{**statement, "Action": "kms:Decrypt", "Resource": "*"}]}
        call = Call(principal, {}, at, Trail(at, "id"))
        decision = bench.desk.decide(
            call, "kms:Decrypt", "arn:aws:kms:local:000000000000:key/x", json.dumps(policy), pcrs=pcrs
        )
        assert decision.allowed is allowed

    def test_one_bit_and_random_bytes(self, bench: Bench, shared: Path) -> None:
        document = bytearray((shared / "evidence" / "nitro-evervault-2022-pcr8.bin").read_bytes())
        document[600] ^= 1
        for wrong in (bytes(document), os.urandom(4_654)):
            bench.refused("ValidationException", "GenerateRandom", NumberOfBytes=8, Recipient=_recipient(wrong))
            assert bench.last["pcr0"] is None
            assert bench.last["document"].startswith("NITRO_")

    def test_today(self, bench: Bench, shared: Path) -> None:
        document = (shared / "evidence" / "nitro-evervault-2022-pcr8.bin").read_bytes()
        bench.now = GENUINE + timedelta(days=30)
        bench.refused("ValidationException", "GenerateRandom", NumberOfBytes=8, Recipient=_recipient(document))
        assert bench.last["document"] == "NITRO_CERT_TIME_INVALID"


class TestTime:
    def test_a_key_ends_when_its_waiting_does(self, bench: Bench) -> None:
        _, made = bench.ask("CreateKey")
        key = made["KeyMetadata"]["KeyId"]
        _, sealed = bench.ask("Encrypt", KeyId=key, Plaintext=b"x")
        bench.ask("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
        bench.now += timedelta(days=6, hours=23)
        bench.refused("KMSInvalidStateException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
        bench.now += timedelta(hours=1)
        assert bench.ask("ListKeys")[1]["Keys"] == []
        bench.refused("NotFoundException", "DescribeKey", KeyId=key)
        bench.refused("InvalidCiphertextException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])

    def test_rotation_comes_due(self, bench: Bench) -> None:
        _, made = bench.ask("CreateKey")
        key = made["KeyMetadata"]["KeyId"]
        bench.ask("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
        _, old = bench.ask("Encrypt", KeyId=key, Plaintext=b"x")
        bench.now += timedelta(days=90)
        _, new = bench.ask("Encrypt", KeyId=key, Plaintext=b"x")
        versions = [base64.b64decode(one["CiphertextBlob"])[21:25] for one in (old, new)]
        assert versions == [b"\0\0\0\1", b"\0\0\0\2"]
        assert bench.ask("Decrypt", CiphertextBlob=old["CiphertextBlob"])[0] == 200
        _, status = bench.ask("GetKeyRotationStatus", KeyId=key)
        assert status["NextRotationDate"] == (bench.now + timedelta(days=90)).timestamp()


class TestAudit:
    def test_an_entry(self, bench: Bench) -> None:
        _, made = bench.ask("CreateKey")
        arn = made["KeyMetadata"]["Arn"]
        assert "without a policy" in bench.last["warning"]
        bench.ask("Encrypt", KeyId=arn, Plaintext=b"the secret", EncryptionContext={"model_id": "m"})
        entry = bench.last
        assert (entry["operation"], entry["key"], entry["context"]) == ("Encrypt", arn, {"model_id": "m"})
        assert (entry["decision"], entry["statement"]) == ("allow", "Enable IAM User Permissions")
        assert entry["principal"].endswith("role/administrator")
        assert entry["error"] is None
        text = (bench.folder / "audit.jsonl").read_text()
        assert base64.b64encode(b"the secret").decode() not in text
        assert "the secret" not in text

    def test_a_statements_name_is_cut(self, bench: Bench) -> None:
        statement = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*", "Sid": "a" * 20_000}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        _, made = bench.ask("CreateKey", Policy=policy)
        assert bench.ask("DescribeKey", KeyId=made["KeyMetadata"]["KeyId"])[0] == 200
        assert bench.last["statement"] == "a" * 512 + "…"

    def test_what_is_refused_has_its_line(self, bench: Bench) -> None:
        bench.refused("UnknownOperationException", "Sign")
        assert (bench.last["operation"], bench.last["error"]) == ("", "UnknownOperationException")
        answer = bench.service.answer(Received(SignedRequest("POST", b"/", b"", (), b"")))
        assert answer.status == 400
        assert (bench.last["principal"], bench.last["error"]) == (None, "MissingAuthenticationTokenException")

    def test_no_answer_without_a_line(self, bench: Bench, tmp_path: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            kept, bench.audit._descriptor = bench.audit._descriptor, full.fileno()
            status, document = bench.ask("GenerateRandom", NumberOfBytes=8)
            bench.audit._descriptor = kept
        assert (status, document["__type"]) == (500, "KMSInternalException")
        assert "Plaintext" not in document
        assert bench.ask("GenerateRandom", NumberOfBytes=8)[0] == 200
        audit_log.verify(bench.folder / "audit.jsonl")

    def test_the_state_remembers_the_log(self, tmp_path: Path) -> None:
        with ExitStack() as stack:
            bench = make(tmp_path, stack, GENUINE)
            bench.ask("ListKeys")
            bench.service.close()
            head = state.known_head(bench.desk.store)
        assert head == audit_log.verify(bench.folder / "audit.jsonl")


class TestOurFaults:
    def test_a_row_that_does_not_open(self, bench: Bench) -> None:
        _, made = bench.ask("CreateKey")
        sql(bench.folder, "UPDATE key_versions SET sealed=zeroblob(60)")
        status, document = bench.ask("Encrypt", KeyId=made["KeyMetadata"]["KeyId"], Plaintext=b"x")
        assert (status, document["__type"]) == (500, "KMSInternalException")
        assert bench.last["error"] == "KMSInternalException"

    def test_a_lost_version(self, bench: Bench) -> None:
        _, made = bench.ask("CreateKey")
        _, sealed = bench.ask("Encrypt", KeyId=made["KeyMetadata"]["KeyId"], Plaintext=b"x")
        sql(bench.folder, "DELETE FROM key_versions")
        bench.refused("InvalidCiphertextException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
        bench.refused("KMSInternalException", "Encrypt", KeyId=made["KeyMetadata"]["KeyId"], Plaintext=b"x")


def test_a_principal_of_another_account_needs_both_sides(bench: Bench) -> None:
    stranger = "arn:aws:iam::999999999999:role/stranger"
    allow = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'
    who, path = principals.add(
        bench.desk.store, bench.desk.names, bench.folder, stranger, policies=[allow], now=bench.now
    )
    assert who.arn == stranger
    _, made = bench.ask("CreateKey")
    (bench.folder / "credentials" / "administrator").write_text(path.read_text())
    bench.refused("AccessDeniedException", "Encrypt", KeyId=made["KeyMetadata"]["KeyId"], Plaintext=b"x")
    bench.refused("AccessDeniedException", "ListKeys")


def test_the_state_remembers_the_log_every_minute(bench: Bench) -> None:
    known = state.known_head(bench.desk.store)
    for seconds, remembers in ((0, False), (59, False), (60, True), (100, False), (120, True)):
        bench.now = GENUINE + timedelta(seconds=seconds)
        bench.ask("ListKeys")
        before, known = known, state.known_head(bench.desk.store)
        assert (known == bench.audit.head) is remembers
        assert (known != before) is remembers
