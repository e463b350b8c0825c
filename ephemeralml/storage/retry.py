"""Deadlines, and trying again: one policy for every adapter.

The libraries' own retries are switched off, so that what this page says is all
that happens: a fault that may pass is tried again after a growing, jittered wait,
until the tries, the time of the call or the time of the whole are used up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

import tenacity

from ephemeralml.errors import UnavailableError

T = TypeVar("T")


CHECK_ENDPOINT = "check the network, and the endpoint that the environment names"
"""What to do about a place that cannot be reached."""


class TransientFault(Exception):  # noqa: N818 - a fault that may pass; it never leaves the package
    """Something that may go better the next time.

    Args:
        message: What happened.
        done: Bytes that arrived before.
        retry_after: Seconds the server asks us to wait.
        hint: What to do if it does not go better.
    """

    def __init__(
        self, message: str, *, done: int = 0, retry_after: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.done = done
        self.retry_after = retry_after
        self.hint = hint


class Deadline:
    """An instant on a steady clock after which nothing is tried any more.

    Args:
        seconds: From now; None never ends.
        clock: What counts the seconds.
    """

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = seconds
        self._end = inf if seconds is None else clock() + seconds

    def left(self) -> float:
        """Return the seconds that remain, infinite where there is no end, never below zero."""
        return max(0.0, self._end - self._clock())

    def timeout(self, longest: float) -> float:
        """Return how long one wait may last; never zero, which sockets read as *do not block*."""
        return max(0.001, min(longest, self.left()))

    def check(self, what: str) -> None:
        """Do nothing before the end.

        Raises:
            UnavailableError: It is past the end.
        """
        if self.left() <= 0:
            raise UnavailableError(f"cannot {what}: the deadline of {self._seconds:g} s has passed")

    def within(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and one *seconds* from now."""
        return Deadline(min(seconds, self.left()), clock=self._clock)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient an adapter is."""

    tries: int = 5
    """Tries that bring nothing forward, before giving up."""
    first_wait: float = 0.2
    """Seconds before the second try, about; doubled each time."""
    longest_wait: float = 5.0
    """Seconds that no wait exceeds, even if a server asks for more."""
    stall: float = 20.0
    """Seconds of silence after which a connection counts as dead."""
    call_seconds: float = 600.0
    """Seconds for one range or one request, tries and waits included."""


@dataclass(frozen=True, slots=True)
class Retries:
    """A policy, and the deadline of everything one `Storage` does."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    deadline: Deadline = field(default_factory=Deadline)
    sleep: Callable[[float], None] = time.sleep

    def call(self, what: str, action: Callable[[Deadline], T], *, limit: Deadline | None = None) -> T:
        """Return what *action* returns, tried again while it raises `TransientFault`.

        Args:
            what: What is being done, to follow *cannot*.
            action: Gets the deadline that it must keep.
            limit: The deadline, where the caller has one narrower than the policy's.

        Raises:
            UnavailableError: The last try failed too, or time ran out.
        """
        limit = limit or self.deadline.within(self.policy.call_seconds)
        self.deadline.check(what)
        retrying = tenacity.Retrying(
            stop=lambda state: state.attempt_number >= self.policy.tries or limit.left() <= 0,
            wait=lambda state: min(self._wait(state), limit.left()),
            retry=tenacity.retry_if_exception_type(TransientFault),
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(action, limit)
        except TransientFault as fault:
            tries = retrying.statistics["attempt_number"]
            self._out_of_time(what, fault, limit)
            raise UnavailableError(f"cannot {what}: {fault}, {tries} times", hint=fault.hint) from fault

    def _wait(self, state: tenacity.RetryCallState) -> float:
        wait = tenacity.wait_exponential_jitter(
            multiplier=self.policy.first_wait, max=self.policy.longest_wait, jitter=self.policy.first_wait
        )(state)
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.retry_after if isinstance(fault, TransientFault) else None
        return max(wait, min(asked or 0.0, self.policy.longest_wait))

    def _out_of_time(self, what: str, fault: TransientFault, limit: Deadline) -> None:
        if self.deadline.left() <= 0 or limit.left() <= 0:
            raise UnavailableError(f"cannot {what} in time: {fault}", hint="the deadline has passed") from fault
