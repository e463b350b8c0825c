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


def test_a_file_is_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("")
    result = run("doctor", "--folder", tmp_path / "f.txt")
    assert result.exit_code == 5
    assert f"✗ disk            {tmp_path}/f.txt is no folder\n" in result.stdout
    assert result.stdout.endswith(", 1 failure\n")


def test_a_tool_finds_no_home_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, tools, temporary = (tmp_path / name for name in ("home", "tools", "tmp"))
    for folder in (home, tools, temporary):
        folder.mkdir()
    tool = tools / "terraform"
    tool.write_text(
        "#!/bin/sh\n"
        'mkdir "$HOME/.terraform.d" && touch here "$HOME/.terraform.d/checkpoint" || exit 1\n'
        '[ "$CHECKPOINT_DISABLE" = 1 ] && [ -z "$TF_CLI_ARGS$SECRET" ] && [ -f "$TF_CLI_CONFIG_FILE" ] || exit 1\n'
        'printf \'{"terraform_version": "0.0.7"}\'\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for name, value in {"HOME": home, "TMPDIR": temporary, "SECRET": "x", "TF_CLI_ARGS": "x"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = run("doctor", "--folder", home, "--json", cwd=home)
    found = {finding["check"]: finding["seen"] for finding in result.json["findings"]}
    assert found["terraform"] == "terraform 0.0.7"
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_unknown_target_is_usage() -> None:
    result = run("doctor", "--target", "toaster")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: invalid value for '--target'")
