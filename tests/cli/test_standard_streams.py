"""Standard streams that are closed, full or read by nobody: an exit code, no bug and no noise."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import run

PROGRAM = f"{sys.executable} -m ephemeralml"
WAYS = {"closed": ">&-", "full": ">/dev/full"}


def shell(line: str, *, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {line}"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["--version", "--help", "key show {key} --json"])
def test_a_result_that_cannot_be_written_is_no_success(
    tmp_path: Path, command: str, way: str, unbuffered: bool
) -> None:
    (tmp_path / "key").write_text("ed25519:" + "ab" * 32)
    done = shell(f"{PROGRAM} {command.format(key=tmp_path / 'key')} {WAYS[way]}", unbuffered=unbuffered)
    assert done.returncode == 5
    first, second = done.stderr.splitlines()
    assert first.startswith("error: cannot write the result: ")
    assert second == "hint: is stdout open, and not full?"


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_keeps_its_own_code(way: str) -> None:
    done = shell(f"{PROGRAM} key show none.pem --json {WAYS[way]}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read the key")


@pytest.mark.parametrize("way", ["2>&-", "2>/dev/full"])
def test_without_stderr_the_code_tells_and_stdout_stays_clean(way: str) -> None:
    done = shell(f"{PROGRAM} infer {way}")
    assert (done.returncode, done.stdout) == (2, "")


def test_with_every_stream_closed() -> None:
    assert shell(f"{PROGRAM} --version <&- >&- 2>&-").returncode == 5
    assert shell(f"{PROGRAM} infer <&- >&- 2>&-").returncode == 2


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_has_gone_gets_no_complaint(tmp_path: Path, unbuffered: bool) -> None:
    assert run("key", "generate", "--out", tmp_path / "key.pem").exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "ephemeralml", "key", "show", str(tmp_path / "key.pem"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONUNBUFFERED": "1" if unbuffered else ""},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (5, b"")
