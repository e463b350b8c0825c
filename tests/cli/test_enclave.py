"""Transcripts of `ephemeralml enclave` (serving section 1, cli)."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from ephemeralml.attestation.local.authority import Authority
from tests.cli.runner import run
from tests.fakes.booted_runtime import Files, config_source, write_files
from tests.fakes.packages import STRANGER
from tests.fakes.runtime_process import command


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    Authority.create(tmp_path / "authority")
    return tmp_path / "authority"


def boot(files: Files, authority: Path) -> "subprocess.CompletedProcess[str]":
    """Run `enclave run` where it is expected to fail."""
    return subprocess.run(command(files, authority), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_prints_one_document_and_stops_cleanly(tmp_path: Path, authority: Path, number: signal.Signals) -> None:
    address = f"unix://{tmp_path}/runtime"
    files = write_files(tmp_path, config_source(listen=address))
    process = subprocess.Popen(command(files, authority), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"boot ready"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    document = json.loads(out)
    assert document["schema"] == "ephemeralml.boot/1"
    assert document["ready"] is True
    assert document["listen"] == address
    assert [model["id"] for model in document["models"]] == ["tiny-bert"]
    assert [step["status"] for step in document["steps"]] == ["ok"] * 4 + ["skipped"] + ["ok"] * 4
    assert document["core_dumps_off"] is True
    assert b"Traceback" not in err
    assert not (tmp_path / "runtime").exists()


def test_a_failed_boot_names_step_and_fix_and_leaves_nothing(tmp_path: Path, authority: Path) -> None:
    files = write_files(tmp_path, config_source(listen=f"unix://{tmp_path}/runtime"), key=STRANGER)
    done = boot(files, authority)
    assert done.returncode == 3
    assert "boot manifest    failed" in done.stderr
    assert "error: boot step 'manifest':" in done.stderr
    assert "hint: " in done.stderr
    assert json.loads(done.stdout)["code"] == "SIGNER_UNKNOWN"
    assert not (tmp_path / "runtime").exists()


def test_an_address_in_use_is_unavailable(tmp_path: Path, authority: Path) -> None:
    (tmp_path / "runtime").write_text("a file")
    done = boot(write_files(tmp_path, config_source(listen=f"unix://{tmp_path}/runtime")), authority)
    assert done.returncode == 5
    assert "boot step 'ready'" in done.stderr
    assert (tmp_path / "runtime").read_text() == "a file"


@pytest.mark.parametrize("listen", ["ws://127.0.0.1:1/v1/channel", "http://127.0.0.1:1", "tcp://127.0.0.1"])
def test_an_address_that_is_none(tmp_path: Path, authority: Path, listen: str) -> None:
    done = boot(write_files(tmp_path, config_source(listen=listen)), authority)
    assert done.returncode == 4
    assert "boot step 'ready'" in done.stderr


@pytest.mark.parametrize("source", [b"", b"\xff", config_source() + b"[extra]\n"])
def test_a_bad_configuration_is_malformed(tmp_path: Path, authority: Path, source: bytes) -> None:
    done = boot(write_files(tmp_path, source), authority)
    assert done.returncode == 4
    assert "boot step 'config'" in done.stderr


def test_no_hardware_is_unavailable(tmp_path: Path) -> None:
    files = write_files(tmp_path, config_source(attester="nsm"))
    result = run("enclave", "measure", "--config", files.config)
    if not Path("/dev/nsm").exists():
        assert result.exit_code == 5
        assert "/dev/nsm" in result.stderr
        assert result.stdout == ""


def test_missing_inputs_are_usage(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    for arguments in (
        ("run", "--config", tmp_path / "none.toml", "--package", files.packages[0]),
        ("run", "--config", files.config, "--package", tmp_path / "none"),
        ("run", "--config", files.config),
        ("run", "--config", files.config, "--package", tmp_path, "--authority", tmp_path, "--nsm-socket", tmp_path),
        ("run", "--config", files.config, "--package", files.packages[0]),
        ("run", "--config", files.config, "--package", files.packages[0], "--authority", tmp_path / "new"),
        ("run", "--config", files.config, "--package", files.packages[0], "--authority", tmp_path),
        ("measure", "--config", tmp_path / "none.toml"),
        ("measure", "--config", files.config, "--authority", files.config),
        ("measure", "--config", files.config, "--expect", tmp_path / "none.json"),
        ("measure",),
    ):
        result = run("enclave", *arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr.startswith("error: ")
        assert result.stdout == ""


def test_what_is_missing_is_made_by_init(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    package = ("--package", files.packages[0])
    for arguments in (
        ("measure", "--config", tmp_path / "none.toml"),
        ("run", "--config", files.config, *package),
        ("run", "--config", files.config, *package, "--authority", tmp_path / "new"),
        ("run", "--config", files.config, *package, "--authority", tmp_path),
    ):
        assert "`ephemeralml enclave init" in run("enclave", *arguments).stderr.partition("\nhint: ")[2], arguments


@pytest.mark.parametrize("option", ["--authority", "--nsm-socket"])
def test_hardware_has_no_use_for_a_software_authority(tmp_path: Path, authority: Path, option: str) -> None:
    files = write_files(tmp_path, config_source(attester="nsm"))
    result = run("enclave", "run", "--config", files.config, "--package", files.packages[0], option, authority)
    assert result.exit_code == 2
    assert f"{option} is for the software TEE" in result.stderr


def test_measure_finds_the_authority_beside_the_configuration(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    without = run("enclave", "measure", "--config", files.config, "--json")
    assert without.json["root"] is None
    assert "pcr4" not in without.json["measurements"]
    assert "no software authority" in without.stderr
    made = Authority.create(tmp_path / "authority")
    found = run("enclave", "measure", "--config", files.config, "--json")
    assert found.json["root"] == f"sha256:{made.fingerprint.hex()}"
    assert found.stderr == ""
    assert f"root sha256:{made.fingerprint.hex()}\n" in run("enclave", "measure", "--config", files.config).stdout
    other = Authority.create(tmp_path / "other")
    named = run("enclave", "measure", "--config", files.config, "--authority", tmp_path / "other", "--json")
    assert named.json["root"] == f"sha256:{other.fingerprint.hex()}"


def test_measure_prints_registers_and_compares(tmp_path: Path, authority: Path) -> None:
    files = write_files(tmp_path)
    result = run("enclave", "measure", "--config", files.config, "--authority", authority, "--json")
    assert result.exit_code == 0
    document = result.json
    assert document["schema"] == "ephemeralml.measure/1"
    assert set(document["measurements"]) == {"pcr0", "pcr1", "pcr2", "pcr3", "pcr4"}
    assert document["matches"] is None
    expected = tmp_path / "expected.json"
    expected.write_text(result.stdout)
    again = run("enclave", "measure", "--config", files.config, "--authority", authority, "--expect", expected)
    assert again.exit_code == 0
    assert "✓ the expected measurements" in again.stdout
    assert document["measurements"]["pcr0"] in again.stdout


def test_measure_shows_what_differs(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps({"measurements": {"pcr0": "00" * 48, "pcr1": None}}))
    result = run("enclave", "measure", "--config", files.config, "--expect", expected, "--json")
    assert result.exit_code == 3
    assert result.json["matches"] is False
    assert [item["register"] for item in result.json["differences"]] == ["pcr0"]
    text = run("enclave", "measure", "--config", files.config, "--expect", expected)
    assert text.exit_code == 3
    assert "✗ pcr0 expected" in text.stdout
    expected.write_text("[]")
    assert run("enclave", "measure", "--config", files.config, "--expect", expected).exit_code == 4
