"""The real `ephemeralml kms serve`, started by the command that operators use, and boto3 clients for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.attestation.local.authority import Authority
from tests.fakes.runtime_process import ready_document

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

ADMINISTRATOR = "administrator"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class KmsServer:
    """A running key server.

    `client(name)` calls it as a principal: ``administrator`` (identity policy
    ``kms:*``) and whoever `running` was asked to add. `authority` signs the
    documents that it trusts.
    """

    state: Path
    options: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = None
    document: dict[str, Any] = field(default_factory=dict)
    _clients: list[Any] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return str(self.document["endpoint"])

    @property
    def account(self) -> str:
        return str(self.document["account"])

    @property
    def region(self) -> str:
        return str(self.document["region"])

    @property
    def authority_folder(self) -> Path:
        return self.state / "authority"

    @property
    def authority(self) -> Authority:
        return Authority.load(self.authority_folder)

    @property
    def log(self) -> Path:
        return self.state.with_name(f"{self.state.name}.stderr")

    def arn(self, name: str = ADMINISTRATOR) -> str:
        return f"arn:aws:iam::{self.account}:{'root' if name == 'root' else f'role/{name}'}"

    def credentials(self, name: str = ADMINISTRATOR) -> tuple[str, str]:
        parser = ConfigParser()
        parser.read(self.state / "credentials" / name)
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]

    def environment(self, name: str = ADMINISTRATOR) -> dict[str, str]:
        """What a process needs to call the server as a principal."""
        access_key, secret = self.credentials(name)
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_KMS": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, name: str = ADMINISTRATOR, **options: Any) -> "KMSClient":
        """A boto3 client for one principal; closed with the server."""
        import boto3
        from botocore.config import Config

        access_key, secret = self.credentials(name)
        config = Config(retries={"total_max_attempts": 1}, **options)
        made = boto3.session.Session(access_key, secret, region_name=self.region).client(
            "kms", endpoint_url=self.endpoint, config=config
        )
        self._clients.append(made)
        return made

    def start(self, *options: str) -> None:
        listen = () if "--listen" in (*self.options, *options) else ("--listen", "127.0.0.1:0")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EPHEMERALML_")}
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ephemeralml", "kms", "serve", "--state", str(self.state)),
                    *(*listen, *self.options, *options, "--json"),
                ],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self.process.stdout is not None
        self.document = ready_document(self.process.stdout, self.log)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End the process and return how it ended."""
        assert self.process is not None
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def add(self, *names: str, policy: Mapping[str, Any] | None = None) -> None:
        """Add principals, even while the server runs."""
        extra: list[str] = []
        if policy is not None:
            path = self.state.with_name("identity-policy.json")
            path.write_text(json.dumps(policy))
            extra = ["--identity-policy", str(path)]
        for name in names:
            subprocess.run(
                [
                    *(sys.executable, "-m", "ephemeralml", "kms", "serve", "--state", str(self.state)),
                    *("--add-principal", name, *extra),
                ],
                cwd=ROOT,
                check=True,
                capture_output=True,
            )


@contextlib.contextmanager
def running(
    folder: Path, *, principals: Sequence[str] = ("publisher", "parent"), options: Sequence[str] = ()
) -> Iterator[KmsServer]:
    """Start a key server with a fresh state below *folder*; it is killed at the end if it still runs.

    Args:
        folder: A temporary folder.
        principals: Roles beside the administrator, without identity policies.
        options: Further ones of `kms serve`, kept for every start.
    """
    server = KmsServer(folder / "kms", options)
    try:
        server.start("--init", *(part for name in principals for part in ("--add-principal", name)))
        yield server
    finally:
        if server.process is not None:
            server.stop(signal.SIGKILL)
