"""What commands say, and where: results to stdout, everything else to stderr.

A command gets the console of its invocation with `current()`. It renders its
result once, for people, and hands the same result as a JSON document; which of
the two is printed is decided here, and so are colour, progress and files.
"""

import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.cli.exit_codes import UsageError
from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.progress import Progress, Silent

if TYPE_CHECKING:
    import rich.console


@dataclass
class Console:
    """Output settings of one invocation."""

    json: bool = False
    """Print one JSON document instead of text."""
    plain: bool = False
    """No colour, no bars, no tables drawn with lines."""
    quiet: bool = False
    """No notes and no progress; errors and warnings stay."""
    verbosity: int = 0

    @property
    def interactive(self) -> bool:
        """Whether stderr is a terminal that wants colour and bars."""
        off = self.plain or self.json or "NO_COLOR" in os.environ or "CI" in os.environ
        return sys.stderr.isatty() and not off

    def printer(self, *, stderr: bool = False) -> "rich.console.Console":
        """Return a rich console for stdout (or stderr) under these settings."""
        from rich.console import Console as RichConsole

        stream = sys.stderr if stderr else sys.stdout
        styled = stream.isatty() and not self.plain and "NO_COLOR" not in os.environ and "CI" not in os.environ
        width = None if styled else max(_columns(), 100)
        return RichConsole(
            file=stream, no_color=not styled, force_terminal=styled, highlight=False, soft_wrap=not styled, width=width
        )

    def result(self, document: Any, text: Callable[["rich.console.Console"], None]) -> None:
        """Print the command's result: *document* with ``--json``, else what *text* renders."""
        if self.json:
            # ASCII, so that nothing a document quotes can steer the terminal.
            print(json.dumps(document, indent=2))
        else:
            text(self.printer())

    def note(self, text: str) -> None:
        """Tell the person at the terminal something that is no result."""
        if not self.quiet:
            say(visible(text))

    def detail(self, text: str) -> None:
        """Tell what only ``-v`` asks for."""
        if self.verbosity and not self.quiet:
            say(visible(text))

    def warning(self, text: str) -> None:
        """Print a warning; ``--quiet`` does not hide it."""
        say(self._paint("warning:", "33"), visible(text))

    def error(self, error: EphemeralError, code: int) -> None:
        """Print *error* and its hint, and with ``--json`` a document that says the same."""
        say(self._paint("error:", "31"), visible(error.message))
        if error.hint:
            say(self._paint("hint:", "36"), visible(error.hint))
        if self.json:
            name = getattr(error, "code", None)
            document = {
                "schema": "ephemeralml.error/1",
                "error": error.message,
                "hint": error.hint,
                "code": name,
                "exit_code": code,
            }
            with suppress(OSError):  # where stdout takes nothing, that is found and said at the end
                print(json.dumps(document))

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[1;{colour}m{text}\x1b[0m" if self.interactive else text

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show how long work stands: a bar on a terminal, a line per step elsewhere."""
        if self.quiet:
            yield Silent()
        elif self.interactive:
            from ephemeralml.cli.progress_bar import live_progress

            with live_progress(self.printer(stderr=True)) as shown:
                yield shown
        else:
            yield _Lines(self)


@dataclass
class _Lines:
    """Progress where nothing can be redrawn: one line as each step begins."""

    console: Console

    def step(self, name: str) -> None:
        self.console.note(f"{name} …")

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        """Say nothing: a log has no use for every percent."""


def say(*words: str) -> None:
    """Print a line to stderr; where that takes nothing, the exit code has to do."""
    with suppress(OSError):
        print(*words, file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Return *text* with everything escaped that could steer a terminal or turn the order of its letters."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 100


_current = Console()


def current() -> Console:
    """Return the console of the running command."""
    return _current


def reset() -> Console:
    """Start a new invocation with the default console and return it."""
    global _current  # noqa: PLW0603 - one command runs per process
    _current = Console()
    return _current


def usage(message: str, *, hint: str | None = None) -> UsageError:
    """Return the error for options that cannot be meant; the caller raises it."""
    return UsageError(message, hint=hint)


def read_file(path: Path, *, max_bytes: int, what: str) -> bytes:
    """Read an input file that the command line named.

    Raises:
        UsageError: It does not exist, is no regular file, or cannot be read.
        EphemeralError: It is larger than *max_bytes*.
    """
    from ephemeralml.errors import MalformedError

    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise usage(f"cannot read {what} {str(path)!r}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise MalformedError(f"{what} {str(path)!r} has more than {max_bytes} bytes")
    return data


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output path before any work is done.

    Raises:
        UsageError: It exists and *force* is off, or its folder does not exist.
    """
    try:
        folder = path.parent.is_dir()
        taken = path.lstat() if folder else None
    except FileNotFoundError:
        taken = None
    except (OSError, ValueError) as error:
        raise usage(f"{str(path)[:80]!r} is no name for a file here") from error
    if taken and stat.S_ISDIR(taken.st_mode):
        raise usage(f"{str(path)!r} is a folder")
    if taken and not force:
        raise usage(f"{str(path)!r} exists", hint="choose another name, or add --force to overwrite it")
    if not folder:
        raise usage(f"the folder of {str(path)!r} does not exist")


def check_creatable(path: Path, *, force: bool) -> None:
    """Refuse an output path before long work, having tried to make a file beside it.

    Raises:
        UsageError: As `check_writable`.
        UnavailableError: The disk or the permissions do not allow it.
    """
    check_writable(path, force=force)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UnavailableError(f"cannot write {str(path)!r}: {error.strerror}") from error


def write_file(path: Path, data: bytes, *, force: bool, private: bool = False) -> None:
    """Write an output file atomically; *private* gives it mode 0600.

    Raises:
        UsageError: As `check_writable`.
        UnavailableError: The disk or the permissions do not allow it.
    """
    check_writable(path, force=force)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600 if private else 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)
            Path(temporary).unlink()
    except FileExistsError as error:
        _discard(temporary)
        raise usage(f"{str(path)!r} exists", hint="choose another name, or add --force to overwrite it") from error
    except OSError as error:
        _discard(temporary)
        raise UnavailableError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _discard(temporary: str | None) -> None:
    if temporary is not None:
        Path(temporary).unlink(missing_ok=True)
