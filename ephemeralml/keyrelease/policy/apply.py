"""Put a planned key policy, verify what the key answers, take it back if that is wrong (key-release.md section 6).

Every step is written to a state file before it is taken, so that a run that was
interrupted, by whatever, goes on where it stood: it never plans again from a
policy that is half its own work.
"""

import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

from ephemeralml.crypto import strict_json
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES, KeyPolicy
from ephemeralml.keyrelease.policy.plan import REFUSED, Phase, same_policy
from ephemeralml.keyrelease.policy.probe import Row, failed
from ephemeralml.progress import Progress, Silent

CHANGED = "KEY_POLICY_CHANGED"
VERIFY_FAILED = "KEY_POLICY_VERIFY_FAILED"
ROLLBACK_FAILED = "KEY_POLICY_ROLLBACK_FAILED"
STATE_FOREIGN = "KEY_POLICY_STATE_FOREIGN"
SCHEMA = "ephemeralml.kms-apply/1"

_MAX_STATE_BYTES = 8 * MAX_POLICY_BYTES


class Step(Enum):
    """How far a run has come."""

    PLANNED = "planned"
    PUT = "put"
    ROLLING_BACK = "rolling-back"


@dataclass(frozen=True, slots=True)
class Run:
    """A change that was begun: what the state file holds."""

    key: str
    phase: Phase
    before: str
    after: str
    step: Step = Step.PLANNED

    def to_bytes(self) -> bytes:
        """Return the state file."""
        document = {
            "schema": SCHEMA,
            "key": self.key,
            "phase": self.phase.value,
            "step": self.step.value,
            "before": self.before,
            "after": self.after,
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> "Run":
        """Read a state file.

        Raises:
            MalformedError: It is none.
        """
        document = strict_json.parse_object(data, max_bytes=_MAX_STATE_BYTES)
        names = ("key", "phase", "step", "before", "after")
        if document.get("schema") != SCHEMA or any(type(document.get(name)) is not str for name in names):
            raise MalformedError("state: not of `kms policy apply`")
        for name in ("before", "after"):
            KeyPolicy.parse(document[name])
        try:
            phase, step = Phase(document["phase"]), Step(document["step"])
        except ValueError as error:
            raise MalformedError("state: an unknown phase or step") from error
        return cls(document["key"], phase, document["before"], document["after"], step)


@dataclass(frozen=True, slots=True)
class StateFile:
    """Where a run stands, on disk."""

    path: Path

    def load(self) -> Run | None:
        """Return the run that was interrupted; None if there is none.

        The policies in it are put on the key, so it has to be as `save` left it:
        a file that others could write, or that came with a checkout, is refused.

        Raises:
            MalformedError: The file is no state.
            RejectedError: It is not this user's alone (KEY_POLICY_STATE_FOREIGN).
            UnavailableError: It cannot be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"cannot read {str(self.path)!r}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise RejectedError(
                    f"{str(self.path)!r} is not as `kms policy apply` leaves its state: others may have written it",
                    code=STATE_FOREIGN,
                    hint="look at it, then remove it and plan again",
                )
            return Run.parse(file.read(_MAX_STATE_BYTES + 1))

    def save(self, run: Run) -> None:
        """Write the state; it is on disk when this returns.

        Raises:
            UnavailableError: It cannot be written.
        """
        temporary = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(run.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise UnavailableError(f"cannot write {str(self.path)!r}: {error.strerror}") from error

    def remove(self) -> None:
        """Forget the run: it is over."""
        self.path.unlink(missing_ok=True)


class Key(Protocol):
    """The key whose policy changes; `live.LiveKey` in production."""

    @property
    def arn(self) -> str:
        """Its ARN."""
        ...

    def policy(self) -> KeyPolicy:
        """Return its present policy."""
        ...

    def put(self, policy: str) -> None:
        """Replace its policy."""
        ...


Verify = Callable[[], list[Row]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a change may take until every part of the service knows it."""

    seconds: float = 60.0
    between: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def apply(
    run: Run,
    key: Key,
    state: StateFile,
    verify: Verify,
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Bring *key* to the run's policy, from wherever an earlier run left it, and verify it.

    1. The present policy is the one planned from, or already the new one.
    2. The new policy is put.
    3. It is read back.
    4. What the key answers is as the policy says; else the old one is put back.

    Where the service cannot be reached on the way, the state file stays, and the
    same command goes on later.

    Raises:
        RejectedError: Someone else changed the policy (KEY_POLICY_CHANGED); the
            key answers otherwise and the old policy is back
            (KEY_POLICY_VERIFY_FAILED), or could not be put back
            (KEY_POLICY_ROLLBACK_FAILED).
        UnavailableError: The service does not answer.
    """
    watch, wait = progress or Silent(), patience or Patience()
    if run.step is Step.ROLLING_BACK:
        raise _roll_back(run, key, state, [], wait)
    state.save(run)
    # 1.
    present = key.policy().text
    if not same_policy(present, run.after):
        if not same_policy(present, run.before):
            raise _changed(run, state)
        # 2.
        watch.step("putting the key policy")
        try:
            key.put(run.after)
        except EphemeralError as error:
            if isinstance(error, RejectedError) and error.code == REFUSED:
                state.remove()  # nothing was changed, and the same again would be refused again
                raise
            raise _unfinished(error, state, _in_force(run, key)) from error
    run = replace(run, step=Step.PUT)
    try:
        state.save(run)
        # 3.
        watch.step("reading it back")
        there = _settles(lambda: same_policy(key.policy().text, run.after), wait)
        # 4.
        watch.step("asking the key")
        rows = _asked(verify, wait) if there else []
    except EphemeralError as error:
        raise _unfinished(error, state, "the new policy is in force, and not verified") from error
    if not there:
        raise _changed(run, state)
    if failed(rows):
        raise _roll_back(run, key, state, failed(rows), wait)
    state.remove()
    return rows


def _in_force(run: Run, key: Key) -> str:
    try:
        present = key.policy().text
    except EphemeralError:
        return "it is not known whether the new policy is in force"
    if same_policy(present, run.after):
        return "the new policy is in force, and not verified"
    return "the old policy is in force" if same_policy(present, run.before) else "another policy is in force"


def _unfinished(error: EphemeralError, state: StateFile, where: str) -> EphemeralError:
    """Return the error of a run that stops here, with what it leaves behind."""
    again = f"once that is mended the same command goes on from {str(state.path)!r}"
    message, hint = f"{error.message}; {where}", f"{error.hint}; {again}" if error.hint else again
    if isinstance(error, RejectedError):
        return RejectedError(message, code=error.code, hint=hint)
    if isinstance(error, MalformedError):
        return MalformedError(message, code=error.code, hint=hint)
    return UnavailableError(message, hint=hint)


def _changed(run: Run, state: StateFile) -> RejectedError:
    return RejectedError(
        f"the policy of {run.key} was changed by someone else meanwhile",
        code=CHANGED,
        hint=f"look at it, then remove {str(state.path)!r} and plan again",
    )


def _settles(question: Callable[[], bool], wait: Patience) -> bool:
    """Ask until the answer is yes, for as long as changes take to spread."""
    end = wait.clock() + wait.seconds
    while not question():
        if wait.clock() >= end:
            return False
        wait.sleep(wait.between)
    return True


def _asked(verify: Verify, wait: Patience) -> list[Row]:
    rows: list[Row] = []

    def right() -> bool:
        rows[:] = verify()
        return not failed(rows)

    _settles(right, wait)
    return rows


def _roll_back(run: Run, key: Key, state: StateFile, wrong: Sequence[Row], wait: Patience) -> RejectedError:
    """Put the old policy back and return the error to raise; an interrupted one goes on here."""
    state.save(replace(run, step=Step.ROLLING_BACK))
    first = f": {wrong[0].id} ({wrong[0].what}) gave {wrong[0].actual}, not {wrong[0].expected}" if wrong else ""
    try:
        present = key.policy().text
        if not same_policy(present, run.after) and not same_policy(present, run.before):
            return _changed(run, state)
        key.put(run.before)
        back = _settles(lambda: same_policy(key.policy().text, run.before), wait)
    except EphemeralError as error:
        return _not_back(run, state, first, error.message)
    if not back:
        return _not_back(run, state, first, "it does not read back")
    state.remove()
    return RejectedError(
        f"the key does not answer as the new policy says{first}; the old policy is back",
        code=VERIFY_FAILED,
        hint="kms policy simulate shows what the policy means; were the documents and keys.json the right ones?",
    )


def _not_back(run: Run, state: StateFile, first: str, why: str) -> RejectedError:
    return RejectedError(
        f"the key does not answer as the new policy says{first}; THE NEW POLICY IS STILL IN FORCE: "
        f"putting the old one back failed ({why})",
        code=ROLLBACK_FAILED,
        hint=f"run the same command again, or put the policy `before` of {str(state.path)!r} by hand on {run.key}",
    )
