"""`ephemeralml attestation inspect`, as transcripts."""

from pathlib import Path

import pytest

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields, Fault
from tests.cli.runner import run
from tests.fakes.nitro import PCRS, RECEIPT_KEY, workshop


@pytest.fixture
def authority() -> Authority:
    return Authority.ephemeral()


def saved(folder: Path, authority: Authority, *faults: Fault) -> Path:
    fields = DocumentFields(f"{authority.id}-enc01", PCRS, RECEIPT_KEY)
    path = folder / "evidence.att"
    path.write_bytes(authority.issue_document(fields, clock.now(), faults))
    return path


def test_the_software_tee(tmp_path: Path, authority: Authority) -> None:
    result = run("attestation", "inspect", saved(tmp_path, authority))
    assert result.exit_code == 0
    assert "local, software TEE: not protected from this machine" in result.stdout
    assert f"receipt key             {RECEIPT_KEY.hex()}" in result.stdout
    assert result.stdout.endswith(
        "authentic: signed under a software root that anybody can make; a policy decides the rest\n"
    )
    assert "WARN_SOFTWARE_TEE" in result.stderr
    assert "✗" not in result.stdout
    assert "fix:" not in result.stdout
    assert "– EVIDENCE_FORMAT not asked: a software TEE is accepted only where a policy says so" in result.stdout


def test_json(tmp_path: Path, authority: Authority) -> None:
    document = run("attestation", "inspect", saved(tmp_path, authority), "--json").json
    assert document["schema"] == "ephemeralml.attestation/1"
    assert document["authentic"] is True
    assert document["software"] is True
    assert document["time_basis"] == "document"
    assert document["measurements"]["pcr0"] == PCRS[0].hex()
    assert "verdict" not in document


@pytest.mark.parametrize("name", ["pcr8", "debug"])
def test_genuine_documents(shared: Path, name: str) -> None:
    path = shared / "evidence" / f"nitro-evervault-2022-{name}.bin"
    document = run("attestation", "inspect", path, "--json")
    assert document.exit_code == 0
    assert document.json["authentic"] is True
    assert document.json["debug"] is (name == "debug")
    assert ("WARN_DEBUG_EVIDENCE" in document.stderr) is (name == "debug")
    assert not [row for row in document.json["checks"] if row["status"] == "fail"]
    assert document.json["facts"]["pcr4_is_of_instance_id"] == "yes"
    now = run("attestation", "inspect", path, "--at", "now")
    assert now.exit_code == 3
    assert now.stdout.endswith("not authentic: NITRO_CERT_TIME_INVALID\n")
    assert "fix: a Nitro certificate lives 3 hours" in now.stdout


@pytest.mark.parametrize(
    ("fault", "code", "exit_code"),
    [
        (Fault.BAD_SIGNATURE, "NITRO_DOC_SIG_INVALID", 3),
        (Fault.WRONG_ISSUER, "NITRO_CERT_CHAIN_INVALID", 3),
        (Fault.EXPIRED_LEAF, "NITRO_CERT_TIME_INVALID", 3),
        (Fault.EXTRA_FIELD, "NITRO_FIELD_INVALID:comment", 4),
        (Fault.OVERSIZE, "NITRO_DOC_PARSE_FAILED", 4),
    ],
)
def test_what_is_not_authentic(tmp_path: Path, authority: Authority, fault: Fault, code: str, exit_code: int) -> None:
    result = run("attestation", "inspect", saved(tmp_path, authority, fault))
    assert result.exit_code == exit_code
    assert result.stdout.endswith(f"not authentic: {code}\n")


def test_a_vendor_that_nobody_pinned(tmp_path: Path) -> None:
    (tmp_path / "other.att").write_bytes(workshop().document())
    result = run("attestation", "inspect", tmp_path / "other.att", "--json")
    assert result.exit_code == 3
    assert result.json["authentic"] is False


@pytest.mark.parametrize("content", [b"", b"garbage", bytes.fromhex("d28446a2012703183d")])
def test_what_is_no_evidence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    result = run("attestation", "inspect", tmp_path / "file")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: ")


def test_usage(tmp_path: Path) -> None:
    assert run("attestation", "inspect", tmp_path / "absent").exit_code == 2
    (tmp_path / "file").write_bytes(b"")
    assert run("attestation", "inspect", tmp_path / "file", "--at", "never").exit_code == 2
