"""Child processes as one unit: started together, stopped in reverse, never left behind.

A child is an `ephemeralml` command, ready when it has printed its JSON
document on stdout. None is ever restarted: a runtime that died has lost its
keys, and whoever relied on it must hear so.
"""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

from ephemeralml.errors import UnavailableError

_ERROR_SCHEMA = "ephemeralml.error/1"
_MAX_READY_BYTES = 1_048_576
_MAX_LINE_BYTES = 8_192
_TAIL_LINES = 40
_JOIN_SECONDS = 2.0
_LOOK_SECONDS = 0.25

OnLine = Callable[[str, str], None]
"""Called with a child's name and one line of its stderr, from that child's own thread."""


@dataclass(frozen=True, slots=True)
class Command:
    """One child."""

    name: str
    """What people call it: ``runtime``, ``relay``."""
    arguments: tuple[str, ...]
    """Of *module*."""
    module: str = "ephemeralml"
    """What Python runs: the `ephemeralml` command."""
    ready_seconds: float = 30.0
    """How long it may take to say that it is ready."""
    stop_seconds: float = 10.0
    """How long it may take to end after SIGTERM."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what it inherits."""
    withheld: tuple[str, ...] = ()
    """It inherits no variable that begins with one of these."""


class ChildFailedError(UnavailableError):
    """A child ended, or did not become ready.

    Args:
        name: The child's name.
        message: What happened.
        exit_code: Its exit status, negative for a signal, None if it did not end.
        hint: What to do.
    """

    def __init__(self, name: str, message: str, *, exit_code: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.name = name
        """The child's name."""
        self.exit_code = exit_code
        """Its exit status, or None."""


class _Child:
    """A started command and the three threads that listen to it."""

    def __init__(self, command: Command, on_line: OnLine, ended: "queue.SimpleQueue[_Child]") -> None:
        self.command = command
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, a list of arguments
            # -P: with -m alone, Python would import from the folder that the operator happens to stand in.
            [
                sys.executable,
                "-P",
                "-m",
                "ephemeralml.host.child",
                str(os.getpid()),
                command.module,
                *command.arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A Ctrl-C at the terminal reaches the supervisor alone, which stops its children in order.
            start_new_session=True,
            env=_environment(command),
        )
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._announced: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._on_line = on_line
        self._ended = ended
        self._over = threading.Event()
        self._reaping = threading.Lock()
        self.stopping = False
        self._threads = [
            threading.Thread(target=target, name=f"{command.name}-{target.__name__}", daemon=True)
            for target in (self._read_stdout, self._read_stderr, self._wait)
        ]
        for thread in self._threads:
            thread.start()

    def ready(self, deadline: float) -> dict[str, Any]:
        """Wait for the document that says the child is ready."""
        name = self.command.name
        try:
            document = self._announced.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            message = f"the {name} is not ready after {self.command.ready_seconds:g} s"
            raise ChildFailedError(name, message, exit_code=None, hint=self.last_words) from None
        if document is not None:
            return document
        self.join(_JOIN_SECONDS)
        raise self.failure()

    def failure(self) -> ChildFailedError:
        """Return the error that the child's end means."""
        name, code = self.command.name, self.process.returncode
        if code is None:
            how = "closed its output"
        else:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        error, hint = self._complaint()
        return ChildFailedError(name, f"the {name} {how}" + (f": {error}" if error else ""), exit_code=code, hint=hint)

    @property
    def last_words(self) -> str | None:
        """The last line that the child wrote to stderr."""
        return f"its last line was: {self._tail[-1]}" if self._tail else None

    def _complaint(self) -> tuple[str | None, str | None]:
        """Return what the child itself said is wrong, and its hint."""
        found: dict[str, str] = {}
        for line in self._tail:
            label, colon, text = line.partition(": ")
            if colon and label in {"error", "hint"}:
                found[label] = text
        return found.get("error"), found.get("hint") or (None if "error" in found else self.last_words)

    def stop(self, signum: signal.Signals) -> None:
        """Send *signum* to the child; what it leaves behind is killed when it has ended."""
        self.stopping = True
        with self._reaping:
            if self.process.returncode is None:
                os.kill(self.process.pid, signum)

    def join(self, seconds: float) -> bool:
        """Wait for the end; returns whether it came."""
        if not self._over.wait(seconds):
            return False
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        return True

    def _read_stdout(self) -> None:
        stream: IO[bytes] = self.process.stdout  # type: ignore[assignment] # PIPE was asked for
        with stream:
            text = bytearray()
            while len(text) <= _MAX_READY_BYTES:
                line = stream.readline(_MAX_READY_BYTES)
                if not line:
                    break
                text += line
                if (document := _document(text)) is not None:
                    # A command that fails under --json says that as a document too.
                    failed = document.get("schema") == _ERROR_SCHEMA
                    self._announced.put(None if failed else document)
                    break
            else:
                text.clear()
            self._announced.put(None)
            while stream.read(65_536):
                pass  # a full pipe would stop the child

    def _read_stderr(self) -> None:
        stream: IO[bytes] = self.process.stderr  # type: ignore[assignment] # PIPE was asked for
        with stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                text = _printable(line)
                self._tail.append(text)
                self._on_line(self.command.name, text)

    def _wait(self) -> None:
        pid = self.process.pid
        # Until it is reaped its number, and that of its group, belong to nobody else.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self.process.wait()
        self._over.set()
        self._ended.put(self)


class Supervisor:
    """Runs children until one of them ends or it is told to stop.

    Use it as a context manager; leaving the block stops every child, last started
    first. Start children from the thread that leaves the block (`child`).

    Args:
        on_line: Gets the children's stderr.
    """

    def __init__(self, on_line: OnLine | None = None) -> None:
        self._on_line = on_line or (lambda _name, _line: None)
        self._children: list[_Child] = []
        self._ended: queue.SimpleQueue[_Child] = queue.SimpleQueue()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each child, by name."""
        return {child.command.name: child.process.pid for child in self._children}

    def start(self, *commands: Command) -> dict[str, dict[str, Any]]:
        """Start *commands* at once and return, by name, the document each printed when it was ready.

        Raises:
            ChildFailedError: One ended first, or took too long.
        """
        began = time.monotonic()
        children = [self._launch(command) for command in commands]
        return {child.command.name: child.ready(began + child.command.ready_seconds) for child in children}

    def _launch(self, command: Command) -> _Child:
        try:
            child = _Child(command, self._on_line, self._ended)
        except OSError as error:
            message = f"cannot start the {command.name}: {error.strerror}"
            raise ChildFailedError(command.name, message, exit_code=None) from error
        self._children.append(child)
        return child

    def wait(self, seconds: float | None = None) -> None:
        """Return after *seconds*; without them, never.

        Raises:
            ChildFailedError: A child ended although nobody asked it to.
        """
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            # Never for long: a signal that comes just before a thread falls asleep does
            # not wake it, and its Python handler runs only once the thread is awake.
            with contextlib.suppress(queue.Empty):
                child = self._ended.get(timeout=min(left, _LOOK_SECONDS))
                if not child.stopping:
                    child.join(_JOIN_SECONDS)
                    raise child.failure()

    def stop(self) -> None:
        """Stop every child, last started first: ask, wait, then kill its group."""
        for child in reversed(self._children):
            child.stop(signal.SIGTERM)
            if not child.join(child.command.stop_seconds):
                child.stop(signal.SIGKILL)
                child.join(_JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _document(text: bytearray) -> dict[str, Any] | None:
    """Return the JSON object that *text* is, or None while it is incomplete."""
    if not text.rstrip().endswith(b"}"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _printable(line: bytes) -> str:
    """Return one line of a child's output without what could steer a terminal."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _environment(command: Command) -> dict[str, str]:
    """Return this process's environment without option defaults: a child obeys its arguments alone.

    The settings file of the working folder is an option default too.
    """
    withheld = ("EPHEMERALML_", *command.withheld)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
    return {**inherited, "EPHEMERALML_SETTINGS": os.devnull, **command.environment}
