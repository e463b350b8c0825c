"""Standard streams as a caller left them: closed, full, or unable to carry a character."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

_WHERE_CLOSED = ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))
"""How each closed descriptor is occupied: stdout so that writing to it fails, as it does where it is closed."""


class ResultStream(io.TextIOWrapper):
    """Stdout that remembers what went wrong with it.

    Without a buffer the one failing write is all that tells; whoever asks
    later, to set the exit code, would find nothing amiss.
    """

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write *text*; raises as any file does."""
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise


def prepare() -> None:
    """Occupy descriptors that were closed, lest the next file opened becomes stdout; escape what cannot be shown."""
    for descriptor, mode in _WHERE_CLOSED:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", write_through=True)
    if sys.stdout is None:
        sys.stdout = ResultStream(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _remembering(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal or pipe that cannot carry a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")


def failure(stream: TextIO) -> OSError | None:
    """Return why something that was written to *stream* has not gone out; None where all has."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return getattr(stream, "failure", None)


def forget(stream: TextIO) -> None:
    """Let what *stream* still holds go nowhere, so that the interpreter's end has nothing to complain of."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _remembering(stream: io.TextIOWrapper) -> ResultStream:
    how: dict[str, Any] = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    encoding = stream.encoding
    made = ResultStream(stream.detach(), encoding, newline="\n", **how)
    sys.__stdout__ = made  # type: ignore[misc] # what it was has no buffer any more
    return made
