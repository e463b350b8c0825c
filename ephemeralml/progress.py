"""How long work reports where it stands, without knowing who is watching.

Library code calls a `Progress`; the default says nothing. The command line
passes one that draws a bar on a terminal and prints plain lines elsewhere.
"""

from typing import Protocol


class Progress(Protocol):
    """Observer of work that takes longer than a second."""

    def step(self, name: str) -> None:
        """Note that the step called *name* begins."""

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        """Note that *done* of *total* units of the current step are finished."""


class Silent:
    """A `Progress` that nobody watches."""

    def step(self, name: str) -> None:
        """Say nothing."""

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        """Say nothing."""
