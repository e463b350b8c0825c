"""Applying a plan: every interruption resumes, every wrong answer rolls back (key-release.md section 6)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.policy.apply import Patience, Run, StateFile, Step, apply
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.plan import Phase, same_policy
from ephemeralml.keyrelease.policy.probe import Outcome, Row
from tests.keyrelease.policy.test_plan import add
from tests.keyrelease.policy.test_render import image, rendered

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = add(rendered(image("a")))
RUN = Run("arn:aws:kms:eu-west-1:111122223333:key/1", Phase.ADD, PLAN.before.text, PLAN.after.text)
OTHER = rendered(image("c")).text
OK = Row("A3", "no document", "AccessDeniedException", "AccessDeniedException", Outcome.OK)
WRONG = Row("A3", "no document", "AccessDeniedException", "plaintext", Outcome.WRONG)


class Kms:
    """A key service that can be slow to follow, fail at any call, or have another hand in it."""

    arn = RUN.key

    def __init__(self, policy: str = RUN.before, *, lag: int = 0, fail_at: int | None = None) -> None:
        self.stored, self.seen, self.lag, self.behind = policy, policy, lag, 0
        self.fail_at, self.calls, self.puts = fail_at, 0, 0
        self.then: Callable[[], None] = lambda: None

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise UnavailableError("the key service did not answer")

    def policy(self) -> KeyPolicy:
        self._call()
        if self.behind:
            self.behind -= 1
        else:
            self.seen = self.stored
        return KeyPolicy.parse(self.seen)

    def put(self, policy: str) -> None:
        self._call()
        self.stored, self.behind = policy, self.lag
        self.puts += 1
        self.then()


def quick(seconds: float = 10) -> Patience:
    now = [0.0]

    def sleep(duration: float) -> None:
        now[0] += duration

    return Patience(seconds, 1, lambda: now[0], sleep)


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state.json")


def go(kms: Kms, state: StateFile, *answers: list[Row]) -> list[Row]:
    left = list(answers) or [[OK]]
    run = state.load() or RUN
    return apply(run, kms, state, lambda: left.pop(0) if len(left) > 1 else left[0], patience=quick())


def test_put_read_back_verified_forgotten(state: StateFile) -> None:
    kms = Kms()
    assert go(kms, state) == [OK]
    assert same_policy(kms.stored, RUN.after)
    assert state.load() is None


def test_a_service_that_follows_slowly_is_waited_for(state: StateFile) -> None:
    assert go(Kms(lag=5), state, [WRONG], [WRONG], [OK]) == [OK]


def test_wrong_answers_bring_the_old_policy_back(state: StateFile) -> None:
    kms = Kms(lag=2)
    with pytest.raises(RejectedError, match=r"A3 \(no document\) gave plaintext.*the old policy is back") as caught:
        go(kms, state, [WRONG])
    assert caught.value.code == "KEY_POLICY_VERIFY_FAILED"
    assert kms.stored == RUN.before
    assert state.load() is None


def test_a_rollback_that_fails_says_what_is_in_force_and_can_be_repeated(state: StateFile) -> None:
    kms = Kms()

    def broken() -> None:
        kms.fail_at = kms.calls + 3  # the read-back passes; the rollback's put does not

    kms.then = broken
    with pytest.raises(RejectedError, match="THE NEW POLICY IS STILL IN FORCE") as caught:
        go(kms, state, [WRONG])
    assert caught.value.code == "KEY_POLICY_ROLLBACK_FAILED"
    begun = state.load()
    assert begun is not None
    assert begun.step is Step.ROLLING_BACK
    kms.then = lambda: None
    with pytest.raises(RejectedError, match="the old policy is back"):
        go(kms, state)
    assert kms.stored == RUN.before


@pytest.mark.parametrize("fail_at", range(1, 5))
def test_interrupted_anywhere_the_same_command_goes_on(state: StateFile, fail_at: int) -> None:
    kms = Kms(fail_at=fail_at)
    try:
        go(kms, state)
    except UnavailableError:
        assert state.load() is not None
        assert go(kms, state) == [OK]
    assert same_policy(kms.stored, RUN.after)
    assert kms.puts == 1
    assert state.load() is None


def test_no_answer_to_the_questions_is_no_reason_to_roll_back(state: StateFile) -> None:
    def silent() -> list[Row]:
        raise UnavailableError("no answer")

    kms = Kms()
    with pytest.raises(UnavailableError, match="no answer; the new policy is in force, and not verified") as caught:
        apply(RUN, kms, state, silent, patience=quick())
    assert str(caught.value.hint).endswith(f"the same command goes on from {str(state.path)!r}")
    assert same_policy(kms.stored, RUN.after)
    begun = state.load()
    assert begun is not None
    assert begun.step is Step.PUT


@pytest.mark.parametrize(("code", "left"), [("KEY_POLICY_REFUSED", False), ("KEY_RESPONSE_INVALID", True)])
def test_a_policy_that_the_service_refuses_leaves_nothing_to_go_on_with(
    state: StateFile, code: str, left: bool
) -> None:
    kms = Kms()

    def refuse() -> None:
        raise RejectedError("no", code=code)

    kms.then = refuse
    with pytest.raises(RejectedError, match="no"):
        go(kms, state)
    assert (state.load() is not None) is left


@pytest.mark.parametrize("raised", [UnavailableError("no answer"), MalformedError("no answer", code="X")])
@pytest.mark.parametrize(
    ("stored", "words"),
    [(RUN.before, "the old policy is in force"), (RUN.after, "the new policy is in force"), (OTHER, "another policy")],
)
def test_a_put_that_fails_says_which_policy_is_in_force(
    state: StateFile, raised: EphemeralError, stored: str, words: str
) -> None:
    kms = Kms()

    def fail() -> None:
        kms.stored = stored
        raise raised

    kms.then = fail
    with pytest.raises(type(raised), match=f"no answer; {words}"):
        go(kms, state)
    kms.stored, kms.fail_at = RUN.before, kms.calls + 3  # and so does looking at it
    with pytest.raises(type(raised), match="it is not known whether the new policy is in force"):
        go(kms, state)


def test_somebody_elses_change_is_left_alone(state: StateFile) -> None:
    kms = Kms(OTHER)
    with pytest.raises(RejectedError) as caught:
        go(kms, state)
    assert caught.value.code == "KEY_POLICY_CHANGED"
    assert kms.stored == OTHER


def test_somebody_elses_change_during_the_rollback_is_left_alone(state: StateFile) -> None:
    kms = Kms()

    def meddle() -> list[Row]:
        kms.stored = OTHER
        return [WRONG]

    with pytest.raises(RejectedError) as caught:
        apply(RUN, kms, state, meddle, patience=quick())
    assert caught.value.code == "KEY_POLICY_CHANGED"
    assert kms.stored == OTHER


def test_the_state_file_round_trips(state: StateFile) -> None:
    state.save(RUN)
    assert state.load() == RUN


@pytest.mark.parametrize("change", [{"schema": "x"}, {"phase": "x"}, {"step": "x"}, {"before": "{}"}, {"after": 5}])
def test_a_state_file_that_is_none(state: StateFile, change: dict[str, Any]) -> None:
    import json

    state.save(RUN)
    state.path.write_text(json.dumps(json.loads(RUN.to_bytes()) | change))
    with pytest.raises(MalformedError):
        state.load()


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_a_state_file_that_others_had_is_not_believed(state: StateFile, mode: int) -> None:
    state.save(RUN)
    state.path.chmod(mode)
    with pytest.raises(RejectedError) as caught:
        state.load()
    assert caught.value.code == "KEY_POLICY_STATE_FOREIGN"


def test_nor_is_one_of_somebody_else(state: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    state.save(RUN)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RejectedError):
        state.load()


def test_nor_one_behind_a_link_nor_a_pipe(state: StateFile, tmp_path: Path) -> None:
    state.save(RUN)
    (tmp_path / "link").symlink_to(state.path)
    with pytest.raises(UnavailableError):
        StateFile(tmp_path / "link").load()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(RejectedError):
        StateFile(tmp_path / "pipe").load()


def test_a_state_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    kms = Kms()
    with pytest.raises(EphemeralError):
        go(kms, StateFile(tmp_path / "missing" / "state.json"))
    assert kms.puts == 0
