"""Every order to stop unwinds a command as Ctrl-C does, so that what it began is taken back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does; by themselves they end the process on the spot.

    A SIGHUP that is ignored, as `nohup` has it, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signum: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def resumable() -> Iterator[None]:
    """Let an order to stop end the block, and the command, with the word that the same command goes on.

    Raises:
        Exit: The block was interrupted.
    """
    try:
        with signals_interrupt():
            yield
    except KeyboardInterrupt:
        _heed_no_more()
        console.say("interrupted; run it again to go on")
        raise Exit(ExitCode.INTERRUPTED) from None


def _heed_no_more() -> None:
    """Let further Ctrl-Cs pass: the process is ending, and a second one would only leave a traceback."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
