"""What evidence adds to a receipt: rows, REGISTERS, assurance (air-v1, section 10)."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation.evidence import AppraisalTime, ExpectedBinding, TimeBasis
from ephemeralml.attestation.roots import AWS_NITRO, NO_ROOTS, RootKind
from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.crypto import dsse
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from ephemeralml.receipt import ReceiptPolicy, ReceiptResult, issue, verify_receipt
from ephemeralml.receipt.model_policy import MANIFEST_TYPE, ManifestAtHand
from ephemeralml.receipt.platform import join
from ephemeralml.receipt.policy import of_policy_file
from tests.fakes.nitro import AT, NONCE, PCRS
from tests.fakes.receipts import (
    MANIFEST,
    MODEL_HASH,
    NOW,
    PUBLISHER,
    RECEIPT_KEY,
    accepting,
    archive,
    judge,
)
from tests.vectors.receipt.lab import OTHER_KEY

KEY = RECEIPT_KEY.public.raw


def failing(result: ReceiptResult) -> list[tuple[str, str | None]]:
    return [(row.id, row.code) for row in result.rows if row.status is Status.FAIL]


def status(result: ReceiptResult, check: str) -> Status:
    return next(row.status for row in result.rows if row.id == check)


class TestLadder:
    def test_everything_holds_under_a_vendor_root_and_policy(self) -> None:
        result = judge(archive())
        assert (result.verdict, result.assurance) == (Verdict.VERIFIED, Assurance.TEE)
        assert result.time_basis == "document"
        assert result.require().assurance is Assurance.TEE
        layers = {check["layer"] for check in result.to_json()["checks"]}
        assert layers == {"parse", "crypto", "claim", "policy", "platform"}

    def test_without_a_policy_it_stops_at_platform(self) -> None:
        result = judge(archive(), None)
        assert (result.verdict, result.assurance) == (Verdict.VERIFIED, Assurance.PLATFORM)
        assert status(result, "N14") is Status.SKIP

    def test_without_evidence_it_stops_at_receipt(self) -> None:
        made = archive()
        result = verify_receipt(made.receipt, KEY, policy=ReceiptPolicy(), now=NOW)
        assert result.assurance is Assurance.RECEIPT

    def test_a_software_tee_stops_at_document_and_warns(self) -> None:
        result = judge(archive(RootKind.SOFTWARE))
        assert (result.verdict, result.assurance) == (Verdict.VERIFIED, Assurance.DOCUMENT)
        assert "WARN_SOFTWARE_TEE" in result.warnings

    def test_a_software_tee_without_a_policy_is_refused(self) -> None:
        made = archive(RootKind.SOFTWARE)
        demands = ReceiptPolicy(allow_evaluation=True)
        assert ("N5", "NITRO_CERT_CHAIN_INVALID") in failing(judge(made, None, roots=AWS_NITRO, demands=demands))
        known_root = judge(made, None, demands=demands)
        assert (known_root.verdict, known_root.assurance) == (Verdict.REJECTED, Assurance.DOCUMENT)

    def test_a_software_tee_is_refused_by_a_production_policy(self) -> None:
        made = archive(RootKind.SOFTWARE, security_mode="production")
        result = judge(made, accepting(archive()), roots=AWS_NITRO)
        assert result.verdict is Verdict.REJECTED
        assert result.assurance <= Assurance.DOCUMENT

    def test_no_root_is_incomplete(self) -> None:
        result = judge(archive(), None, roots=NO_ROOTS)
        assert (result.verdict, result.assurance) == (Verdict.INCOMPLETE, Assurance.DOCUMENT)
        with pytest.raises(IncompleteError) as caught:
            result.require()
        assert caught.value.code == "TRUST_ANCHOR_MISSING"
        assert caught.value.hint

    def test_a_wrong_nonce_rejects_at_assurance_tee(self) -> None:
        result = judge(archive(), demands=ReceiptPolicy(nonce=bytes(8)))
        assert failing(result) == [("NONCE", "NONCE_MISMATCH")]
        assert result.assurance is Assurance.TEE

    def test_a_broken_receipt_has_no_assurance_whatever_the_evidence(self) -> None:
        made = archive()
        for receipt in (made.receipt[:-1] + bytes([made.receipt[-1] ^ 1]), made.receipt[:-1]):
            assert judge(made, receipt=receipt).assurance is Assurance.NONE


class TestBinding:
    def test_another_document_of_the_same_key_fails_the_document_hash(self) -> None:
        other = archive(fields={"timestamp": int(AT.timestamp()) * 1000 + 1})
        result = judge(archive(), document=other.document)
        assert failing(result) == [("ADHASH", "ATTESTATION_DOC_HASH_MISMATCH")]
        assert result.assurance is Assurance.RECEIPT

    def test_a_document_of_another_key_fails_the_binding(self) -> None:
        made = archive(fields={"public_key": OTHER_KEY.public.raw})
        result = judge(made)
        assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failing(result)
        assert result.assurance is Assurance.RECEIPT

    def test_the_row_names_the_form_and_the_older_form_binds_with_a_warning(self) -> None:
        old = f'{{"receipt_signing_key": {list(KEY)}, "protocol_version": 1, "supported_features": []}}'.encode()
        expected = ExpectedBinding(KEY, None, NONCE)
        result = judge(archive(fields={"public_key": b"rsa", "user_data": old}), expected=expected)
        assert (result.verdict, result.assurance) == (Verdict.VERIFIED, Assurance.TEE)
        assert "WARN_COMPAT_BINDING" in result.warnings
        assert "nitro-user-data-json" in next(row.detail for row in result.rows if row.id == "N9")
        assert "nitro-public-key" in next(row.detail for row in judge(archive()).rows if row.id == "N9")

    def test_another_session_binding_or_nonce_fails_where_it_is_known(self) -> None:
        made = archive()
        wrong = judge(made, expected=ExpectedBinding(KEY, bytes(32), bytes(32)))
        assert failing(wrong) == [("N10", "NITRO_USERDATA_BINDING_MISMATCH"), ("N11", "NITRO_NONCE_MISMATCH")]
        unknown = judge(made, expected=ExpectedBinding(KEY))
        assert unknown.verdict is Verdict.VERIFIED
        assert {"WARN_CHANNEL_BINDING_UNCHECKED", "WARN_NONCE_UNCHECKED"} <= set(unknown.warnings)

    def test_a_key_hash_instead_of_a_document_hash_is_no_document(self) -> None:
        made = archive(attestation_doc_hash=hashlib.sha256(KEY).digest())
        result = verify_receipt(made.receipt, KEY, policy=ReceiptPolicy(), now=NOW)
        assert result.warnings == ("WARN_DOC_HASH_IS_KEY_HASH",)
        assert (result.verdict, result.assurance) == (Verdict.VERIFIED, Assurance.RECEIPT)
        with_document = judge(made)
        assert failing(with_document) == [("ADHASH", "ATTESTATION_DOC_HASH_MISMATCH")]
        assert with_document.assurance is Assurance.RECEIPT


class TestRegisters:
    @pytest.mark.parametrize("slot", ["pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"])
    def test_each_slot_must_be_the_documents(self, slot: str) -> None:
        result = judge(archive(**{slot: b"\x01" * 48}))
        assert failing(result) == [("REGISTERS", f"RECEIPT_MEASUREMENTS_MISMATCH:{slot}")]
        assert result.assurance is Assurance.PLATFORM

    def test_optional_slots_may_be_absent_from_the_receipt(self) -> None:
        result = judge(archive(pcr3=None, pcr4=None, pcr8=None))
        assert result.assurance is Assurance.TEE

    def test_a_slot_that_the_document_lacks_is_a_mismatch(self) -> None:
        fields = {"pcrs": {index: value for index, value in PCRS.items() if index != 8}}
        assert failing(judge(archive(fields=fields))) == [("REGISTERS", "RECEIPT_MEASUREMENTS_MISMATCH:pcr8")]

    def test_the_type_must_fit_the_format(self) -> None:
        result = judge(archive(measurement_type="tdx-mrtd-rtmr", pcr8=None))
        assert failing(result) == [("REGISTERS", "RECEIPT_MEASUREMENTS_MISMATCH:measurement_type")]

    def test_every_mismatch_is_reported(self) -> None:
        result = judge(archive(pcr0=bytes(48), pcr2=bytes(48)))
        assert [code for _, code in failing(result)] == [
            "RECEIPT_MEASUREMENTS_MISMATCH:pcr0",
            "RECEIPT_MEASUREMENTS_MISMATCH:pcr2",
        ]

    def test_evidence_without_registers_is_incomplete(self) -> None:
        result = judge(archive())
        assert result.appraisal is not None
        findings = join(archive().claims, replace(result.appraisal, registers={}, measurement_type=None))
        assert findings.assurance is Assurance.PLATFORM
        assert (findings.rows[-1].status, findings.rows[-1].required) == (Status.SKIP, True)


class TestTime:
    def test_an_archive_is_judged_at_its_own_time_and_not_now(self) -> None:
        later = AT + timedelta(days=30)
        now = judge(archive(), at=AppraisalTime(TimeBasis.NOW, later, "clock"))
        assert failing(now) == [("N7", "NITRO_CERT_TIME_INVALID")]
        assert (now.assurance, now.time_basis) == (Assurance.DOCUMENT, "now")
        given = judge(archive(), at=AppraisalTime(TimeBasis.GIVEN, AT + timedelta(hours=1), "argument"))
        assert (given.verdict, given.time_basis) == (Verdict.VERIFIED, "given")


class TestUnreadableEvidence:
    @pytest.mark.parametrize("document", [b"", b"hello", b"\xd2\x84\x46\xa2\x01\x27\x03\x18\x3d" + bytes(600)])
    def test_unknown_bytes_are_malformed(self, document: bytes) -> None:
        made = archive(attestation_doc_hash=hashlib.sha256(document).digest())
        result = judge(made, None, document=document)
        assert failing(result) == [("FORMAT", "EVIDENCE_FORMAT_UNKNOWN")]
        assert (result.verdict, result.assurance) == (Verdict.MALFORMED, Assurance.RECEIPT)
        with pytest.raises(MalformedError) as caught:
            result.require()
        assert caught.value.code == "EVIDENCE_FORMAT_UNKNOWN"

    def test_a_cut_document_is_malformed(self) -> None:
        document = archive().document[:-1]
        made = archive(attestation_doc_hash=hashlib.sha256(document).digest())
        result = judge(made, document=document)
        assert (result.verdict, result.assurance) == (Verdict.MALFORMED, Assurance.RECEIPT)
        assert failing(result)[0] == ("N1", "NITRO_DOC_PARSE_FAILED")

    def test_what_is_malformed_is_named_before_what_differs(self) -> None:
        result = judge(archive(), document=b"hello")
        assert [code for _, code in failing(result)] == ["ATTESTATION_DOC_HASH_MISMATCH", "EVIDENCE_FORMAT_UNKNOWN"]
        with pytest.raises(MalformedError) as caught:
            result.require()
        assert caught.value.code == "EVIDENCE_FORMAT_UNKNOWN"

    def test_evidence_is_not_looked_at_for_what_is_no_receipt(self) -> None:
        result = judge(archive(), receipt=b"no receipt")
        assert [row.id for row in result.rows] == ["SIZE", "COSE_DECODE"]


class TestRealDocuments:
    @pytest.mark.parametrize("name", ["nitro-evervault-2022-pcr8.bin", "nitro-evervault-2022-debug.bin"])
    def test_they_are_authentic_at_their_time_and_bind_no_receipt_key(self, shared: Path, name: str) -> None:
        document = (shared / "evidence" / name).read_bytes()
        made = archive(attestation_doc_hash=hashlib.sha256(document).digest())
        expected = ExpectedBinding(KEY)
        result = judge(made, None, document=document, roots=AWS_NITRO, expected=expected)
        assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failing(result)
        assert status(result, "N7") is Status.PASS
        assert result.assurance is Assurance.RECEIPT


class TestPolicyFile:
    def test_models_configure_model_and_hash(self) -> None:
        made = archive()
        result = judge(made)
        assert (status(result, "MODEL"), status(result, "MHASH")) == (Status.PASS, Status.PASS)
        other = accepting(made, models={"allow": [{"model_id": "other", "model_hash": "11" * 32}]})
        assert failing(judge(made, other)) == [("MHASH", "MODEL_HASH_MISMATCH"), ("MODEL", "MODEL_ID_MISMATCH")]

    def test_an_entry_without_a_hash_leaves_mhash_unchecked(self) -> None:
        made = archive()
        result = judge(made, accepting(made, models={"allow": [{"model_id": "minilm-l6-v2"}]}))
        assert (status(result, "MODEL"), status(result, "MHASH")) == (Status.PASS, Status.SKIP)

    def test_an_older_version_is_a_row_of_its_own(self) -> None:
        entry = {"model_id": "minilm-l6-v2", "model_hash": MODEL_HASH.hex(), "min_version": "1.0.0"}
        made = archive()
        assert status(judge(made, accepting(made, models={"allow": [entry]})), "MODEL_VERSION") is Status.PASS
        newer = accepting(made, models={"allow": [{**entry, "min_version": "1.0.1"}]})
        assert failing(judge(made, newer)) == [("MODEL_VERSION", "MODEL_VERSION_REJECTED")]

    def test_publisher_keys_ask_for_the_signed_manifest(self) -> None:
        made = archive()
        file = accepting(made, models={"publisher_keys": [str(PUBLISHER.public)]})
        missing = judge(made, file)
        assert missing.verdict is Verdict.INCOMPLETE
        with pytest.raises(IncompleteError, match="--manifest"):
            missing.require()
        assert judge(made, file, manifest=MANIFEST).verdict is Verdict.VERIFIED
        other = accepting(made, models={"publisher_keys": [str(OTHER_KEY.public)]})
        assert failing(judge(made, other, manifest=MANIFEST)) == [("MODEL_PUBLISHER", "MODEL_PUBLISHER_REJECTED")]

    def test_a_manifest_of_another_model_is_another_hash(self) -> None:
        made = archive(model_hash=b"\x0b" * 32)
        file = accepting(made, models={"publisher_keys": [str(PUBLISHER.public)]})
        result = judge(made, file, manifest=MANIFEST)
        assert failing(result) == [("MHASH", "MODEL_HASH_MISMATCH")]
        # Not judged, and never passed over: the one fault is told by MHASH.
        publisher = next(row for row in result.rows if row.id == "MODEL_PUBLISHER")
        assert (publisher.status, publisher.required) == (Status.SKIP, True)
        other = accepting(made, models={"publisher_keys": [str(OTHER_KEY.public)]})
        assert failing(judge(made, other, manifest=MANIFEST)) == [
            ("MHASH", "MODEL_HASH_MISMATCH"),
            ("MODEL_PUBLISHER", "MODEL_PUBLISHER_REJECTED"),
        ]

    def test_a_hash_of_no_manifest_is_one_fault(self) -> None:
        made = archive(model_hash=b"\x0b" * 32, model_hash_scheme="sha256-single")
        file = accepting(made, models={"publisher_keys": [str(PUBLISHER.public)]})
        proof = ManifestAtHand.parse(MANIFEST).proof(file.models.publisher_keys)
        result = judge(made, file, demands=ReceiptPolicy(publisher=proof))
        assert failing(result) == [("MODEL_PUBLISHER", "MODEL_HASH_MISMATCH")]

    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"model_id": "minilm"}, "MODEL_ID_MISMATCH"),
            ({"model_version": "9.9.9"}, "MODEL_ID_MISMATCH"),
            ({"model_hash_scheme": "sha256-single"}, "MODEL_HASH_MISMATCH"),
            ({"model_hash_scheme": "sha256-concat"}, "MODEL_HASH_MISMATCH"),
            ({"model_hash_scheme": None}, "MODEL_HASH_MISMATCH"),
        ],
    )
    def test_a_publisher_vouches_for_the_model_of_the_manifest_alone(self, claims: dict[str, Any], code: str) -> None:
        made = archive(**claims)
        file = accepting(made, models={"publisher_keys": [str(PUBLISHER.public)]})
        assert failing(judge(made, file, manifest=MANIFEST)) == [("MODEL_PUBLISHER", code)]

    def test_a_publisher_vouches_for_the_very_manifest_that_the_receipt_names(self) -> None:
        made = archive(model_hash=b"\x0b" * 32)
        file = accepting(made, models={"publisher_keys": [str(PUBLISHER.public)]})
        proof = ManifestAtHand.parse(MANIFEST).proof(file.models.publisher_keys)
        result = judge(made, file, demands=ReceiptPolicy(publisher=proof))
        assert failing(result) == [("MODEL_PUBLISHER", "MODEL_HASH_MISMATCH")]

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"weights",
            b"[]",
            b'{"schema": "ephemeralml.model/2", "model_id": "minilm-l6-v2", "version": "1.0.0"}',
            b'{"schema": "ephemeralml.model/1", "version": "1.0.0"}',
            b'{"schema": "ephemeralml.model/1", "model_id": "minilm-l6-v2"}',
            b'{"schema": "ephemeralml.model/1", "model_id": ["minilm-l6-v2"], "version": "1.0.0"}',
            b'{"schema": "ephemeralml.model/1", "model_id": "minilm-l6-v2", "version": 1}',
            b'{"schema": "ephemeralml.model/1", "model_id": "a", "model_id": "minilm-l6-v2", "version": "1.0.0"}',
        ],
    )
    def test_an_envelope_around_no_manifest(self, payload: bytes) -> None:
        with pytest.raises(MalformedError):
            ManifestAtHand.parse(dsse.seal(MANIFEST_TYPE, payload, PUBLISHER))

    def test_a_required_nonce_covers_receipts(self) -> None:
        made = archive(eat_nonce=None)
        assert failing(judge(made)) == [("NONCE", "NONCE_MISSING")]
        assert judge(made, accepting(made, nonce="optional")).verdict is Verdict.VERIFIED

    def test_security_modes_are_expected(self) -> None:
        made = archive(security_mode="evaluation")
        assert failing(judge(made)) == [("SECURITY_MODE_POLICY", "SECURITY_MODE_MISMATCH")]

    def test_without_evidence_what_the_policy_asks_is_missing(self) -> None:
        made = archive()
        demands = of_policy_file(accepting(made), ReceiptPolicy())
        result = verify_receipt(made.receipt, KEY, policy=demands, now=NOW)
        assert (result.verdict, result.assurance) == (Verdict.INCOMPLETE, Assurance.RECEIPT)
        assert result.rows[-2].id == "MIN_ASSURANCE"

    def test_an_expired_policy_fails_with_and_without_evidence(self) -> None:
        made = archive()
        file = accepting(made, expires_at="2026-01-10T00:00:00Z", allow_expired=True)
        judged = judge(made, file)
        assert ("POLICY_EXPIRY", "POLICY_EXPIRED") in failing(judged)
        expiry = next(row for row in judged.rows if row.id == "POLICY_EXPIRY")
        assert (expiry.expected, expiry.actual) == ("before 2026-01-10T00:00:00Z", "at 2026-01-15T12:00:00Z")
        demands = of_policy_file(file, ReceiptPolicy())
        result = verify_receipt(made.receipt, KEY, policy=demands, now=NOW)
        assert failing(result) == [("POLICY_EXPIRY", "POLICY_EXPIRED")]
        expiry = next(row for row in result.rows if row.id == "POLICY_EXPIRY")
        assert expiry.actual == "at 2026-01-15T12:00:00Z"


def test_every_change_of_a_receipt_with_evidence_is_refused() -> None:
    made = archive()
    file = accepting(made)
    for index in range(0, len(made.receipt), 7):
        mutated = bytearray(made.receipt)
        mutated[index] ^= 0x10
        result = judge(made, file, receipt=bytes(mutated))
        assert result.verdict in (Verdict.REJECTED, Verdict.MALFORMED), index


def test_require_names_the_first_fault() -> None:
    with pytest.raises(RejectedError) as caught:
        judge(archive(), demands=ReceiptPolicy(model_id="other")).require()
    assert (caught.value.code, caught.value.expected, caught.value.actual) == (
        "MODEL_ID_MISMATCH",
        "other",
        "minilm-l6-v2",
    )


def test_a_receipt_issued_by_another_key_is_refused() -> None:
    made: Any = archive()
    result = judge(made, receipt=issue(made.claims, OTHER_KEY))
    assert failing(result) == [("SIG", "SIG_FAILED")]
