"""`ephemeralml policy`: init, sign, show, check, as transcripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields, Fault
from ephemeralml.attestation.local.measure import extend
from ephemeralml.attestation.policy import Policy
from ephemeralml.crypto.keys import PrivateKey
from tests.cli.runner import Result, run
from tests.fakes.nitro import BINDING, NONCE, PCRS, RECEIPT_KEY, entry, policy_bytes, policy_document

KEY = PrivateKey.from_seed(b"\x07" * 32)
PCR_OPTIONS = [part for index in (0, 1, 2) for part in ("--pcr", f"{index}={PCRS[index].hex()}")]
AWS = {"roots": ["aws"], "allow": [entry()]}
INIT = ["policy", "init", "--policy-id", "acme", "--model", "minilm-l6-v2@1.0.0", "--out", "policy.json"]


@pytest.fixture
def authority() -> Authority:
    return Authority.ephemeral()


def document(authority: Authority, *faults: Fault) -> bytes:
    fields = DocumentFields(f"{authority.id}-enc01", PCRS, RECEIPT_KEY, BINDING, NONCE)
    return authority.issue_document(fields, clock.now(), faults)


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    (tmp_path / "key.pem").write_bytes(KEY.to_pem())
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "evidence.att").write_bytes(document(authority))
    return tmp_path


def measured_locally(folder: Path, authority: Authority, **changes: object) -> None:
    """Write what `enclave measure` prints for a software TEE, with *changes*; None leaves a field out."""
    fields: dict[str, object] = {"attester": "local", "root": f"sha256:{authority.fingerprint.hex()}"}
    registers: dict[str, object] = {f"pcr{index}": PCRS[index].hex() for index in (0, 1, 2)}
    for name, value in changes.items():
        (registers if name.startswith("pcr") else fields)[name] = value
    said = {name: value for name, value in fields.items() if value is not None}
    (folder / "measurements.json").write_text(json.dumps({**said, "measurements": registers}))


def ok(folder: Path, *arguments: object) -> Result:
    result = run(*arguments, cwd=folder)
    assert result.exit_code == 0, result.stderr
    return result


def refused(code: int, folder: Path, *arguments: object) -> Result:
    before = sorted(path.name for path in folder.iterdir())
    result = run(*arguments, cwd=folder)
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert sorted(path.name for path in folder.iterdir()) == before, "a refused command left a file behind"
    return result


class TestInit:
    def test_from_registers(self, folder: Path) -> None:
        result = ok(folder, *INIT, *PCR_OPTIONS, "--publisher-key", KEY.public, "--name", "runtime 1.0.0")
        assert "policy      acme version 1" in result.stdout
        accepted = Policy.load(folder / "policy.json")
        assert accepted.nitro is not None
        assert accepted.nitro.allow[0].name == "runtime 1.0.0"
        assert accepted.nitro.allow[0].registers == {f"pcr{index}": PCRS[index] for index in (0, 1, 2)}
        assert accepted.min_assurance.label == "tee"
        assert accepted.models.publisher_keys[0].raw == KEY.public.raw

    def test_from_what_measure_or_describe_printed(self, folder: Path) -> None:
        registers = {f"pcr{index}": PCRS[index].hex() for index in (0, 1, 2)} | {"pcr8": "00" * 48}
        (folder / "measurements.json").write_text(json.dumps({"schema": "x", "measurements": registers}))
        ok(folder, *INIT, "--measurements", "measurements.json")
        accepted = Policy.load(folder / "policy.json")
        assert accepted.nitro is not None
        assert set(accepted.nitro.allow[0].registers) == {"pcr0", "pcr1", "pcr2"}

    def test_what_the_software_tee_measured_makes_a_policy_for_it_alone(
        self, folder: Path, authority: Authority
    ) -> None:
        measured_locally(folder, authority)
        result = ok(folder, *INIT, "--measurements", "measurements.json")
        assert "warning: a policy for a software TEE: it proves nothing about hardware" in result.stderr
        accepted = Policy.load(folder / "policy.json")
        assert accepted.allow_local
        assert accepted.nitro is None
        assert accepted.local is not None
        assert accepted.local.roots.digests == {authority.fingerprint}
        assert accepted.local.allow[0].registers == {f"pcr{index}": PCRS[index] for index in (0, 1, 2)}

    def test_registers_give_the_software_tee_away(self, folder: Path, authority: Authority) -> None:
        """A document that does not say who measured is no way around the rule."""
        measured_locally(folder, authority, attester=None, root=None, pcr3=extend(b"local").hex())
        assert "does not name its root" in refused(2, folder, *INIT, "--measurements", "measurements.json").stderr
        root = f"sha256:{authority.fingerprint.hex()}"
        ok(folder, *INIT, "--measurements", "measurements.json", "--root", root)
        assert Policy.load(folder / "policy.json").allow_local
        measured_locally(folder, authority, attester="nsm", root=None, pcr3=extend(b"local").hex())
        refused(4, folder, *INIT, "--measurements", "measurements.json", "--force")

    @pytest.mark.parametrize("extra", [[], ["--local"]])
    def test_a_root_that_the_measurements_do_not_name(
        self, folder: Path, authority: Authority, extra: list[str]
    ) -> None:
        measured_locally(folder, authority, root=None)
        arguments = [*INIT, "--measurements", "measurements.json", *extra]
        assert "enclave measure --authority" in refused(2, folder, *arguments).stderr
        ok(folder, *arguments, "--root", f"sha256:{authority.fingerprint.hex()}")
        accepted = Policy.load(folder / "policy.json")
        assert accepted.local is not None
        assert accepted.local.roots.digests == {authority.fingerprint}

    def test_a_root_that_the_measurements_contradict(self, folder: Path, authority: Authority) -> None:
        measured_locally(folder, authority)
        arguments = [*INIT, "--measurements", "measurements.json", "--root"]
        refused(2, folder, *arguments, "sha256:" + "ab" * 32)
        ok(folder, *arguments, f"sha256:{authority.fingerprint.hex()}")

    def test_what_hardware_measured_makes_no_local_policy(self, folder: Path, authority: Authority) -> None:
        measured_locally(folder, authority, attester="nsm", root=None)
        root = f"sha256:{authority.fingerprint.hex()}"
        refused(2, folder, *INIT, "--measurements", "measurements.json", "--local", "--root", root)
        refused(2, folder, *INIT, "--measurements", "measurements.json", "--root", root)
        result = ok(folder, *INIT, "--measurements", "measurements.json")
        assert "software TEE" not in result.stderr
        assert not Policy.load(folder / "policy.json").allow_local

    def test_local_for_a_document_that_does_not_say(self, folder: Path, authority: Authority) -> None:
        measured_locally(folder, authority, attester=None, root=None)
        root = f"sha256:{authority.fingerprint.hex()}"
        ok(folder, *INIT, "--measurements", "measurements.json", "--local", "--root", root)
        assert Policy.load(folder / "policy.json").allow_local

    @pytest.mark.parametrize(
        "changes", [{"attester": "tpm"}, {"attester": 1}, {"root": "ab" * 32}, {"root": 7}, {"root": "sha256:AB"}]
    )
    def test_measurements_that_say_something_odd(
        self, folder: Path, authority: Authority, changes: dict[str, Any]
    ) -> None:
        measured_locally(folder, authority, **changes)
        refused(4, folder, *INIT, "--measurements", "measurements.json")

    def test_too_few_registers_are_told(self, folder: Path, authority: Authority) -> None:
        result = refused(2, folder, *INIT, *PCR_OPTIONS[:2])
        assert "pcr0, pcr1 and pcr2 are needed, and --pcr names pcr0" in result.stderr
        assert "hint: add pcr1, pcr2; " in result.stderr
        refused(2, folder, *INIT, *PCR_OPTIONS[:2], "--pcr", f"8={PCRS[8].hex()}")
        measured_locally(folder, authority, pcr0="00" * 48, pcr1="00" * 48, pcr2="00" * 48)
        result = refused(2, folder, *INIT, "--measurements", "measurements.json")
        assert "'measurements.json' has none that is not zero" in result.stderr

    def test_from_evidence_of_the_software_tee(self, folder: Path, authority: Authority) -> None:
        result = ok(folder, *INIT, "--evidence", "evidence.att")
        assert "compare them with your own build" in result.stderr
        accepted = Policy.load(folder / "policy.json")
        assert accepted.allow_local
        assert accepted.local is not None
        assert accepted.local.roots.digests == {authority.fingerprint}
        assert accepted.security_modes == ("evaluation",)

    def test_for_a_local_root_without_pins(self, folder: Path, authority: Authority) -> None:
        ok(folder, *INIT, "--local", "--root", f"sha256:{authority.fingerprint.hex()}")
        accepted = Policy.load(folder / "policy.json")
        assert accepted.local is not None
        assert accepted.local.allow == ()

    def test_for_one_signer(self, folder: Path) -> None:
        ok(folder, *INIT, "--pcr", f"8={PCRS[8].hex()}")
        accepted = json.loads((folder / "policy.json").read_bytes())
        assert accepted["nitro"]["allow"][0]["signer_only"] is True

    def test_json_is_one_document(self, folder: Path) -> None:
        summary = ok(folder, *INIT, *PCR_OPTIONS, "--valid-days", 7, "--version", 3, "--json").json
        assert summary["schema"] == "ephemeralml.policy-summary/1"
        assert (summary["policy_id"], summary["version"], summary["file"]) == ("acme", 3, "policy.json")

    def test_a_model_with_its_hash(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS, "--model", f"other@2.0.0-rc.1={'5a' * 32}")
        models = json.loads((folder / "policy.json").read_bytes())["models"]["allow"]
        assert models[1] == {
            "model_id": "other",
            "min_version": "2.0.0-rc.1",
            "model_hash": "5a" * 32,
            "scheme": "sha256-manifest",
        }

    @pytest.mark.parametrize(
        "arguments",
        [
            INIT,
            [*INIT, *PCR_OPTIONS[:4]],
            [*INIT, *PCR_OPTIONS, "--evidence", "evidence.att"],
            [*INIT, *PCR_OPTIONS, *PCR_OPTIONS[:2]],
            [*INIT, *PCR_OPTIONS[:4], "--pcr", "2=" + "00" * 48],
            [*INIT, "--pcr", "5=" + "ab" * 48],
            [*INIT, "--pcr", "0=" + "AB" * 48],
            [*INIT, *PCR_OPTIONS, "--model", "@1.0.0"],
            [*INIT, *PCR_OPTIONS, "--model", "m@latest"],
            [*INIT, *PCR_OPTIONS, "--root", "sha256:" + "ab" * 32],
            [*INIT, "--local"],
            [*INIT, "--evidence", "evidence.att", "--root", "sha256:" + "ab" * 32],
            [*INIT, "--local", "--root", "ab" * 32],
            [*INIT, "--evidence", "absent"],
            [*INIT, "--measurements", "absent"],
            [*INIT, *PCR_OPTIONS, "--publisher-key", "absent"],
            [*INIT, *PCR_OPTIONS, "--publisher-key", "key.pem"],
            [*INIT[:-1], "absent/policy.json", *PCR_OPTIONS],
            ["policy", "init", "--policy-id", "acme", "--out", "policy.json", *PCR_OPTIONS],
        ],
    )
    def test_options_that_cannot_be_meant(self, folder: Path, arguments: list[str]) -> None:
        refused(2, folder, *arguments)

    def test_evidence_that_is_not_authentic(self, folder: Path, authority: Authority) -> None:
        (folder / "evidence.att").write_bytes(document(authority, Fault.BAD_SIGNATURE))
        result = refused(3, folder, *INIT, "--evidence", "evidence.att")
        assert "N4" in result.stderr

    @pytest.mark.parametrize("content", [b"", b"not evidence", b"{}"])
    def test_files_that_are_something_else(self, folder: Path, content: bytes) -> None:
        (folder / "evidence.att").write_bytes(content)
        refused(4, folder, *INIT, "--evidence", "evidence.att")
        refused(4, folder, *INIT, "--measurements", "evidence.att")

    def test_nothing_is_overwritten_without_force(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        before = (folder / "policy.json").read_bytes()
        refused(2, folder, *INIT, *PCR_OPTIONS)
        assert (folder / "policy.json").read_bytes() == before
        ok(folder, *INIT, *PCR_OPTIONS, "--version", 2, "--force")
        assert Policy.load(folder / "policy.json").version == 2


class TestSignAndShow:
    def test_the_whole_way(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        signed = ok(folder, "policy", "sign", "policy.json", "--key", "key.pem", "--out", "signed.json", "--json").json
        assert signed["signed_by"] == str(KEY.public)
        shown = ok(folder, "policy", "show", "signed.json", "--policy-key", KEY.public, "--json").json
        assert shown["signed_by"] == str(KEY.public)
        assert shown["digest"] == signed["digest"]
        assert shown["sections"]["nitro"]["allow"][0]["registers"]["pcr0"] == PCRS[0].hex()
        assert shown["warnings"] == ["WARN_MODEL_UNPINNED"]

    def test_text(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        shown = ok(folder, "policy", "show", "policy.json")
        assert "signed by   nobody" in shown.stdout
        assert f"    pcr2  {PCRS[2].hex()}" in shown.stdout
        assert "WARN_POLICY_UNSIGNED" in shown.stderr

    def test_a_signed_policy_asks_for_its_key(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        ok(folder, "policy", "sign", "policy.json", "--key", "key.pem", "--out", "signed.json")
        assert "hint: give --policy-key" in refused(6, folder, "policy", "show", "signed.json").stderr
        other = PrivateKey.from_seed(bytes(32)).public
        refused(3, folder, "policy", "show", "signed.json", "--policy-key", other)
        refused(3, folder, "policy", "show", "policy.json", "--policy-key", KEY.public)

    def test_an_expired_policy_can_be_looked_at_and_not_signed(self, folder: Path) -> None:
        old = policy_document(expires_at="2026-01-02T00:00:00Z", nitro=AWS)
        (folder / "old.json").write_bytes(policy_bytes(old))
        assert "EXPIRED" in ok(folder, "policy", "show", "old.json").stdout
        refused(3, folder, "policy", "sign", "old.json", "--key", "key.pem", "--out", "signed.json")
        refused(3, folder, "policy", "check", "old.json")

    def test_a_vendors_root_of_ones_own_is_believed_signed_alone(self, folder: Path) -> None:
        (folder / "own.json").write_bytes(policy_bytes(policy_document()))
        for command in ("show", "check"):
            result = refused(4, folder, "policy", command, "own.json")
            assert "only a signed policy may" in result.stderr
            assert "hint: sign it" in result.stderr
        ok(folder, "policy", "sign", "own.json", "--key", "key.pem", "--out", "signed.json")
        shown = ok(folder, "policy", "check", "signed.json", "--policy-key", KEY.public, "--json").json
        assert shown["warnings"] == []

    def test_a_key_that_is_none_is_named(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        (folder / "none.pem").write_text("not a key")
        result = refused(4, folder, "policy", "sign", "policy.json", "--key", "none.pem", "--out", "signed.json")
        assert result.stderr.startswith("error: 'none.pem': not an unencrypted PKCS #8 private key in PEM\nhint: ")
        result = refused(4, folder, "policy", "show", "policy.json", "--policy-key", "none.pem")
        assert result.stderr.startswith("error: 'none.pem': ")

    def test_a_signed_policy_is_not_signed_again(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        ok(folder, "policy", "sign", "policy.json", "--key", "key.pem", "--out", "signed.json")
        again = refused(4, folder, "policy", "sign", "signed.json", "--key", "key.pem", "--out", "twice.json")
        assert "signed already" in again.stderr

    @pytest.mark.parametrize(
        "changes",
        [{"formats": []}, {"models": {}}, {"nitro": {"allow": []}}, {"allow_local": True}, {"extra": 1}],
    )
    def test_a_policy_that_no_client_would_take_is_not_signed(self, folder: Path, changes: dict[str, Any]) -> None:
        (folder / "bad.json").write_bytes(policy_bytes(policy_document(**{"nitro": AWS, **changes})))
        for command in (
            ["sign", "bad.json", "--key", "key.pem", "--out", "signed.json"],
            ["show", "bad.json"],
            ["check", "bad.json"],
        ):
            refused(4, folder, "policy", *command)


class TestCheck:
    @pytest.fixture
    def accepted(self, folder: Path) -> Path:
        ok(folder, *INIT, "--evidence", "evidence.att")
        return folder

    def test_the_policy_alone(self, accepted: Path) -> None:
        assert ok(accepted, "policy", "check", "policy.json", "--json").json["formats"] == ["local"]

    def test_the_verdict_comes_last(self, accepted: Path) -> None:
        assert "usable: " not in ok(accepted, "policy", "show", "policy.json").stdout
        last = ok(accepted, "policy", "check", "policy.json").stdout.splitlines()[-1]
        assert last.startswith("usable: clients can accept local evidence under it until 20")
        assert last.endswith("; not signed")
        ok(accepted, "policy", "sign", "policy.json", "--key", "key.pem", "--out", "signed.json")
        signed = ok(accepted, "policy", "check", "signed.json", "--policy-key", KEY.public)
        assert signed.stdout.endswith(f"; signed by {KEY.public}\n")

    def test_collateral_that_is_not_there_is_usage(self, accepted: Path) -> None:
        for name in ("nope", "policy.json"):
            result = refused(2, accepted, "policy", "check", "policy.json", "--collateral", name)
            assert result.stderr == f"error: the collateral '{name}' is no folder\n"

    def test_a_document_that_it_accepts(self, accepted: Path) -> None:
        result = ok(accepted, "policy", "check", "policy.json", "--evidence", "evidence.att")
        assert "✓ N14" in result.stdout
        assert result.stdout.endswith("verified, assurance document: the policy accepts this document\n")
        assert "WARN_SOFTWARE_TEE" in result.stderr

    def test_json(self, accepted: Path) -> None:
        result = ok(accepted, "policy", "check", "policy.json", "--evidence", "evidence.att", "--json").json
        assert result["verdict"] == "verified"
        assert [row["id"] for row in result["checks"]][1:15] == [f"N{number}" for number in range(1, 15)]

    def test_other_registers(self, accepted: Path, authority: Authority) -> None:
        fields = DocumentFields(f"{authority.id}-enc01", PCRS | {0: b"\x01" * 48}, RECEIPT_KEY, BINDING, NONCE)
        (accepted / "other.att").write_bytes(authority.issue_document(fields, clock.now()))
        result = run("policy", "check", "policy.json", "--evidence", "other.att", cwd=accepted)
        assert result.exit_code == 3
        assert "NITRO_MEASUREMENT_MISMATCH" in result.stdout
        assert "why: wanted a0a0a0a0a0a0a0a0…a0a0a0a0" in result.stdout
        assert "fix: " in result.stdout

    def test_a_production_policy_refuses_the_software_tee_at_n5(self, folder: Path) -> None:
        ok(folder, *INIT, *PCR_OPTIONS)
        result = run("policy", "check", "policy.json", "--evidence", "evidence.att", "--json", cwd=folder)
        assert result.exit_code == 3
        failed = [row["id"] for row in result.json["checks"] if row["status"] == "fail"]
        assert failed == ["N5", "EVIDENCE_FORMAT"]

    def test_malformed_evidence(self, accepted: Path) -> None:
        data = (accepted / "evidence.att").read_bytes()
        (accepted / "cut.att").write_bytes(data[:-1])
        assert run("policy", "check", "policy.json", "--evidence", "cut.att", cwd=accepted).exit_code == 4
        (accepted / "none.att").write_bytes(b"none")
        refused(4, accepted, "policy", "check", "policy.json", "--evidence", "none.att")

    def test_times(self, accepted: Path) -> None:
        arguments = ["policy", "check", "policy.json", "--evidence", "evidence.att", "--at"]
        ok(accepted, *arguments, "now")
        later = run(*arguments, "2030-01-01T00:00:00Z", cwd=accepted)
        assert later.exit_code == 3
        assert "NITRO_CERT_TIME_INVALID" in later.stdout
        assert later.stdout.startswith("judged at 2030-01-01T00:00:00Z, the time given")
        refused(2, accepted, *arguments, "yesterday")

    def test_an_expired_policy_is_a_row(self, folder: Path, authority: Authority) -> None:
        old = policy_document(expires_at="2026-01-02T00:00:00Z", nitro=AWS)
        (folder / "old.json").write_bytes(policy_bytes(old))
        result = run("policy", "check", "old.json", "--evidence", "evidence.att", cwd=folder)
        assert result.exit_code == 3
        assert "POLICY_EXPIRED" in result.stdout
