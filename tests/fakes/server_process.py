"""Servers that tests start as processes of their own, on ports of their own."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, *, env: Mapping[str, str], seconds: float = 60) -> Iterator[None]:
    """Run *command* until the block ends; the block begins when *port* accepts."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env))
        try:
            _wait(process, port, seconds)
            yield
        except TimeoutError as error:
            log.seek(0)
            raise AssertionError(f"{command[0]} did not start: {log.read()[-2000:]!r}") from error
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(command_state(process))


def command_state(process: "subprocess.Popen[bytes]") -> str:
    """Whether *process* still runs, for messages."""
    return "it runs and does not listen" if process.poll() is None else f"it ended with {process.returncode}"
