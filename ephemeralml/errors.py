"""One root error and its four meanings.

Whoever catches an `EphemeralError` can tell what to do next from its class
alone: the input does not parse, it parses but must not be trusted, something
needed is missing, or the question could not be decided. A bug is none of these
and stays an ordinary Python exception.
"""

from typing import Any


class EphemeralError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: What is wrong, lower-case start, no full stop. Never a secret.
        hint: What the reader can do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        """What is wrong, for people."""
        self.hint = hint
        """What to do about it, or None."""


class MalformedError(EphemeralError):
    """The input does not parse as what it should be.

    Args:
        message: What is wrong.
        code: A name from the format's specification, if it has one.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """The specification's name for the fault, or None."""


class RejectedError(EphemeralError):
    """The input parses and must not be trusted.

    Args:
        message: What is wrong.
        code: The specification's name for the fault.
        expected: The value that was wanted, where there is one.
        actual: The value that was found.
        hint: What to do about it.
    """

    def __init__(
        self, message: str, *, code: str, expected: Any = None, actual: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """The specification's name for the fault."""
        self.expected = expected
        """What was wanted, or None."""
        self.actual = actual
        """What was found, or None."""


class UnavailableError(EphemeralError):
    """A service, device, tool, network or permission is missing."""


class IncompleteError(EphemeralError):
    """Nothing failed, but something that was required could not be checked.

    Args:
        message: What could not be decided.
        code: The specification's name for what is missing.
        hint: What to supply.
    """

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """The specification's name for what is missing, or None."""
