"""The exit codes of the command line's contract, and the one mapping to them."""

from collections.abc import Iterable
from enum import IntEnum

from ephemeralml.attestation.verdict import Verdict
from ephemeralml.errors import (
    EphemeralError,
    IncompleteError,
    MalformedError,
    RejectedError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """What a script learns from the command's end."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    REJECTED = 3
    MALFORMED = 4
    UNAVAILABLE = 5
    INCOMPLETE = 6
    CHANGES = 10
    INTERRUPTED = 130


_WORST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.USAGE,
    ExitCode.MALFORMED,
    ExitCode.REJECTED,
    ExitCode.INCOMPLETE,
    ExitCode.UNAVAILABLE,
)


class Exit(Exception):  # noqa: N818 - an order to end, no error
    """Ends a command that has already printed its result.

    Args:
        code: The exit status.
    """

    def __init__(self, code: ExitCode) -> None:
        super().__init__(code.name)
        self.code = code
        """The exit status."""


class UsageError(EphemeralError):
    """The options contradict each other, or name an input that is not there."""


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the code that wins when several inputs ended differently."""
    seen = set(codes)
    return next((code for code in _WORST_FIRST if code in seen), ExitCode.OK)


def of_error(error: EphemeralError) -> ExitCode:
    """Return the exit code that *error* means."""
    for kind, code in (
        (UsageError, ExitCode.USAGE),
        (RejectedError, ExitCode.REJECTED),
        (MalformedError, ExitCode.MALFORMED),
        (UnavailableError, ExitCode.UNAVAILABLE),
        (IncompleteError, ExitCode.INCOMPLETE),
    ):
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def of_verdict(verdict: Verdict) -> ExitCode:
    """Return the exit code that *verdict* means."""
    return ExitCode[verdict.name] if verdict is not Verdict.VERIFIED else ExitCode.OK
