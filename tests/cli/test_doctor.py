"""`ephemeralml doctor`: every finding with its fix, one document with `--json`."""

from pathlib import Path

import pytest

from tests.cli.runner import run

FIELDS = {"check", "status", "code", "seen", "fix"}


@pytest.mark.parametrize("target", ["local", "client"])
def test_document(target: str, tmp_path: Path) -> None:
    result = run("doctor", "--target", target, "--folder", tmp_path, "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = result.json
    assert document["schema"] == "ephemeralml.doctor/1"
    assert document["target"] == target
    assert document["verdict"] in {"ok", "warn"}
    assert document["findings"]
    for finding in document["findings"]:
        assert set(finding) == FIELDS
        assert finding["status"] in {"ok", "warn", "fail"}
        assert (finding["code"] is None) == (finding["status"] == "ok")
        assert finding["seen"]
    assert list(tmp_path.iterdir()) == []


def test_text_has_a_line_per_finding_and_a_verdict() -> None:
    result = run("doctor", "--plain")
    lines = result.stdout.splitlines()
    assert any(line.startswith("✓ python") for line in lines)
    assert lines[-1].startswith("local: ready, ")
    marked = [line for line in lines if line.startswith("! ")]
    assert len([line for line in lines if line.lstrip().startswith("fix: ")]) >= len(marked)


def test_a_failure_is_exit_5(tmp_path: Path) -> None:
    result = run("doctor", "--target", "nitro", "--json", "--folder", tmp_path / "nowhere")
    assert result.exit_code == 5
    failed = {finding["code"] for finding in result.json["findings"] if finding["status"] == "fail"}
    assert "DISK_UNREADABLE" in failed
    assert result.json["verdict"] == "fail"


def test_unknown_target_is_usage() -> None:
    result = run("doctor", "--target", "toaster")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: invalid value for '--target'")
