"""Runs `ephemeralml` for transcript tests: in this process, or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ephemeralml.crypto import strict_json


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return strict_json.parse(self.stdout.encode(), max_bytes=1 << 26)


def run(*args: object, cwd: Path | None = None) -> Result:
    """Run the command in this process."""
    from ephemeralml.cli.main import run as run_command

    out, err = StringIO(), StringIO()
    before = Path.cwd()
    try:
        if cwd is not None:
            os.chdir(cwd)
        with redirect_stdout(out), redirect_stderr(err):
            code = run_command([str(arg) for arg in args])
    finally:
        os.chdir(before)
    return Result(int(code), out.getvalue(), err.getvalue())


def run_process(
    *args: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 60
) -> Result:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ephemeralml", *[str(arg) for arg in args]],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
