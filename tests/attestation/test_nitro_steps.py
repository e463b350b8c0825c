"""Steps N1 to N14 of attestation section 2: each test breaks one step and no other."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.attestation.appraisal import EvidenceRejectedError
from ephemeralml.attestation.collateral import Collateral
from ephemeralml.attestation.evidence import AppraisalTime, ExpectedBinding, Format
from ephemeralml.attestation.local.certificates import Issuer, make_leaf
from ephemeralml.attestation.local.documents import Fault
from ephemeralml.attestation.nitro.document import MAX_TIMESTAMP_MS, parse
from ephemeralml.attestation.nitro.verify import STEPS
from ephemeralml.attestation.roots import AWS_NITRO, NO_ROOTS, RootKind, TrustRoots
from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.crypto import cbor, cose
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from tests.fakes import pki
from tests.fakes.nitro import (
    AT,
    BINDING,
    EXPECTED,
    FIELDS,
    NONCE,
    PCRS,
    RECEIPT_KEY,
    check,
    crl,
    entry,
    failures,
    policy,
    policy_document,
    row,
    workshop,
)

VENDOR = workshop()


def parts(document: bytes) -> list[Any]:
    return list(cbor.decode(document, max_bytes=32_768))


def reencoded(index: int, value: Any) -> bytes:
    items = parts(VENDOR.document())
    items[index] = value
    return cbor.encode(items)


class TestFaultless:
    def test_every_step_passes(self) -> None:
        appraisal = check().run()
        assert failures(appraisal) == []
        assert [row.id for row in appraisal.rows if row.status is Status.SKIP] == ["N8"]
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.assurance is Assurance.TEE
        assert appraisal.warnings == ("WARN_REVOCATION_UNCHECKED",)

    def test_rows_stand_in_the_order_of_the_specification(self) -> None:
        ids = [row.id for row in check().run().rows]
        assert ids == [
            "FORMAT",
            *(step for step, _ in STEPS),
            "EVIDENCE_FORMAT",
            "POLICY_EXPIRY",
            "MIN_ASSURANCE",
        ]

    def test_gives_the_verified_value(self) -> None:
        document = VENDOR.document()
        verified = check(document).run().require()
        assert verified.digest == hashlib.sha256(document).digest()
        assert verified.receipt_key == RECEIPT_KEY
        assert dict(verified.registers) == {f"pcr{index}": PCRS[index] for index in (0, 1, 2, 3, 4, 8)}
        assert (verified.format, verified.software, verified.debug) == (Format.NITRO, False, False)

    @pytest.mark.parametrize("fault", [Fault.TAGGED, Fault.INDEFINITE_MAP])
    def test_both_encodings_of_the_module_are_taken(self, fault: Fault) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [fault])
        assert check(document).run().verdict is Verdict.VERIFIED

    @pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
    def test_optional_fields_may_be_absent(self, name: str) -> None:
        document = VENDOR.document(**{name: ...})
        assert [step for step, _ in failures(check(document).run())] == [
            {"public_key": "N9", "user_data": "N10", "nonce": "N11"}[name]
        ]


class TestShape:
    @pytest.mark.parametrize(
        "document",
        [
            b"\x84\x44\xa1\x01\x38\x22",
            VENDOR.document() + b"\x00",
            VENDOR.document()[:-1],
            b"\xd1" + VENDOR.document(),
            b"\x83" + VENDOR.document()[1:],
            b"\x84\x44\xa1\x01\x38\x22" + b"\x81" * 100_000,
            VENDOR.document(user_data=bytes(33_000)),
            b"\x84\x44\xa1\x01\x38\x22\xa0\x5b" + (1 << 40).to_bytes(8, "big"),
            b"\x9f" + VENDOR.document()[1:] + b"\xff",
        ],
        ids=["cut", "trailing", "shortened", "tag 17", "three parts", "deep", "oversize", "huge length", "indefinite"],
    )
    def test_n1_not_one_cose_sign1(self, document: bytes) -> None:
        appraisal = check(document).run()
        assert failures(appraisal) == [("N1", "NITRO_DOC_PARSE_FAILED")]
        assert appraisal.verdict is Verdict.MALFORMED
        with pytest.raises(MalformedError) as caught:
            appraisal.require()
        assert caught.value.code == "NITRO_DOC_PARSE_FAILED"

    def test_n1_a_second_encoding_of_the_envelope(self) -> None:
        document = VENDOR.document()
        longer = document[:6] + b"\xb8\x00" + document[7:]
        assert document[6:7] == b"\xa0"
        assert failures(check(longer).run()) == [("N1", "NITRO_DOC_PARSE_FAILED")]

    def test_n1_oversize_fault(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.OVERSIZE])
        assert failures(check(document).run()) == [("N1", "NITRO_DOC_PARSE_FAILED")]

    @pytest.mark.parametrize(
        "document",
        [
            VENDOR.authority.issue_document(FIELDS, AT, [Fault.UNSIGNED]),
            reencoded(0, bytes.fromhex("a10126")),
            reencoded(0, bytes.fromhex("a2013822034131")),
            reencoded(0, b""),
            reencoded(1, {4: b"key"}),
            reencoded(3, bytes(95)),
            reencoded(3, bytes(97)),
            reencoded(3, bytes(64)),
        ],
        ids=["emulator", "ES256", "two headers", "no header", "unprotected", "95", "97", "64"],
    )
    def test_n2_not_es384_alone(self, document: bytes) -> None:
        assert failures(check(document).run()) == [("N2", "NITRO_DOC_UNSUPPORTED")]

    def test_later_rows_are_skipped(self) -> None:
        appraisal = check(VENDOR.document() + b"\x00").run()
        assert {row.status for row in appraisal.rows if row.id != "N1"} == {Status.SKIP}
        assert row(appraisal, "N4").detail == "not reached, N1 failed"
        assert appraisal.assurance is Assurance.NONE


LONG = "x" * 257
OVER_CERTIFICATE = VENDOR.leaf.der + bytes(1_024)


class TestFields:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("module_id", ...),
            ("module_id", ""),
            ("module_id", LONG),
            ("module_id", b"bytes"),
            ("digest", ...),
            ("digest", "SHA256"),
            ("timestamp", ...),
            ("timestamp", 0),
            ("timestamp", -1),
            ("timestamp", True),
            ("timestamp", MAX_TIMESTAMP_MS + 1),
            ("timestamp", "2026"),
            ("pcrs", ...),
            ("pcrs", {}),
            ("pcrs", {0: bytes(48), 1: bytes(48)}),
            ("pcrs", PCRS | {0: bytes(47)}),
            ("pcrs", PCRS | {32: bytes(48)}),
            ("pcrs", PCRS | {-1: bytes(48)}),
            ("pcrs", PCRS | {"0": bytes(48)}),
            ("pcrs", PCRS | {5: "text"}),
            ("pcrs", [bytes(48)] * 16),
            ("certificate", ...),
            ("certificate", b""),
            ("certificate", OVER_CERTIFICATE),
            ("certificate", b"\x30\x00"),
            ("certificate", VENDOR.leaf.der + b"\x00"),
            ("certificate", None),
            ("cabundle", ...),
            ("cabundle", []),
            ("cabundle", [VENDOR.root.der] * 9),
            ("cabundle", [b""]),
            ("cabundle", [VENDOR.root.der, b"\x30\x03\x02\x01\x00"]),
            ("cabundle", VENDOR.root.der),
            ("cabundle", [VENDOR.root.der, 5]),
            ("public_key", b""),
            ("public_key", bytes(1_025)),
            ("public_key", "text"),
            ("user_data", bytes(513)),
            ("user_data", 5),
            ("nonce", bytes(513)),
            ("nonce", False),
            ("comment", "more"),
        ],
    )
    def test_n3_a_field_is_not_as_it_must_be(self, name: str, value: Any) -> None:
        appraisal = check(VENDOR.document(**{name: value})).run()
        assert failures(appraisal) == [("N3", f"NITRO_FIELD_INVALID:{name}")]
        assert appraisal.verdict is Verdict.MALFORMED

    @pytest.mark.parametrize(("fault", "name"), [(Fault.MISSING_FIELD, "module_id"), (Fault.EXTRA_FIELD, "comment")])
    def test_n3_faults_of_the_authority(self, fault: Fault, name: str) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [fault])
        assert failures(check(document).run()) == [("N3", f"NITRO_FIELD_INVALID:{name}")]

    @pytest.mark.parametrize(
        "payload",
        [
            b"\x80",
            b"\xa1\x01\x02\x03",
            b"\xa2\x66nonce1\x00\x66nonce1\x00",
            b"\xbf" + cbor.encode("nonce") + b"\x40" + cbor.encode("nonce") + b"\x40\xff",
            b"\xbf",
            b"\x00" * 16_385,
        ],
        ids=["array", "trailing", "unknown twice", "duplicate", "unfinished", "over 16 KiB"],
    )
    def test_n3_the_payload_is_no_such_map(self, payload: bytes) -> None:
        assert failures(check(VENDOR.sign(payload)).run()) == [("N3", "NITRO_FIELD_INVALID:payload")]

    def test_n3_no_payload(self) -> None:
        assert failures(check(reencoded(2, None)).run()) == [("N3", "NITRO_FIELD_INVALID:payload")]
        assert failures(check(reencoded(2, b"")).run()) == [("N3", "NITRO_FIELD_INVALID:payload")]

    def test_n3_a_hostile_field_name_is_cut_and_escaped(self) -> None:
        appraisal = check(VENDOR.document(**{"\x1b[31m" + "é" * 100: 1})).run()
        code = failures(appraisal)[0][1]
        assert code is not None
        assert code.startswith("NITRO_FIELD_INVALID:\\x1b[31m\\xe9")
        assert code.isascii()

    @pytest.mark.parametrize(
        "changes",
        [
            {"module_id": "x"},
            {"module_id": "x" * 256},
            {"timestamp": 1},
            {"timestamp": MAX_TIMESTAMP_MS},
            {"pcrs": {index: bytes(48) for index in range(32)}},
            {"certificate": VENDOR.root.der},
            {"cabundle": [VENDOR.root.der]},
            {"cabundle": [VENDOR.root.der] * 8},
            {"public_key": b"x"},
            {"public_key": bytes(1_024)},
            {"user_data": b""},
            {"user_data": bytes(512)},
            {"nonce": b""},
            {"nonce": bytes(512)},
        ],
    )
    def test_bounds_are_inclusive(self, changes: dict[str, Any]) -> None:
        assert parse(VENDOR.document(**changes)).sign1.payload

    def test_the_smallest_payload_is_looked_into(self) -> None:
        assert failures(check(VENDOR.sign(b"\xa0")).run()) == [("N3", "NITRO_FIELD_INVALID:digest")]


class TestSignature:
    def test_n4_bad_signature(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.BAD_SIGNATURE])
        appraisal = check(document).run()
        assert failures(appraisal) == [("N4", "NITRO_DOC_SIG_INVALID")]
        assert appraisal.verdict is Verdict.REJECTED
        assert appraisal.assurance is Assurance.NONE
        with pytest.raises(RejectedError) as caught:
            appraisal.require()
        assert caught.value.code == "NITRO_DOC_SIG_INVALID"

    def test_n4_another_payload_under_the_signature(self) -> None:
        payload = cbor.encode(VENDOR.payload(nonce=bytes(32)))
        assert failures(check(reencoded(2, payload)).run()) == [("N4", "NITRO_DOC_SIG_INVALID")]

    def test_n4_the_payload_is_verified_as_received_and_not_re_encoded(self) -> None:
        items = parts(VENDOR.document())
        pairs = cbor.decode_wellformed(items[2], max_bytes=16_384, max_depth=8)
        other_order = b"\xbf" + b"".join(cbor.encode(k) + cbor.encode(v) for k, v in reversed(pairs.items)) + b"\xff"
        assert failures(check(reencoded(2, other_order)).run()) == [("N4", "NITRO_DOC_SIG_INVALID")]
        assert failures(check(VENDOR.sign(other_order)).run()) == []

    def test_n4_another_leaf_signed(self) -> None:
        other = make_leaf(VENDOR.cas[-1], "other", begin=AT, end=AT + timedelta(hours=3))
        payload = cbor.encode(VENDOR.payload())
        assert failures(check(VENDOR.with_leaf(other).sign(payload)).run()) == [("N4", "NITRO_DOC_SIG_INVALID")]

    @pytest.mark.parametrize("kind", ["p256", "rsa"])
    def test_n4_a_leaf_key_that_is_not_p384(self, kind: str) -> None:
        certificate = pki.issue(pki.leaf(f"leaf {kind}", kind=kind), pki.ca("issuer"))
        platform = VENDOR.with_leaf(Issuer(certificate, VENDOR.leaf.key))
        assert failures(check(platform.document(), platform=platform).run()) == [("N4", "NITRO_DOC_SIG_INVALID")]


class TestChain:
    def test_n5_other_root(self) -> None:
        appraisal = check(roots=AWS_NITRO).run()
        assert failures(appraisal) == [("N5", "NITRO_CERT_CHAIN_INVALID")]
        assert appraisal.assurance is Assurance.DOCUMENT
        assert [row(appraisal, step).status for step in ("N6", "N7", "N8")] == [Status.SKIP] * 3
        assert row(appraisal, "N9").status is Status.PASS

    def test_n5_no_root_is_a_gap_and_later_steps_still_run(self) -> None:
        appraisal = check(roots=NO_ROOTS).run()
        assert failures(appraisal) == []
        assert row(appraisal, "N5").code == "TRUST_ANCHOR_MISSING"
        assert row(appraisal, "N6").status is Status.PASS
        assert appraisal.verdict is Verdict.INCOMPLETE
        assert appraisal.assurance is Assurance.DOCUMENT
        with pytest.raises(IncompleteError) as caught:
            appraisal.require()
        assert caught.value.code == "TRUST_ANCHOR_MISSING"

    def test_n6_wrong_issuer(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.WRONG_ISSUER])
        appraisal = check(document).run()
        assert failures(appraisal) == [("N6", "NITRO_CERT_CHAIN_INVALID")]
        assert "leaf" in row(appraisal, "N6").detail

    @pytest.mark.parametrize(
        ("index", "change"),
        [
            (1, {"signed_by": "attacker"}),
            (2, {"ca": False}),
            (2, {"constraints_critical": False}),
            (2, {"key_usage": pki.usage(digital_signature=True)}),
            (1, {"path_length": 1}),
            (3, {"extra": (("1.2.3.4", b"\x05\x00", True),)}),
            (4, {"ca": True}),
            (4, {"key_usage": pki.usage(cert_sign=True)}),
            (4, {"key_usage": None}),
            (4, {"hash": pki.hashes.SHA256()}),
            (3, {"kind": "p256"}),
        ],
    )
    def test_n6_a_certificate_may_not_issue_the_next(self, index: int, change: dict[str, Any]) -> None:
        specs = pki.nitro_like()
        specs[index] = specs[index].but(**change)
        leaf_key = pki.key(specs[-1].subject, "p384")
        assert isinstance(leaf_key, ec.EllipticCurvePrivateKey)
        platform = VENDOR.with_chain(pki.chain(specs), leaf_key)
        appraisal = check(platform.document(), platform=platform).run()
        assert failures(appraisal) == [("N6", "NITRO_CERT_CHAIN_INVALID")]

    def test_n6_the_leaf_is_in_the_bundle(self) -> None:
        bundle = [VENDOR.root.der, *(ca.der for ca in VENDOR.cas), VENDOR.leaf.der]
        assert failures(check(VENDOR.document(cabundle=bundle)).run()) == [("N6", "NITRO_CERT_CHAIN_INVALID")]

    def test_n6_a_link_is_missing(self) -> None:
        bundle = [VENDOR.root.der, *(ca.der for ca in VENDOR.cas[1:])]
        assert failures(check(VENDOR.document(cabundle=bundle)).run()) == [("N6", "NITRO_CERT_CHAIN_INVALID")]

    def test_n6_a_remembered_link_does_not_vouch_for_another_chain(self) -> None:
        roots = VENDOR.roots
        assert check(roots=roots).run().verdict is Verdict.VERIFIED
        assert len(roots.cache) == 4
        stranger = VENDOR.authority.issue_document(FIELDS, AT, [Fault.WRONG_ISSUER])
        assert failures(check(stranger, roots=roots).run()) == [("N6", "NITRO_CERT_CHAIN_INVALID")]

    def test_n7_expired_leaf(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.EXPIRED_LEAF])
        appraisal = check(document).run()
        assert failures(appraisal) == [("N7", "NITRO_CERT_TIME_INVALID")]
        assert row(appraisal, "N7").actual.startswith("2026-01-15T12:00:00")

    def test_n7_a_cached_chain_is_still_judged_by_the_time(self) -> None:
        roots = VENDOR.roots
        assert check(roots=roots).run().verdict is Verdict.VERIFIED
        later = check(roots=roots, live=False, at=AppraisalTime.given(AT + timedelta(days=1)))
        assert failures(later.run()) == [("N7", "NITRO_CERT_TIME_INVALID")]


class TestRevocation:
    def required(self) -> Any:
        section = policy_document()["nitro"] | {"revocation": "required"}
        return policy(nitro=section)

    def lists(self, *revoked: int, **changes: Any) -> Collateral:
        issuers = (VENDOR.root, *VENDOR.cas)
        return Collateral(dict(crl(issuer, revoked, **changes) for issuer in issuers))

    def test_n8_required_and_clean(self) -> None:
        appraisal = check(policy=self.required(), collateral=self.lists()).run()
        assert row(appraisal, "N8").status is Status.PASS
        assert appraisal.assurance is Assurance.TEE

    @pytest.mark.parametrize("index", [0, 1, 2, 3])
    def test_n8_a_certificate_is_revoked(self, index: int) -> None:
        serial = [*VENDOR.cas, VENDOR.leaf][index].certificate.serial_number
        for accepted in (self.required(), policy()):
            appraisal = check(policy=accepted, collateral=self.lists(serial)).run()
            assert failures(appraisal) == [("N8", "NITRO_CERT_REVOKED")]

    def test_n8_required_and_no_lists(self) -> None:
        appraisal = check(policy=self.required()).run()
        assert row(appraisal, "N8").code == "REVOCATION_CHECK_UNAVAILABLE"
        assert appraisal.verdict is Verdict.INCOMPLETE

    def test_n8_a_revocation_is_not_hidden_behind_a_missing_list(self) -> None:
        leaf_issuer = VENDOR.cas[-1]
        only = Collateral(dict([crl(leaf_issuer, [VENDOR.leaf.certificate.serial_number])]))
        assert failures(check(policy=self.required(), collateral=only).run()) == [("N8", "NITRO_CERT_REVOKED")]

    @pytest.mark.parametrize(
        "changes",
        [{"at": AT - timedelta(days=1)}, {"at": AT + timedelta(days=1)}, {"key": VENDOR.leaf.key}],
        ids=["old", "early", "forged"],
    )
    def test_n8_a_list_that_does_not_count(self, changes: dict[str, Any]) -> None:
        appraisal = check(policy=self.required(), collateral=self.lists(**changes)).run()
        assert row(appraisal, "N8").code == "REVOCATION_CHECK_UNAVAILABLE"
        assert appraisal.verdict is Verdict.INCOMPLETE

    def test_n8_a_later_revocation_is_a_warning_with_its_date(self) -> None:
        newer = self.lists(VENDOR.leaf.certificate.serial_number, at=AT + timedelta(days=1))
        archive = {"live": False, "at": AppraisalTime.of_document()}
        appraisal = check(collateral=newer, **archive).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert "WARN_REVOKED_LATER:2026-01-16T11:59:00Z" in appraisal.warnings
        required = check(collateral=newer, policy=self.required(), **archive).run()
        assert required.verdict is Verdict.INCOMPLETE

    def test_n8_a_later_list_still_proves_an_earlier_revocation(self) -> None:
        name, der = crl(VENDOR.cas[-1], [VENDOR.leaf.certificate.serial_number], at=AT + timedelta(seconds=30))
        later = check(collateral=Collateral({name: der}), live=False, at=AppraisalTime.of_document())
        assert failures(later.run()) == [("N8", "NITRO_CERT_REVOKED")]

    @pytest.mark.parametrize(
        ("seconds", "verdict"),
        [(-3_601, "incomplete"), (-3_600, "verified"), (3_600, "verified"), (3_601, "incomplete")],
    )
    def test_n8_a_list_counts_from_its_first_to_its_last_second(self, seconds: int, verdict: str) -> None:
        lists = self.lists(at=AT + timedelta(seconds=seconds))
        assert check(policy=self.required(), collateral=lists).run().verdict.value == verdict

    def test_n8_revoked_at_the_very_second(self) -> None:
        lists = self.lists(VENDOR.leaf.certificate.serial_number, since=timedelta())
        assert failures(check(collateral=lists).run()) == [("N8", "NITRO_CERT_REVOKED")]

    def test_n8_garbage_is_no_list(self) -> None:
        name, _ = crl(VENDOR.root)
        for der in (b"\x30\x03garbage", b"", bytes(4 * 1024 * 1024 + 1)):
            appraisal = check(policy=self.required(), collateral=Collateral({name: der})).run()
            assert appraisal.verdict is Verdict.INCOMPLETE


class TestBinding:
    def test_n9_another_receipt_key(self) -> None:
        expected = ExpectedBinding(b"\x55" * 32, BINDING, NONCE)
        appraisal = check(expected=expected).run()
        assert failures(appraisal) == [("N9", "NITRO_PUBKEY_BINDING_MISMATCH")]
        assert (row(appraisal, "N9").expected, row(appraisal, "N9").actual) == ("55" * 32, "22" * 32)
        assert appraisal.receipt_key is None

    @pytest.mark.parametrize("value", [None, RECEIPT_KEY + b"\x00", RECEIPT_KEY[:31], bytes(294)])
    def test_n9_a_document_made_for_another_purpose(self, value: bytes | None) -> None:
        appraisal = check(VENDOR.document(public_key=value)).run()
        assert failures(appraisal) == [("N9", "NITRO_PUBKEY_BINDING_MISMATCH")]

    def test_n10_another_session(self) -> None:
        expected = ExpectedBinding(RECEIPT_KEY, b"\x45" * 32, NONCE)
        assert failures(check(expected=expected).run()) == [("N10", "NITRO_USERDATA_BINDING_MISMATCH")]

    def test_n11_another_nonce(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.WRONG_NONCE])
        assert failures(check(document).run()) == [("N11", "NITRO_NONCE_MISMATCH")]

    def test_n11_a_prefix_is_not_the_nonce(self) -> None:
        document = VENDOR.document(nonce=NONCE[:16])
        assert failures(check(document).run()) == [("N11", "NITRO_NONCE_MISMATCH")]

    def test_every_mismatch_is_reported(self) -> None:
        other = ExpectedBinding(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)
        appraisal = check(expected=other).run()
        assert [step for step, _ in failures(appraisal)] == ["N9", "N10", "N11"]
        with pytest.raises(EvidenceRejectedError) as caught:
            appraisal.require()
        assert caught.value.code == "NITRO_PUBKEY_BINDING_MISMATCH"
        assert "NITRO_NONCE_MISMATCH" in caught.value.message
        assert caught.value.appraisal is appraisal


class TestFreshness:
    def test_n12_stale(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.STALE_TIME])
        assert failures(check(document).run()) == [("N12", "NITRO_DOC_STALE")]

    def test_n12_ahead(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.FUTURE_TIME])
        assert failures(check(document).run()) == [("N12", "NITRO_DOC_TIME_INVALID")]

    @pytest.mark.parametrize(
        ("milliseconds", "code"),
        [(-300_000, None), (-300_001, "NITRO_DOC_STALE"), (60_000, None), (60_001, "NITRO_DOC_TIME_INVALID")],
    )
    def test_n12_bounds_are_inclusive(self, milliseconds: int, code: str | None) -> None:
        document = VENDOR.document(timestamp=int(AT.timestamp()) * 1000 + milliseconds)
        assert failures(check(document).run()) == ([("N12", code)] if code else [])

    def test_n12_limits_are_the_policys(self) -> None:
        document = VENDOR.document(timestamp=int(AT.timestamp()) * 1000 - 20_000)
        assert failures(check(document, policy=policy(max_age_seconds=19)).run()) == [("N12", "NITRO_DOC_STALE")]
        assert failures(check(document, policy=policy(max_age_seconds=20)).run()) == []

    def test_n12_an_archive_is_not_judged_by_age(self) -> None:
        old = check(live=False, at=AppraisalTime.of_document()).run()
        assert row(old, "N12").status is Status.SKIP
        assert old.verdict is Verdict.VERIFIED


class TestAccepted:
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_n13_each_of_the_three_counts(self, index: int) -> None:
        pcrs = PCRS | {index: bytes(48)}
        fitting = {"roots": policy_document()["nitro"]["roots"], "allow": [entry(indices=(8,), signer_only=True)]}
        appraisal = check(VENDOR.document(pcrs=pcrs), policy=policy(nitro=fitting)).run()
        assert failures(appraisal) == [("N13", "NITRO_DEBUG_REJECTED")]
        assert row(appraisal, "N13").actual == f"PCR{index} zero"

    def test_n13_a_debug_document_leaves_pcr3_and_pcr4_real(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.ZERO_PCR])
        appraisal = check(document).run()
        assert ("N13", "NITRO_DEBUG_REJECTED") in failures(appraisal)
        assert appraisal.debug
        assert any(appraisal.registers["pcr4"])

    def test_n13_is_strict_without_a_policy(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.ZERO_PCR])
        assert failures(check(document, policy=None, live=False, at=AppraisalTime.of_document()).run()) == [
            ("N13", "NITRO_DEBUG_REJECTED")
        ]

    def test_n13_evaluation_only_stops_at_platform(self) -> None:
        document = VENDOR.authority.issue_document(FIELDS, AT, [Fault.ZERO_PCR])
        lenient = policy(debug="evaluation-only", security_modes=["evaluation"], min_assurance="platform")
        appraisal = check(document, policy=lenient).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert appraisal.assurance is Assurance.PLATFORM
        assert "WARN_DEBUG_EVIDENCE" in appraisal.warnings

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_n14_one_register_differs(self, index: int) -> None:
        document = VENDOR.document(pcrs=PCRS | {index: b"\xee" * 48})
        appraisal = check(document).run()
        assert failures(appraisal) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]
        mismatch = row(appraisal, "N14")
        assert f"pcr{index}" in mismatch.detail
        assert mismatch.actual == "eeeeeeeeeeeeeeee…eeeeeeee"
        with pytest.raises(RejectedError, match=rf"pcr{index} is not .* \(wanted a.*, found ee.*\)") as caught:
            appraisal.require()
        assert "enclave measure" in (caught.value.hint or "")

    def test_n14_a_policy_made_without_pins(self) -> None:
        from dataclasses import replace

        section = replace(policy().sections[Format.NITRO], allow=())
        unpinned = replace(policy(), sections={Format.NITRO: section})
        assert failures(check(policy=unpinned).run()) == [("N14", "POLICY_MEASUREMENT_PINNING_DISABLED")]


class TestRoots:
    def test_a_vendor_root_that_bears_the_software_name_is_refused_when_met(self) -> None:
        local = workshop(RootKind.SOFTWARE)
        pinned_by_mistake = TrustRoots(RootKind.VENDOR, local.roots.digests)
        appraisal = check(local.document(), platform=local, roots=pinned_by_mistake, policy=policy()).run()
        assert failures(appraisal)[0] == ("N5", "NITRO_CERT_CHAIN_INVALID")

    def test_expectation_is_untouched_by_cose_tag(self) -> None:
        tagged = VENDOR.sign(cbor.encode(VENDOR.payload()), tagged=True)
        assert cose.parse(tagged, max_bytes=32_768).tagged
        assert check(tagged, expected=EXPECTED).run().verdict is Verdict.VERIFIED
