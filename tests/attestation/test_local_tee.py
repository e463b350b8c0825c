"""The software TEE: its documents pass where a policy allows them and nowhere else (attestation section 3)."""

import dataclasses
import hashlib
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from ephemeralml.attestation.evidence import AppraisalTime, Format
from ephemeralml.attestation.fixes import VENDOR_UNDER_LOCAL_POLICY
from ephemeralml.attestation.local.authority import ROOT_CERTIFICATE, ROOT_KEY, Authority
from ephemeralml.attestation.local.certificates import make_root, name
from ephemeralml.attestation.local.documents import Fault
from ephemeralml.attestation.local.measure import extend, measure, package_digest, platform_name
from ephemeralml.attestation.nitro.document import parse
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import (
    ANY_SOFTWARE_ROOT,
    AWS_NITRO,
    AWS_NITRO_ROOT_SHA256,
    NO_ROOTS,
    SOFTWARE_COMMON_NAME,
    SOFTWARE_ORGANISATION,
    RootKind,
    TrustRoots,
    is_software_root,
)
from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.crypto.transcript import lp
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from tests.fakes.nitro import AT, FIELDS, PCRS, check, failures, policy, policy_document, row, workshop

LOCAL = workshop(RootKind.SOFTWARE)


class TestVerification:
    def test_passes_under_a_policy_that_allows_it(self) -> None:
        appraisal = check(kind=RootKind.SOFTWARE).run()
        assert failures(appraisal) == []
        verified = appraisal.require()
        assert (verified.format, verified.software) == (Format.LOCAL, True)
        assert verified.assurance is Assurance.DOCUMENT
        assert "WARN_SOFTWARE_TEE" in appraisal.warnings

    def test_wrong_registers_are_refused_like_anybodys(self) -> None:
        document = LOCAL.document(pcrs=PCRS | {0: b"\x01" * 48})
        assert failures(check(document, RootKind.SOFTWARE).run()) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]

    def test_a_policy_without_pins_reports_the_registers(self) -> None:
        unpinned = policy(RootKind.SOFTWARE, local=policy_document(RootKind.SOFTWARE)["local"] | {"allow": []})
        appraisal = check(kind=RootKind.SOFTWARE, policy=unpinned).run()
        assert appraisal.verdict is Verdict.VERIFIED
        assert row(appraisal, "N14").status is Status.SKIP
        assert "WARN_MEASUREMENT_PINNING_BYPASSED" in appraisal.warnings

    @pytest.mark.parametrize("declared", [Format.LOCAL, Format.NITRO])
    def test_ends_at_n5_under_the_production_policy(self, declared: Format) -> None:
        production = policy(nitro=policy_document()["nitro"] | {"roots": ["aws"]})
        appraisal = check(
            kind=RootKind.SOFTWARE,
            declared=declared,
            policy=production,
            roots=production.trust_roots(declared),
        ).run()
        assert failures(appraisal) == [
            ("N5", "NITRO_CERT_CHAIN_INVALID"),
            ("EVIDENCE_FORMAT", "EVIDENCE_FORMAT_REJECTED"),
        ]
        assert (appraisal.format, appraisal.software, appraisal.kind) == (Format.LOCAL, True, "local, software TEE")
        with pytest.raises(RejectedError, match=r"^the local evidence \(software TEE\) is rejected: N5 ") as caught:
            appraisal.require()
        assert caught.value.code == "NITRO_CERT_CHAIN_INVALID"
        assert "software TEE, which production evidence never is" in (caught.value.hint or "")

    @pytest.mark.parametrize("declared", [Format.LOCAL, Format.NITRO])
    def test_of_another_root_it_is_refused_at_n5_alone_and_called_what_it_is(self, declared: Format) -> None:
        roots = TrustRoots(RootKind.SOFTWARE, frozenset({b"\x05" * 32}))
        section = policy_document(RootKind.SOFTWARE, roots)["local"]
        other = policy(RootKind.SOFTWARE, local=section)
        case = check(kind=RootKind.SOFTWARE, declared=declared, policy=other, roots=other.trust_roots(declared))
        appraisal = case.run()
        assert failures(appraisal) == [("N5", "NITRO_CERT_CHAIN_INVALID")]
        assert row(appraisal, "EVIDENCE_FORMAT").detail == "local is allowed"
        assert (appraisal.format, appraisal.software) == (Format.LOCAL, True)
        assert appraisal.kind == "local, software TEE of another root"
        assert appraisal.assurance is Assurance.DOCUMENT
        assert "WARN_SOFTWARE_TEE" in appraisal.warnings
        with pytest.raises(RejectedError, match="software TEE of another root") as caught:
            appraisal.require()
        assert "give the policy that this deployment printed" in (caught.value.hint or "")

    def test_the_name_alone_decides_what_it_is_called_and_nothing_else(self) -> None:
        appraisal = check(kind=RootKind.SOFTWARE, roots=NO_ROOTS).run()
        assert appraisal.software
        assert appraisal.verdict is not Verdict.VERIFIED
        archived = check(
            kind=RootKind.SOFTWARE, policy=None, roots=AWS_NITRO, live=False, at=AppraisalTime.of_document()
        ).run()
        assert failures(archived) == [
            ("N5", "NITRO_CERT_CHAIN_INVALID"),
            ("EVIDENCE_FORMAT", "EVIDENCE_FORMAT_REJECTED"),
        ]
        assert archived.kind == "local, software TEE"
        assert "WARN_SOFTWARE_TEE" in archived.warnings

    def test_a_session_that_declares_nitro_for_it_is_refused(self) -> None:
        appraisal = check(kind=RootKind.SOFTWARE, declared=Format.NITRO).run()
        assert failures(appraisal) == [("FORMAT", "EVIDENCE_FORMAT_UNKNOWN")]

    def test_an_archive_is_recognised_from_its_bytes_alone(self) -> None:
        case = check(kind=RootKind.SOFTWARE, declared=Format.NITRO, live=False, at=AppraisalTime.of_document())
        appraisal = case.run()
        assert appraisal.format is Format.LOCAL
        assert appraisal.at.source == "local.timestamp"
        assert appraisal.verdict is Verdict.VERIFIED

    def test_without_a_policy_it_is_refused(self) -> None:
        appraisal = check(kind=RootKind.SOFTWARE, policy=None, live=False, at=AppraisalTime.of_document()).run()
        assert failures(appraisal) == [("EVIDENCE_FORMAT", "EVIDENCE_FORMAT_REJECTED")]

    def test_a_vendor_document_is_refused_under_a_local_policy(self) -> None:
        appraisal = check(policy=policy(RootKind.SOFTWARE), roots=LOCAL.roots).run()
        assert failures(appraisal)[0] == ("N5", "NITRO_CERT_CHAIN_INVALID")
        assert ("EVIDENCE_FORMAT", "EVIDENCE_FORMAT_REJECTED") in failures(appraisal)
        assert (appraisal.format, appraisal.software, appraisal.kind) == (Format.NITRO, False, "nitro")
        assert row(appraisal, "EVIDENCE_FORMAT").hint == VENDOR_UNDER_LOCAL_POLICY

    def test_assurance_stays_at_document_whatever_else_holds(self) -> None:
        lenient = dataclasses.replace(policy(RootKind.SOFTWARE), min_assurance=Assurance.TEE)
        appraisal = check(kind=RootKind.SOFTWARE, policy=lenient).run()
        assert appraisal.assurance is Assurance.DOCUMENT
        assert failures(appraisal) == [("MIN_ASSURANCE", "ASSURANCE_TOO_LOW")]


class TestAcceptLocal:
    def test_takes_any_software_root(self) -> None:
        accepted = Policy.accept_local()
        appraisal = check(kind=RootKind.SOFTWARE, policy=accepted, roots=accepted.trust_roots(Format.LOCAL)).run()
        assert appraisal.require().software
        assert appraisal.assurance is Assurance.DOCUMENT

    def test_takes_nothing_that_looks_like_a_vendors(self) -> None:
        accepted = Policy.accept_local()
        appraisal = check(policy=accepted, roots=accepted.trust_roots(Format.NITRO)).run()
        assert failures(appraisal)[0] == ("N5", "NITRO_CERT_CHAIN_INVALID")

    @pytest.mark.parametrize(
        "fault", [Fault.BAD_SIGNATURE, Fault.WRONG_NONCE, Fault.EXPIRED_LEAF, Fault.ZERO_PCR, Fault.STALE_TIME]
    )
    def test_still_checks_everything_else(self, fault: Fault) -> None:
        accepted = Policy.accept_local()
        document = LOCAL.authority.issue_document(FIELDS, AT, [fault])
        assert len(failures(check(document, RootKind.SOFTWARE, policy=accepted, roots=ANY_SOFTWARE_ROOT).run())) == 1


class TestRoots:
    def test_a_software_certificate_is_no_vendor_root(self) -> None:
        with pytest.raises(MalformedError) as caught:
            TrustRoots.of_certificates(RootKind.VENDOR, [LOCAL.root.der])
        assert caught.value.code == "POLICY_CONTRADICTION"

    @pytest.mark.parametrize(
        ("common_name", "organisation"), [(SOFTWARE_COMMON_NAME, "vendor"), ("vendor", SOFTWARE_ORGANISATION)]
    )
    def test_either_name_makes_a_software_root(self, common_name: str, organisation: str) -> None:
        der = make_root(AT, name(common_name, organisation)).der
        assert is_software_root(der)
        with pytest.raises(MalformedError):
            TrustRoots.of_certificates(RootKind.VENDOR, [der])

    def test_a_vendor_certificate_is_no_software_root(self) -> None:
        with pytest.raises(MalformedError):
            TrustRoots.of_certificates(RootKind.SOFTWARE, [workshop().root.der])

    def test_a_vendors_digest_is_no_software_root(self) -> None:
        with pytest.raises(MalformedError):
            TrustRoots(RootKind.SOFTWARE, frozenset({AWS_NITRO_ROOT_SHA256}))

    def test_a_vendor_set_cannot_be_open(self) -> None:
        with pytest.raises(MalformedError):
            TrustRoots(RootKind.VENDOR, frozenset(), any_software=True)

    def test_a_digest_has_32_bytes(self) -> None:
        with pytest.raises(MalformedError):
            TrustRoots(RootKind.VENDOR, frozenset({bytes(31)}))

    def test_the_empty_set_is_not_configured(self) -> None:
        assert not NO_ROOTS.configured
        assert AWS_NITRO.configured


class TestAuthority:
    def test_a_root_is_made_once_and_kept_private(self, tmp_path: Path) -> None:
        folder = tmp_path / "state" / "authority"
        made = Authority.create(folder, at=AT)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE((folder / file).stat().st_mode) for file in (ROOT_KEY, ROOT_CERTIFICATE)] == [0o600] * 2
        loaded = Authority.load(folder)
        assert loaded.fingerprint == made.fingerprint == hashlib.sha256(made.root_certificate).digest()
        assert loaded.id == made.id
        with pytest.raises(UnavailableError) as caught:
            Authority.create(folder)
        assert "already" in caught.value.message
        assert Authority.load(folder).fingerprint == made.fingerprint

    def test_documents_of_a_loaded_root_verify(self, tmp_path: Path) -> None:
        Authority.create(tmp_path / "a", at=AT)
        authority = Authority.load(tmp_path / "a")
        document = authority.issue_document(FIELDS, AT)
        accepted = policy(RootKind.SOFTWARE, roots=authority.roots)
        appraisal = check(document, RootKind.SOFTWARE, roots=authority.roots, policy=accepted).run()
        assert appraisal.verdict is Verdict.VERIFIED

    def test_a_key_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        Authority.create(tmp_path / "a")
        (tmp_path / "a" / ROOT_KEY).chmod(0o644)
        with pytest.raises(UnavailableError) as caught:
            Authority.load(tmp_path / "a")
        assert caught.value.hint is not None

    def test_absent_or_foreign_files(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError):
            Authority.load(tmp_path / "nowhere")
        Authority.create(tmp_path / "a")
        Authority.create(tmp_path / "b")
        (tmp_path / "a" / ROOT_CERTIFICATE).write_bytes((tmp_path / "b" / ROOT_CERTIFICATE).read_bytes())
        with pytest.raises(MalformedError):
            Authority.load(tmp_path / "a")
        (tmp_path / "b" / ROOT_KEY).write_bytes(b"no key")
        with pytest.raises(MalformedError):
            Authority.load(tmp_path / "b")

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UnavailableError):
            Authority.create(tmp_path / "file" / "authority")

    def test_certificates_have_the_lifetimes_of_real_ones(self) -> None:
        chain = parse(LOCAL.authority.issue_document(FIELDS, AT)).chain
        lifetimes = [item.not_valid_after_utc - item.not_valid_before_utc for item in chain]
        assert lifetimes[1:] == [timedelta(days=20), timedelta(days=6), timedelta(hours=24), timedelta(hours=3)]
        assert lifetimes[0] > timedelta(days=10_000)

    def test_intermediates_are_kept_while_they_last(self) -> None:
        authority = LOCAL.authority
        first, soon, later = (
            parse(authority.issue_document(FIELDS, AT + delay))
            for delay in (timedelta(), timedelta(hours=1), timedelta(hours=23))
        )
        assert first.cabundle == soon.cabundle
        assert first.certificate == soon.certificate
        assert later.cabundle != first.cabundle
        leaf = later.chain[-1]
        assert leaf.not_valid_before_utc <= AT + timedelta(hours=23) <= leaf.not_valid_after_utc

    def test_a_long_module_id_still_makes_a_certificate(self) -> None:
        fields = dataclasses.replace(FIELDS, module_id="i-" + "0" * 200)
        assert parse(LOCAL.authority.issue_document(fields, AT)).module_id == fields.module_id

    def test_says_nothing_secret_of_itself(self) -> None:
        authority = LOCAL.authority
        assert repr(authority) == f"Authority({authority.id})"


class TestMeasure:
    def test_formulae(self) -> None:
        registers = measure(b"config", "local-0123")
        sha384 = lambda data: hashlib.sha384(data).digest()  # noqa: E731
        assert registers == {
            0: extend(sha384(lp(package_digest(), b"config"))),
            1: extend(sha384(lp(platform_name().encode()))),
            2: extend(sha384(lp(b"config"))),
            3: extend(b"local"),
            4: extend(b"local-0123"),
        }
        assert extend(b"x") == sha384(bytes(48) + b"x")

    def test_known_answer_of_pcr4(self) -> None:
        assert extend(b"i-0de38b2b6853cc9e8").hex() == (
            "98bdf1bde262272618ccd73279e8ee00dd2c36974bd253de55413a25ceb2cd7221421207c2c09dde609f87481b6f6c94"
        )

    def test_package_digest_covers_names_and_contents_of_sources_alone(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "__pycache__").mkdir(parents=True)
        (tmp_path / "b.py").write_bytes(b"b")
        (tmp_path / "sub" / "a.py").write_bytes(b"a")
        (tmp_path / "py.typed").write_bytes(b"")
        (tmp_path / "sub" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
        (tmp_path / "notes.txt").write_bytes(b"notes")
        expected = hashlib.sha384()
        for path, content in ((b"b.py", b"b"), (b"py.typed", b""), (b"sub/a.py", b"a")):
            expected.update(lp(path) + hashlib.sha256(content).digest())
        assert package_digest(tmp_path) == expected.digest()
        (tmp_path / "b.py").write_bytes(b"c")
        assert package_digest(tmp_path) != expected.digest()

    def test_the_config_changes_pcr0_and_pcr2_only(self) -> None:
        first, second = measure(b"one", "id"), measure(b"two", "id")
        assert {index for index in first if first[index] != second[index]} == {0, 2}


@pytest.mark.parametrize("tag", [0x03, 0x05, 0x1C, 0x1E])
def test_a_root_whose_name_does_not_parse_is_nobodys(tag: int) -> None:
    named = b"\x0c\x13test.nitro-enclaves"
    root = workshop().root.der.replace(named, bytes([tag]) + named[1:])
    bundle = [root, *(ca.der for ca in workshop().cas)]
    for roots in (workshop().roots, ANY_SOFTWARE_ROOT):
        appraisal = check(workshop().document(cabundle=bundle), roots=roots).run()
        assert failures(appraisal)[0] in (
            ("N3", "NITRO_FIELD_INVALID:cabundle"),
            ("N5", "NITRO_CERT_CHAIN_INVALID"),
        )
