"""The runtime as its own process, started by the command that operators use."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ephemeralml.attestation.local.authority import Authority
from tests.fakes.booted_runtime import Files, config_source, write_files


@dataclass
class RuntimeProcess:
    """A running `enclave run`."""

    process: "subprocess.Popen[bytes]"
    document: dict[str, Any]
    authority: Authority
    log: Path

    @property
    def address(self) -> str:
        return str(self.document["listen"])

    @property
    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self, seconds: float = 30) -> int:
        self.process.terminate()
        return self.process.wait(seconds)


def command(files: Files, authority: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ephemeralml", "enclave", "run", "--config", str(files.config)),
        *(part for package in files.packages for part in ("--package", str(package))),
        *("--authority", str(authority), "--json", *options),
    ]


@contextlib.contextmanager
def running(folder: Path, *, limits: Mapping[str, Any] | None = None) -> Iterator[RuntimeProcess]:
    """Start a runtime with a tiny model and stop it; its stderr goes to a file."""
    files = write_files(folder, config_source(limits=limits))
    authority = Authority.create(folder / "authority")
    log = folder / "stderr"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command(files, folder / "authority", "-v"), stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            yield RuntimeProcess(process, ready_document(process.stdout, log), authority, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def ready_document(stdout: IO[bytes], log: Path) -> dict[str, Any]:
    """Read the one JSON document that says the runtime is ready."""
    text = b""
    while line := stdout.readline():
        text += line
        with contextlib.suppress(ValueError):
            document: dict[str, Any] = json.loads(text)
            return document
    raise AssertionError(f"no ready document: {log.read_text()}")
