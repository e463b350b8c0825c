"""The host's services as a test starts them: the real server, over a socket of the test's own.

`SealingKms` stands where a KMS does: it opens what `OneKey` wrapped and seals
it to the recipient of the attestation document, as production code does. It
judges no document; `tests.fakes.kms_server` runs the one that does.
"""

import contextlib
import http.client
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ephemeralml.attestation.nitro import document as nitro
from ephemeralml.crypto import cms
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.host.key_desk import KeyDesk, Releaser
from ephemeralml.host.package_source import FolderSource, PackageSource
from ephemeralml.host.services import Desk, Offer, ServiceLimits, Services
from ephemeralml.keyrelease.aws import Released
from ephemeralml.transport.address import Address
from tests.fakes.key_source import OneKey

KMS_PATH = "/kms/decrypt"
BLOB = f"blobs/{'ab' * 32}.eml"


class Client(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("services", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self._path)

    def ask(self, method: str, target: str, body: bytes | None = None, **fields: str) -> tuple[int, Any, bytes]:
        self.request(method, target, body, {name.replace("_", "-"): value for name, value in fields.items()})
        response = self.getresponse()
        return response.status, response.headers, response.read()


class SealingKms:
    """A `Releaser` that releases to every document."""

    def __init__(self, keys: OneKey) -> None:
        self.keys = keys
        self.documents: list[bytes] = []

    def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
        """Open the wrapped key and seal it to the document's recipient."""
        self.documents.append(document)
        public_key = nitro.parse(document).public_key
        assert public_key is not None
        entry = WrappedKey("local", self.keys.uri, ciphertext, context)
        with self.keys.open(entry) as dek:
            sealed = cms.wrap(public_key, bytes(dek.reveal()), constructed=True)
        return Released(sealed, self.keys.uri.partition(":")[2], "11111111-2222-3333-4444-555555555555")


def folders(packages: Mapping[str, Path]) -> dict[str, PackageSource]:
    """Return package folders as sources."""
    return {name: FolderSource(folder) for name, folder in packages.items()}


@contextlib.contextmanager
def services(
    path: Path,
    packages: Mapping[str, PackageSource],
    keys: Mapping[str, Releaser] | None = None,
    *,
    limits: ServiceLimits | None = None,
    desks: Mapping[str, Desk] | None = None,
    change: Callable[[Offer], Offer] = lambda offer: offer,
) -> Iterator[Services]:
    """Serve *packages* and *keys* on the socket *path* until the block ends."""
    every: dict[str, Desk] = {KMS_PATH: KeyDesk(keys or {}), **(desks or {})}
    server = Services(Address.parse(f"unix://{path}"), change(Offer(packages, every)), limits)
    server.start()
    try:
        yield server
    finally:
        server.stop()
