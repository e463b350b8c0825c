"""What `ephemeralml verify` says of what fails, in one line and in several."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.attestation.verdict import Row, Status
from ephemeralml.cli.verify_rows import lines_of
from tests.cli.runner import Result, run
from tests.fakes.nitro import PCRS, entry, policy_document
from tests.fakes.receipts import MANIFEST, MODELS, RECEIPT_KEY, archive
from tests.vectors.receipt.lab import OTHER_KEY

KEY = RECEIPT_KEY.public.raw.hex()
OTHER_ROOT = TrustRoots(RootKind.SOFTWARE, frozenset({b"\x05" * 32}))


def verify(*args: object) -> Result:
    return run("verify", *args)


def written(folder: Path, **changes: object) -> Path:
    """A policy for software TEEs of another root."""
    path = folder / "other.json"
    path.write_text(json.dumps(policy_document(RootKind.SOFTWARE, OTHER_ROOT, models=MODELS, **changes)))
    return path


def told(*rows: Row, encoding: str = "utf-8") -> list[str]:
    return [line for _, line, _ in lines_of(rows, name_width=4, encoding=encoding)]


class TestSoftwareOfAnotherRoot:
    def test_it_is_called_so_and_refused_at_n5(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = verify(path, "--policy", written(tmp_path))
        assert result.exit_code == 3
        assert f"{path}.att: local, software TEE of another root: not protected" in result.stdout
        assert "✗ N5 " in result.stdout
        assert "✓ EVIDENCE_FORMAT      local is allowed" in result.stdout
        assert (
            "fix: this is a software TEE of another deployment: give the policy that this deployment" in result.stdout
        )
        assert "warning: WARN_SOFTWARE_TEE" in result.stderr
        assert "nitro" not in result.stdout.replace("nitro-p", "").replace("nitro_", "")

    def test_without_a_policy_too(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = verify(path, "--allow-evaluation")
        assert result.exit_code == 3
        assert f"{path}.att: local, software TEE: not protected" in result.stdout
        assert "warning: WARN_SOFTWARE_TEE" in result.stderr
        assert "allow_local" not in result.stdout

    def test_policy_check_says_the_same(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = run("policy", "check", written(tmp_path), "--evidence", f"{path}.att")
        assert result.exit_code == 3
        assert "local, software TEE of another root: not protected" in result.stdout


class TestQuiet:
    def test_one_line_per_receipt_and_nothing_else(self, tmp_path: Path) -> None:
        good = archive().write(tmp_path, "good.cbor", sidecars=False)
        broken = tmp_path / "broken.cbor"
        broken.write_bytes(b"")
        gone = tmp_path / "gone.cbor"
        result = verify(good, broken, gone, "--public-key", KEY, "--quiet")
        assert result.exit_code == 2
        assert result.stdout.splitlines() == [
            f"{good}: verified, assurance receipt",
            f"{broken}: malformed, assurance none: COSE_DECODE_FAILED",
            f"{gone}: not read, assurance none: cannot read receipt {str(gone)!r}: No such file or directory",
        ]
        one = verify(good, "--public-key", KEY, "--quiet", "--expect-model", "other", "--max-age", 9)
        assert one.stdout == f"{good}: rejected, assurance receipt: TIMESTAMP_STALE, MODEL_ID_MISMATCH\n"

    def test_json_stays_json(self, tmp_path: Path) -> None:
        good = archive().write(tmp_path, sidecars=False)
        assert verify(good, "--public-key", KEY, "--quiet", "--json").json["verdict"] == "verified"


class TestReasons:
    FAILED = Row("N14", "T4", Status.FAIL, "NITRO_MEASUREMENT_MISMATCH", "pcr0 differs", "aa", "bb")

    def test_why_never_repeats_the_line_above(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path, sidecars=False)
        lines = verify(path, "--public-key", OTHER_KEY.public.raw.hex()).stdout.splitlines()
        at = next(index for index, line in enumerate(lines) if line.startswith("  ✗ SIG "))
        assert lines[at].split() == ["✗", "SIG", "SIG_FAILED"]
        assert lines[at + 1].strip().startswith("why: the signature does not hold under the key")
        assert lines[at + 2].strip().startswith("fix: ")
        assert sum("does not hold under the key" in line for line in lines) == 1

    def test_only_what_was_compared_is_shown(self) -> None:
        lines = told(replace(self.FAILED, actual=None))
        assert lines[1] == "      why: wanted aa"
        assert not any("nothing" in line for line in lines)

    def test_the_remedy_of_several_registers_stands_once_below_them(self) -> None:
        lines = told(self.FAILED, replace(self.FAILED, detail="pcr1 differs"))
        assert [line.split()[0] for line in lines[:6]] == ["✗", "why:", "found", "✗", "why:", "found"]
        assert lines[6].startswith("      fix: compare them with your own build")

    def test_a_hint_of_the_row_goes_before_its_codes(self) -> None:
        assert told(replace(self.FAILED, hint="do this"))[-1] == "      fix: do this"

    def test_registers_are_told_one_by_one(self, tmp_path: Path) -> None:
        made = archive(RootKind.SOFTWARE)
        wrong = {**PCRS, 0: b"\x01" * 48, 2: b"\x02" * 48}
        section = {**made.policy_document()["local"], "allow": [entry(wrong)]}
        result = verify(made.write(tmp_path), *made.policy_options(tmp_path, local=section))
        assert result.exit_code == 3
        for register, wanted, found in (("pcr0", "01", "a0"), ("pcr2", "02", "a2")):
            assert f"✗ N14                  {register} is not that of 'runtime 1.0.0'" in result.stdout
            assert f"wanted {wanted * 8}…{wanted * 4}" in result.stdout
            assert f"found  {found * 8}…{found * 4}" in result.stdout
        assert result.stdout.count("fix: compare them") == 1

    def test_an_expired_policy_shows_when_it_was_judged(self, tmp_path: Path) -> None:
        made = archive()
        path = made.write(tmp_path)
        options = made.policy_options(tmp_path, expires_at="2026-01-10T00:00:00Z")
        result = verify(path, *options, "--at", "2026-01-15T12:00:10Z")
        assert result.exit_code == 3
        assert "found  at 2026-01-15T12:00:10Z" in result.stdout


class TestOptions:
    @pytest.mark.parametrize("text", ["zz", "no-such-file", "ed25519:zz"])
    def test_a_key_that_is_neither_hex_nor_a_file(self, tmp_path: Path, text: str) -> None:
        result = verify(archive().write(tmp_path), "--public-key", text)
        assert result.exit_code == 2
        assert f"--public-key '{text}' is neither a key in hex nor a file that exists" in result.stderr
        assert "hint: a key is 64 hex digits" in result.stderr

    def test_a_folder_is_no_key(self, tmp_path: Path) -> None:
        result = verify(archive().write(tmp_path), "--public-key", tmp_path)
        assert (result.exit_code, "Is a directory" in result.stderr) == (2, True)

    def test_profiles(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        assert "--profile legacy is not in this version" in verify(path, "--profile", "legacy").stderr
        assert "neither strict nor compat" in verify(path, "--profile", "loose").stderr
        usage = verify("--help").stdout
        assert "strict|compat" in usage
        assert "legacy" not in usage

    def test_a_policy_that_accepts_nothing(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = verify(path, "--policy", written(tmp_path, formats=[]))
        assert result.exit_code == 4
        assert "policy: formats is empty, so nothing could be accepted (POLICY_EMPTY)" in result.stderr
        assert "hint: list the evidence that you accept" in result.stderr


class TestWhatANewcomerReads:
    def test_good_evidence_of_a_receipt_that_does_not_parse(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        bad = tmp_path / "bad.cbor"
        bad.write_bytes(b"hello")
        result = verify(bad, "--attestation", f"{path}.att", "--html", tmp_path / "o.html")
        assert result.exit_code == 4
        said = " ".join(result.stdout.split())  # long names wrap
        assert f"evidence {path}.att: of nitro format, not judged: the receipt does not parse" in said
        assert "of no known format" not in result.stdout + (tmp_path / "o.html").read_text()
        Path(f"{path}.att").write_bytes(b"nonsense")
        assert "of no known format" in verify(bad, "--attestation", f"{path}.att").stdout

    def test_each_heading_stands_once(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        Path(f"{path}.manifest.json").write_bytes(MANIFEST)
        policy = archive(RootKind.SOFTWARE).policy_options(tmp_path)
        result = verify(path, *policy, "--at", "2026-01-15T12:00:10Z", "--html", tmp_path / "o.html")
        lines = result.stdout.splitlines()
        for title in ("receipt: form", "receipt: signature", "receipt: claims", "your demands", "evidence"):
            assert lines.count(f"  {title}") == 1, title
        assert (tmp_path / "o.html").read_text().count("Your demands") == 1
        assert f"wrote {tmp_path / 'o.html'}" in result.stderr.splitlines()
