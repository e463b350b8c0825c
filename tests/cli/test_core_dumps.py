"""No command that holds a key leaves a core dump."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.cli import data_keys
from tests.fakes.key_source import KEY_URI
from tests.fakes.kms_server import running


@pytest.fixture
def allowed() -> Iterator[None]:
    """A shell that allows them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_CORE)[0]


def test_with_a_key_from_a_kms(allowed: None) -> None:
    data_keys.open_key(KEY_URI, endpoint="http://127.0.0.1:1")
    assert _limit() == 0


def test_with_a_key_from_a_file(allowed: None, tmp_path: Path) -> None:
    path = tmp_path / "dek"
    path.touch(mode=0o600)
    path.write_text("ab" * 32)
    with data_keys.obtain_dek((), path, endpoint=None):
        assert _limit() == 0


def test_the_key_server(allowed: None, tmp_path: Path) -> None:
    if _limit() == 0:
        pytest.skip("the shell allows none")
    with running(tmp_path) as server:
        assert server.process is not None
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4] == "0"


def test_other_commands_leave_the_limit_to_doctor(allowed: None) -> None:
    code = "import resource; from ephemeralml.cli import main; main.run(['--version']); print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1] == str(_limit())
