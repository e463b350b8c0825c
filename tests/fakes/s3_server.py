"""Real S3 servers for tests: moto's always, s3rver where it is installed."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fakes.server_process import free_port, serving

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "models"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server, and how to reach it."""

    kind: str
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables that lead boto3 here, or through a proxy at *endpoint*."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> "S3Client":
        """A plain client, for looking from outside; close it."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """Moto's server, with the bucket `BUCKET`."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, port, env=os.environ):
        yield _with_bucket(S3Server("moto", f"http://127.0.0.1:{port}", "testing", "testing"))


def s3rver_program() -> str | None:
    """Where s3rver is, or None: EPHEMERALML_S3RVER, the environment's folder, or the PATH."""
    installed = REPOSITORY / ".venv" / "s3rver" / "node_modules" / ".bin" / "s3rver"
    for place in (os.environ.get("EPHEMERALML_S3RVER"), str(installed), shutil.which("s3rver")):
        if place and Path(place).exists():
            return place
    return None


@contextlib.contextmanager
def s3rver() -> Iterator[S3Server]:
    """s3rver, which stores on disk and is fast with ranges, with the bucket `BUCKET`."""
    program = s3rver_program()
    assert program is not None, "s3rver is not installed"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "-d", folder, "-a", "127.0.0.1", "-p", str(port), "--silent"]
        with serving(command, port, env=os.environ):
            yield _with_bucket(S3Server("s3rver", f"http://127.0.0.1:{port}", "S3RVER", "S3RVER"))


def _with_bucket(server: S3Server) -> S3Server:
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)
    return server
