"""`verify_evidence`: formats, time, gaps, conclusions (attestation section 1)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format, TimeBasis
from ephemeralml.attestation.nitro import verify as nitro_verify
from ephemeralml.attestation.recognise import evidence_of, recognise
from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.attestation.verify import verify_evidence, yielded_receipt_keys
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from tests.fakes.nitro import (
    AT,
    BINDING,
    EXPECTED,
    NONCE,
    RECEIPT_KEY,
    check,
    failures,
    policy,
    row,
    workshop,
)

VENDOR = workshop()
AIR_RECEIPT = bytes.fromhex("d28446a2012703183da0")
ARCHIVE = {"live": False, "at": AppraisalTime.of_document()}


class TestFormat:
    @pytest.mark.parametrize("tagged", [False, True])
    def test_nitro_by_its_first_bytes(self, tagged: bool) -> None:
        document = (b"\xd2" if tagged else b"") + VENDOR.document()
        assert recognise(document) is Format.NITRO
        assert evidence_of(document) == Evidence(Format.NITRO, document)

    def test_a_receipt_is_refused_by_name(self) -> None:
        with pytest.raises(MalformedError, match="AIR receipt") as caught:
            recognise(AIR_RECEIPT)
        assert caught.value.code == "EVIDENCE_FORMAT_UNKNOWN"
        appraisal = check(AIR_RECEIPT).run()
        assert failures(appraisal) == [("FORMAT", "EVIDENCE_FORMAT_UNKNOWN")]
        assert appraisal.verdict is Verdict.MALFORMED
        assert "AIR receipt" in row(appraisal, "FORMAT").detail

    @pytest.mark.parametrize("document", [b"", b"\x84", b"{}", b"eyJ.a.b", bytes(5_000)])
    def test_anything_else_is_unknown(self, document: bytes) -> None:
        with pytest.raises(MalformedError) as caught:
            recognise(document)
        assert caught.value.code == "EVIDENCE_FORMAT_UNKNOWN"

    @pytest.mark.parametrize("declared", [Format.TDX, Format.GCP_CS, Format.NVIDIA_GPU])
    def test_a_format_that_nobody_here_verifies(self, declared: Format) -> None:
        appraisal = check(declared=declared).run()
        assert failures(appraisal) == [("FORMAT", "EVIDENCE_FORMAT_UNKNOWN")]

    def test_a_session_that_declares_local_for_a_vendors_document_is_refused(self) -> None:
        assert failures(check(declared=Format.LOCAL).run()) == [("FORMAT", "EVIDENCE_FORMAT_UNKNOWN")]

    def test_an_archive_is_what_its_bytes_are(self) -> None:
        appraisal = check(declared=Format.LOCAL, **ARCHIVE).run()
        assert appraisal.format is Format.NITRO
        assert appraisal.verdict is Verdict.VERIFIED


class TestTime:
    def test_the_documents_own_time(self) -> None:
        appraisal = check(**ARCHIVE).run()
        assert appraisal.at == AppraisalTime(TimeBasis.DOCUMENT, AT, "nitro.timestamp")

    def test_a_given_time(self) -> None:
        appraisal = check(live=False, at=AppraisalTime.given(AT + timedelta(hours=2))).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.at.basis is TimeBasis.GIVEN

    def test_a_time_before_the_chain(self) -> None:
        appraisal = check(live=False, at=AppraisalTime.given(datetime(2025, 1, 1, tzinfo=UTC))).run()
        assert failures(appraisal)[0] == ("N7", "NITRO_CERT_TIME_INVALID")

    def test_a_live_session_is_judged_now_and_against_something(self) -> None:
        with pytest.raises(ValueError, match="live"):
            check(at=AppraisalTime.of_document()).run()
        with pytest.raises(ValueError, match="live"):
            check(expected=None).run()
        with pytest.raises(ValueError, match="live"):
            check(policy=None).run()

    def test_a_basis_without_its_instant(self) -> None:
        with pytest.raises(ValueError, match="instant"):
            check(live=False, at=AppraisalTime(TimeBasis.GIVEN, None, "argument")).run()


class TestGaps:
    @pytest.mark.parametrize(
        ("expected", "step"),
        [(ExpectedBinding(RECEIPT_KEY, None, NONCE), "N10"), (ExpectedBinding(RECEIPT_KEY, BINDING, None), "N11")],
    )
    def test_live_verification_needs_all_three(self, expected: ExpectedBinding, step: str) -> None:
        appraisal = check(expected=expected).run()
        assert row(appraisal, step).status is Status.SKIP
        assert appraisal.verdict is Verdict.INCOMPLETE
        assert appraisal.assurance is Assurance.PLATFORM
        with pytest.raises(IncompleteError):
            appraisal.require()

    def test_an_archive_needs_the_key_alone(self) -> None:
        appraisal = check(expected=ExpectedBinding(RECEIPT_KEY), **ARCHIVE).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.assurance is Assurance.TEE
        assert {"WARN_CHANNEL_BINDING_UNCHECKED", "WARN_NONCE_UNCHECKED"} <= set(appraisal.warnings)

    def test_an_archive_compares_what_it_is_given(self) -> None:
        appraisal = check(expected=ExpectedBinding(RECEIPT_KEY, b"\x01" * 32, b"other"), **ARCHIVE).run()
        assert [step for step, _ in failures(appraisal)] == ["N10", "N11"]

    def test_a_policy_that_requires_a_nonce_refuses_a_document_without(self) -> None:
        document = VENDOR.document(nonce=None)
        expected = ExpectedBinding(RECEIPT_KEY)
        assert failures(check(document, expected=expected, **ARCHIVE).run()) == [("N11", "NITRO_NONCE_MISMATCH")]
        lenient = policy(nonce="optional")
        assert failures(check(document, expected=expected, policy=lenient, **ARCHIVE).run()) == []

    def test_without_an_expectation_the_document_yields_the_key(self) -> None:
        appraisal = check(expected=None, **ARCHIVE).run()
        assert appraisal.receipt_key == RECEIPT_KEY
        assert "yields" in row(appraisal, "N9").detail
        assert yielded_receipt_keys(Evidence(Format.NITRO, VENDOR.document())) == (RECEIPT_KEY,)
        assert yielded_receipt_keys(Evidence(Format.NITRO, b"garbage")) == ()
        assert yielded_receipt_keys(Evidence(Format.TDX, b"garbage")) == ()

    def test_without_a_policy_assurance_stops_at_platform(self) -> None:
        appraisal = check(policy=None, **ARCHIVE).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.assurance is Assurance.PLATFORM
        skipped = {row.id for row in appraisal.rows if row.status is Status.SKIP}
        assert {"N14", "EVIDENCE_FORMAT", "POLICY_EXPIRY", "MIN_ASSURANCE"} <= skipped

    @pytest.mark.parametrize(("forgotten", "gaps"), [("_chain", ["N5", "N6", "N7", "N8"]), ("_revocation", ["N8"])])
    def test_a_step_that_a_verifier_forgets_is_a_gap(
        self, forgotten: str, gaps: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nitro_verify, forgotten, lambda *_: None)
        appraisal = check().run()
        assert appraisal.verdict is Verdict.INCOMPLETE
        assert [row.id for row in appraisal.rows if row.status is Status.SKIP and row.required][:4] == gaps
        with pytest.raises(IncompleteError):
            appraisal.require()

    def test_no_rows_are_no_verification(self) -> None:
        appraisal = replace(check().run(), rows=())
        assert appraisal.verdict is Verdict.INCOMPLETE
        with pytest.raises(IncompleteError, match="nothing was checked"):
            appraisal.require()


class TestConclusion:
    def test_an_expired_policy_is_a_row(self) -> None:
        accepted = policy()
        later = AppraisalTime.now(datetime(2027, 1, 1, tzinfo=UTC))
        appraisal = check(policy=accepted, at=later).run()
        assert ("POLICY_EXPIRY", "POLICY_EXPIRED") in failures(appraisal)

    def test_an_archive_is_refused_under_a_policy_that_had_expired_when_it_was_loaded(self) -> None:
        day = datetime(2026, 1, 11, tzinfo=UTC)
        expired = policy(now=day, allow_expired=True, expires_at="2026-01-10T00:00:00Z")
        appraisal = check(policy=expired, **ARCHIVE).run()
        assert failures(appraisal) == [("POLICY_EXPIRY", "POLICY_EXPIRED")]

    def test_the_module_id_is_of_another_instance(self) -> None:
        document = VENDOR.document(module_id="i-ffffffffffffffff0-enc0123456789abcdef")
        appraisal = check(document).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.facts["pcr4_is_of_instance_id"] == "no"
        assert "WARN_INSTANCE_ID_MISMATCH" in appraisal.warnings
        assert check().run().facts["pcr4_is_of_instance_id"] == "yes"

    def test_json_holds_every_row_with_its_values(self) -> None:
        document = check(expected=ExpectedBinding(b"\x55" * 32, BINDING, NONCE)).run().to_json()
        assert document["verdict"] == "rejected"
        assert document["time"] == "2026-01-15T12:00:00Z"
        mismatch = next(item for item in document["checks"] if item["id"] == "N9")
        assert mismatch["code"] == "NITRO_PUBKEY_BINDING_MISMATCH"
        assert (mismatch["expected"], mismatch["actual"]) == ("55" * 32, "22" * 32)

    def test_rejection_says_what_was_wanted(self) -> None:
        with pytest.raises(RejectedError) as caught:
            check(expected=ExpectedBinding(b"\x55" * 32, BINDING, NONCE)).run().require()
        assert (caught.value.expected, caught.value.actual) == ("55" * 32, "22" * 32)

    def test_roots_and_policy_come_as_arguments(self) -> None:
        accepted = policy()
        appraisal = verify_evidence(
            Evidence(Format.NITRO, VENDOR.document()),
            expected=EXPECTED,
            policy=accepted,
            roots=accepted.trust_roots(Format.NITRO),
            at=AppraisalTime.now(AT),
            live=True,
        )
        assert appraisal.require().assurance is Assurance.TEE
