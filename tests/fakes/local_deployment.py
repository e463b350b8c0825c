"""`ephemeralml deploy local` as a process of its own, as an operator runs it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.packages import PUBLISHER
from tests.fakes.serving_command import first_document

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Deployment:
    process: subprocess.Popen[str]
    document: dict[str, Any]

    @property
    def endpoint(self) -> str:
        return str(self.document["endpoint"])

    @property
    def policy(self) -> Path:
        return Path(self.document["policy"])

    def stop(self, signum: int = signal.SIGTERM, seconds: float = 20) -> tuple[int, str]:
        """Signal it and return its exit code and what it said on stderr."""
        self.process.send_signal(signum)
        _, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, err


class NotDeployedError(Exception):
    """It ended with an error instead of a document."""

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(stderr)
        self.code = code
        self.stderr = stderr


@contextmanager
def deployed(*args: object, package: Path | None = None) -> Iterator[Deployment]:
    """Start it and wait for its document."""
    what = ["--demo-model"] if package is None else ["--package", package, "--publisher-key", PUBLISHER.public]
    listen = [] if "--listen" in args else ["--listen", "tcp://127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EPHEMERALML_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ephemeralml", *("deploy", "local", "--json"), *map(str, [*what, *listen, *args])],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        document = first_document(process.stdout)
        if "exit_code" in document:
            _, err = process.communicate(timeout=30)
            assert process.returncode == document["exit_code"]
            raise NotDeployedError(process.returncode, err)
        yield Deployment(process, document)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends within *seconds*."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in {"Z", "X"}:
            return True
        time.sleep(0.02)
    return False
