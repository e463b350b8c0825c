"""A real GCS server for tests: gcp-storage-emulator."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fakes.server_process import free_port, serving

BUCKET = "models"


@dataclass(frozen=True, slots=True)
class GcsServer:
    """A running emulator, and how to reach it."""

    endpoint: str

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables that lead google-cloud-storage here, or through a proxy at *endpoint*."""
        return {"STORAGE_EMULATOR_HOST": endpoint or self.endpoint}


@contextlib.contextmanager
def gcs_emulator() -> Iterator[GcsServer]:
    """The emulator, in memory, with the bucket `BUCKET`."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    with serving([*command, "--in-memory", "--quiet", "--default-bucket", BUCKET], port, env=os.environ):
        yield GcsServer(f"http://127.0.0.1:{port}")
