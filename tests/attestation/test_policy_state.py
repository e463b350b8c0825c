"""A policy never goes back (attestation section 6, rule 6)."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ephemeralml.attestation.policy_state import PolicyState
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from tests.fakes.nitro import entry, policy, policy_bytes, policy_document


@pytest.fixture
def state(tmp_path: Path) -> PolicyState:
    return PolicyState(tmp_path / "state" / "policies.json")


def test_versions_rise(state: PolicyState) -> None:
    for version in (1, 1, 2, 9):
        state.admit(policy(version=version))
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.parent.stat().st_mode) == 0o700


def test_a_lower_version_is_refused_and_changes_nothing(state: PolicyState) -> None:
    state.admit(policy(version=5))
    before = state.path.read_bytes()
    with pytest.raises(RejectedError) as caught:
        state.admit(policy(version=4))
    assert caught.value.code == "POLICY_ROLLBACK"
    assert "version 4 is older than version 5, which was accepted before (POLICY_ROLLBACK)" in caught.value.message
    assert "version 5 or a later one" in (caught.value.hint or "")
    assert state.path.read_bytes() == before


def test_the_same_version_with_other_bytes(state: PolicyState) -> None:
    state.admit(policy())
    with pytest.raises(RejectedError) as caught:
        state.admit(policy(max_age_seconds=299))
    assert caught.value.code == "POLICY_CONFLICT"


def test_policies_do_not_disturb_one_another(state: PolicyState) -> None:
    state.admit(policy(version=5))
    state.admit(policy(policy_id="another", version=1))
    state.admit(policy(version=5))
    with pytest.raises(RejectedError):
        state.admit(policy(version=4))
    state.admit(policy(policy_id="another", version=2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": "ephemeralml.policy-state/1", "policies": []}',
        b'{"schema": "ephemeralml.policy-state/1", "policies": {"test": {"version": "7", "digest": ""}}}',
        b'{"schema": "ephemeralml.policy-state/1", "policies": {"test": 7}}',
        b'{"schema": "ephemeralml.policy-state/2", "policies": {}}',
    ],
)
def test_a_file_that_is_no_state_is_refused_and_left_alone(state: PolicyState, content: bytes) -> None:
    state.path.parent.mkdir()
    state.path.write_bytes(content)
    with pytest.raises(MalformedError):
        state.admit(policy())
    assert state.path.read_bytes() == content


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError):
        PolicyState(tmp_path / "file" / "policies.json").admit(policy())


ADMIT = """
import sys
from pathlib import Path
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.policy_state import PolicyState
for name in sys.argv[2:]:
    PolicyState(Path(sys.argv[1])).admit(Policy.load(Path(name)))
"""


def test_two_processes_do_not_lose_an_update(state: PolicyState, tmp_path: Path) -> None:
    files = []
    for number in range(20):
        document = policy_document(
            policy_id=f"p{number}", expires_at="2100-01-01T00:00:00Z", nitro={"allow": [entry()]}
        )
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(policy_bytes(document))
    workers = [
        subprocess.Popen([sys.executable, "-c", ADMIT, str(state.path), *map(str, files[first::2])]) for first in (0, 1)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    for number in range(20):
        with pytest.raises(RejectedError):
            state.admit(policy(policy_id=f"p{number}", version=6))
