"""Trying again, within bounds: key-release.md section 1, last row but one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

Answer = TypeVar("Answer")


class TransientError(Exception):
    """A failure that another try may cure; never leaves this package.

    Args:
        error: What to raise when no try is left.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
        """What to raise when no try is left."""


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often and how long; the defaults are the specification's."""

    tries: int = 5
    shortest_wait: float = 0.2
    longest_wait: float = 5.0
    total: float = 60.0
    """Seconds in all; no wait begins that would end later."""
    sleep: Callable[[float], None] = time.sleep

    def run(self, call: Callable[[], Answer]) -> Answer:
        """Return what *call* returns, calling again where it raises `TransientError`.

        Raises:
            Exception: Whatever else *call* raises, at once, and the last
                transient error's `error`.
        """
        return Retrying(
            sleep=self.sleep,
            stop=stop_after_attempt(self.tries) | stop_before_delay(self.total),
            wait=wait_random_exponential(
                multiplier=2 * self.shortest_wait, min=self.shortest_wait, max=self.longest_wait
            ),
            retry=retry_if_exception_type(TransientError),
            retry_error_callback=_give_up,
        )(call)


def _give_up(state: RetryCallState) -> NoReturn:
    outcome = state.outcome
    assert outcome is not None
    failure = outcome.exception()
    assert isinstance(failure, TransientError)
    raise failure.error from failure.__cause__
