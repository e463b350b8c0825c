"""The inputs of `ephemeralml host run`: what the host's services offer to its enclave."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeralml.cli import console
from ephemeralml.cli.address_option import parse_address
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.host import first_look
from ephemeralml.host.package_source import PACKAGE_NAME, FolderSource, PackageSource, StorageSource
from ephemeralml.keyrelease.uris import KeyUri, Provider
from ephemeralml.storage.retry import Retries, RetryPolicy
from ephemeralml.transport import Address, Scheme

if TYPE_CHECKING:
    from ephemeralml.host.services import Services
    from ephemeralml.keyrelease.aws import AwsKms
    from ephemeralml.storage.base import Storage

KMS_PATH = "/kms/decrypt"
LOG_PATH = "/log"
_PACKAGE_HINT = "is there a package? `ephemeralml model upload` puts one; check bucket, prefix and endpoint"


@dataclass(frozen=True, slots=True)
class OfferedPackage:
    """A package of `--package`."""

    option: str
    """The option, for messages."""
    source: PackageSource
    first: PackageSource
    """The same, impatient: for one look, whose version is forgotten after."""


@dataclass(frozen=True, slots=True)
class ServicesRequest:
    """What `host run` was asked to offer, checked."""

    address: Address
    packages: "dict[str, OfferedPackage]"
    keys: tuple[str, ...]
    endpoint: str | None
    """Where the KMS is; None for the SDK's own."""
    cid: int | None
    """The only enclave that may ask, where the address is a vsock one."""

    def look(self) -> None:
        """Look at every package and every key's way once; nothing listens yet.

        Raises:
            EphemeralError: One cannot be served; which, where and what to do, the message and hint say.
        """
        looks: dict[str, Callable[[], None]] = {
            package.option: partial(_look_at_package, package) for package in self.packages.values()
        }
        looks |= {f"--key {key}": partial(_look_at_key, key, self.endpoint) for key in self.keys}
        first_look.all_within(first_look.SECONDS, looks)

    def make(self) -> "Services":
        """Return the services, not started.

        Raises:
            MalformedError: A key's URI is none.
            UnavailableError: A local key has no endpoint.
        """
        from ephemeralml.host.enclave_log import LogDesk
        from ephemeralml.host.key_desk import KeyDesk
        from ephemeralml.host.services import Desk, Offer, Services

        # Without keys too: the enclave hears that the host has none, not that there is no such route.
        keys = KeyDesk(dict(map(self._releaser, self.keys)))
        desks: dict[str, Desk] = {LOG_PATH: LogDesk(), KMS_PATH: keys}
        sources: Mapping[str, PackageSource] = {name: package.source for name, package in self.packages.items()}
        return Services(self.address, Offer(sources, desks), cid=self.cid)

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


def _packages(options: Sequence[str]) -> dict[str, OfferedPackage]:
    found: dict[str, OfferedPackage] = {}
    for option in options:
        name, separator, source = option.partition("=")
        if not separator or not PACKAGE_NAME.fullmatch(name):
            name, source = "", option
        if name in found:
            raise console.usage(
                f"two packages are called {name!r}" if name else "two packages have no name",
                hint="write --package NAME=SOURCE, one name each",
            )
        found[name] = _offered(f"--package {option[:200]}", source)
    return found


def _offered(option: str, source: str) -> OfferedPackage:
    if "://" in source and not source.startswith("file://"):
        # The enclave tries again by itself, so it hears of a failure before it takes silence for a stall.
        patient = _opener(source, RetryPolicy(tries=4, stall=10.0, call_seconds=25.0))
        first = _opener(source, RetryPolicy(tries=3, stall=5.0, call_seconds=8.0))
        return OfferedPackage(option, StorageSource(patient), StorageSource(first))
    folder = Path(source.removeprefix("file://"))
    if not folder.is_dir():
        raise console.usage(f"the package {source[:200]!r} is no folder", hint="or name s3://BUCKET/PREFIX, gs://…")
    return OfferedPackage(option, FolderSource(folder), FolderSource(folder))


def _look_at_package(package: OfferedPackage) -> None:
    try:
        first_look.look_at_package(package.first)
    except UnavailableError as error:
        raise UnavailableError(f"{package.option}: {error.message}", hint=error.hint or _PACKAGE_HINT) from error


def _look_at_key(uri: str, endpoint: str | None) -> None:
    """Find the credentials and the endpoint that a release will take; the KMS itself is asked nothing yet."""
    from ephemeralml.keyrelease import faults
    from ephemeralml.keyrelease.faults import Asked
    from ephemeralml.keyrelease.providers import open_provider

    key = KeyUri.parse_operator(uri)
    if key.provider is Provider.GCP_KMS:
        return  # `make` refuses it
    open_provider(uri, endpoint=endpoint)
    try:
        import boto3
        from botocore.config import Config

        from ephemeralml.keyrelease import aws_client
    except ImportError as error:
        raise UnavailableError("AWS KMS needs boto3", hint="pip install 'ephemeralml[aws]'") from error
    asked = Asked("Decrypt", str(key))
    with aws_client.configuring(asked):
        session = boto3.session.Session()
        aws_client.client_of(session, key.region, endpoint, Config()).close()
        found = session.get_credentials()
        if found is None:
            raise faults.credentials_missing(asked)
        found.get_frozen_credentials()


def _opener(uri: str, policy: RetryPolicy) -> "Callable[[], Storage]":
    from ephemeralml.storage.open import open_storage

    retries = Retries(policy)
    try:
        open_storage(uri, retries=retries).close()
    except UnavailableError as error:
        raise UnavailableError(
            f"--package: {error.message}",
            hint=error.hint or "check AWS_PROFILE, AWS_ENDPOINT_URL_S3 and the SDK's files",
        ) from error
    except MalformedError as error:
        raise console.usage(
            f"--package: {error.message}", hint=error.hint or "write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
        ) from error
    return lambda: open_storage(uri, retries=retries)
