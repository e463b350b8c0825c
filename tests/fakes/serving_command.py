"""An `ephemeralml` command that serves, as a process of its own: ready when it has printed its document."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

STOP_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Serving:
    """A command that is ready."""

    pid: int
    document: dict[str, Any]


def first_document(stream: IO[str]) -> dict[str, Any]:
    """Read the JSON document that a command prints when it is ready, or when it fails."""
    text = ""
    for line in stream:
        text += line
        if line == "}\n":
            break
    document: dict[str, Any] = json.loads(text)
    return document


@contextmanager
def serving(
    folder: Path, *arguments: str, log: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Run a command in *folder*, and end it cleanly; what it says is appended to *log*."""
    with (log or Path(os.devnull)).open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ephemeralml", *arguments, "--json"],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        document = first_document(process.stdout)
        assert "error" not in document, document
        yield Serving(process.pid, document)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
    finally:
        process.kill()
        process.communicate()
