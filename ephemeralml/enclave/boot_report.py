"""The boot's steps, timed and named (serving section 1)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ephemeralml.attestation.verdict import printable
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.faults import KeyUnavailableError
from ephemeralml.keyrelease.records import ReleaseRecord


class Step(Enum):
    """The steps, in their order."""

    CONFIG = "config"
    ATTESTER = "attester"
    KEYS = "keys"
    MANIFEST = "manifest"
    KEY_RELEASE = "key release"
    LOAD = "load"
    ENGINE = "engine"
    CANARY = "canary"
    READY = "ready"


class StepStatus(Enum):
    """How a step went."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step."""

    step: Step
    status: StepStatus
    milliseconds: float
    detail: str
    releases: tuple[ReleaseRecord, ...] = ()
    """Where it failed: every try so far to have a key released, which no ready document will show."""

    def to_json(self) -> dict[str, Any]:
        """Return the step's entry in the boot report."""
        return {
            "step": self.step.value,
            "status": self.status.value,
            "ms": round(self.milliseconds, 1),
            "detail": self.detail,
        }

    def line(self) -> str:
        """Return the step's line on the console, of a failed step with a line for each release tried."""
        detail = f"  {self.detail}" if self.detail else ""
        first = f"boot {self.step.value:<11} {self.status.value:<7} {self.milliseconds:8.1f} ms{detail}"
        return "\n".join((first, *map(_release_line, self.releases)))


class StepNote:
    """Where a running step writes what it found."""

    def __init__(self) -> None:
        self.detail = ""
        self.status = StepStatus.OK

    def skip(self, why: str) -> None:
        """Say that the step had nothing to do."""
        self.status = StepStatus.SKIPPED
        self.detail = why


_FIXES = {
    Step.CONFIG: "correct the measured configuration",
    Step.ATTESTER: "check the attester that the configuration names",
    Step.KEYS: "report this",
    Step.MANIFEST: "check the packages against the publisher keys and models of the measured configuration",
    Step.KEY_RELEASE: "check the key policy against this enclave's measurements",
    Step.LOAD: "fetch the package again and run model verify on it",
    Step.ENGINE: "run model inspect on the model: is it of a kind this runtime serves",
    Step.CANARY: "the machine computes wrongly or too slowly: check its load, then the package",
    Step.READY: "free the listen address of the configuration, or change it",
}


@dataclass(slots=True)
class BootReport:
    """What happened so far; *observer* hears of each step as it ends."""

    observer: Callable[[StepReport], None] = lambda _: None
    steps: list[StepReport] = field(default_factory=list)
    releases: list[ReleaseRecord] = field(default_factory=list)
    """Every try to have a key released (key-release.md section 1)."""

    @contextmanager
    def step(self, step: Step) -> Iterator[StepNote]:
        """Time one step, record it, and give an error the step's name and fix.

        Raises:
            EphemeralError: What the step raised, of the same kind.
        """
        begun = time.monotonic()
        note = StepNote()
        try:
            yield note
        except EphemeralError as error:
            self._add(StepReport(step, StepStatus.FAILED, _since(begun), error.message, tuple(self.releases)))
            raise _named(step, error) from error
        except BaseException as error:
            # A bug or a signal: its message may hold anything, its class does not.
            self._add(StepReport(step, StepStatus.FAILED, _since(begun), type(error).__name__, tuple(self.releases)))
            raise
        self._add(StepReport(step, note.status, _since(begun), note.detail))

    def _add(self, report: StepReport) -> None:
        self.steps.append(report)
        self.observer(report)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the report's steps."""
        return [report.to_json() for report in self.steps]


def _release_line(record: ReleaseRecord) -> str:
    """Return a release's record as one line; nothing in it opens anything."""
    context = " ".join(f"{name}={printable(value, 80)}" for name, value in sorted(record.context.items()))
    facts = (
        ("request", record.request_id),
        ("pcr0", record.pcr0),
        ("document sha256", record.document_sha256),
        ("ciphertext sha256", record.ciphertext_sha256),
        ("context", context or None),
    )
    told = "".join(f", {name} {value}" for name, value in facts if value is not None)
    return f"     release of {printable(record.key, 300)}: {record.outcome}{told}"


def _since(begun: float) -> float:
    return (time.monotonic() - begun) * 1_000


def _named(step: Step, error: EphemeralError) -> EphemeralError:
    """Return *error* with the step's name in front and a fix; its kind, and so the exit code, stays."""
    message = f"boot step {step.value!r}: {error.message}"
    hint = error.hint or _FIXES[step]
    if isinstance(error, RejectedError):
        return RejectedError(message, code=error.code, expected=error.expected, actual=error.actual, hint=hint)
    if isinstance(error, MalformedError):
        return MalformedError(message, code=error.code, hint=hint)
    if isinstance(error, IncompleteError):
        return IncompleteError(message, code=error.code, hint=hint)
    if isinstance(error, KeyUnavailableError):
        return KeyUnavailableError(message, kms_error=error.kms_error, hint=hint)
    if isinstance(error, UnavailableError):
        return UnavailableError(message, hint=hint)
    return EphemeralError(message, hint=hint)
