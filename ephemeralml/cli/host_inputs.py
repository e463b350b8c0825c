"""The inputs of `ephemeralml host run`: what the host's services offer to its enclave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeralml.cli import console
from ephemeralml.cli.address_option import parse_address
from ephemeralml.errors import MalformedError
from ephemeralml.host.package_source import PACKAGE_NAME, FolderSource, PackageSource, StorageSource
from ephemeralml.keyrelease.uris import KeyUri
from ephemeralml.transport import Address, Scheme

if TYPE_CHECKING:
    from ephemeralml.host.services import Services
    from ephemeralml.keyrelease.aws import AwsKms
    from ephemeralml.storage.base import Storage

KMS_PATH = "/kms/decrypt"
LOG_PATH = "/log"


@dataclass(frozen=True, slots=True)
class ServicesRequest:
    """What `host run` was asked to offer, checked."""

    address: Address
    packages: dict[str, PackageSource]
    keys: tuple[str, ...]
    endpoint: str | None
    """Where the KMS is; None for the SDK's own."""
    cid: int | None
    """The only enclave that may ask, where the address is a vsock one."""

    def make(self) -> "Services":
        """Return the services, not started.

        Raises:
            MalformedError: A key's URI is none.
            UnavailableError: A local key has no endpoint.
        """
        from ephemeralml.host.enclave_log import LogDesk
        from ephemeralml.host.key_desk import KeyDesk
        from ephemeralml.host.services import Desk, Offer, Services

        desks: dict[str, Desk] = {LOG_PATH: LogDesk()}
        if self.keys:
            desks[KMS_PATH] = KeyDesk(dict(map(self._releaser, self.keys)))
        return Services(self.address, Offer(self.packages, desks), cid=self.cid)

    def _releaser(self, uri: str) -> "tuple[str, AwsKms]":
        from ephemeralml.keyrelease.aws import AwsKms
        from ephemeralml.keyrelease.providers import open_provider

        provider = open_provider(uri, endpoint=self.endpoint)
        if not isinstance(provider, AwsKms):
            raise console.usage(
                f"--key: {uri} is not released through a host",
                hint="Cloud KMS answers in the clear, so its runtime asks it itself",
            )
        return provider.uri, provider


def services_request(
    services: str | None, packages: Sequence[str], keys: Sequence[str], endpoint: str | None, target: Address
) -> ServicesRequest | None:
    """Check the options; None where no services are wanted.

    Raises:
        UsageError: They contradict each other, or one has no possible value.
    """
    if services is None:
        for option, given in (("--package", packages), ("--key", keys), ("--kms-endpoint", endpoint)):
            if given:
                raise console.usage(
                    f"{option} needs --services", hint="say where the enclave finds them, such as vsock://3:8001"
                )
        return None
    address = parse_address("--services", services)
    if address.scheme not in (Scheme.VSOCK, Scheme.UNIX, Scheme.TCP):
        raise console.usage(f"the services do not listen on {address}", hint="listen on vsock, unix or a loopback port")
    if address.scheme is Scheme.TCP and not address.loopback:
        raise console.usage(
            f"--services: {address} would serve every machine that reaches it", hint="listen on vsock or unix"
        )
    if address.scheme is Scheme.VSOCK and target.scheme is not Scheme.VSOCK:
        raise console.usage(
            "services on vsock answer one enclave, and --target names none",
            hint="give --target vsock://CID:PORT, or listen on unix",
        )
    for key in keys:
        try:
            KeyUri.parse_operator(key)
        except MalformedError as error:
            raise console.usage(f"--key: {error.message}", hint=error.hint) from error
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise console.usage(f"--kms-endpoint: {endpoint[:80]!a} is no http URL", hint="write https://HOST")
    return ServicesRequest(
        address=address,
        packages=_packages(packages),
        keys=tuple(keys),
        endpoint=endpoint,
        cid=target.cid if address.scheme is Scheme.VSOCK else None,
    )


def _packages(options: Sequence[str]) -> dict[str, PackageSource]:
    found: dict[str, PackageSource] = {}
    for option in options:
        name, separator, source = option.partition("=")
        if not separator or not PACKAGE_NAME.fullmatch(name):
            name, source = "", option
        if name in found:
            raise console.usage(
                f"two packages are called {name!r}" if name else "two packages have no name",
                hint="write --package NAME=SOURCE, one name each",
            )
        found[name] = _source(source)
    return found


def _source(source: str) -> PackageSource:
    if "://" in source and not source.startswith("file://"):
        return StorageSource(_opener(source))
    folder = Path(source.removeprefix("file://"))
    if not folder.is_dir():
        raise console.usage(f"the package {source[:200]!r} is no folder", hint="or name s3://BUCKET/PREFIX, gs://…")
    return FolderSource(folder)


def _opener(uri: str) -> "Callable[[], Storage]":
    from ephemeralml.storage.open import open_storage
    from ephemeralml.storage.retry import Retries, RetryPolicy

    # The enclave tries again by itself, so it hears of a failure before it takes silence for a stall.
    retries = Retries(RetryPolicy(tries=4, stall=10.0, call_seconds=25.0))
    try:
        open_storage(uri, retries=retries).close()
    except MalformedError as error:
        raise console.usage(
            f"--package: {error.message}", hint=error.hint or "write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
        ) from error
    return lambda: open_storage(uri, retries=retries)
