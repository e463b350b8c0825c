"""Where a package's files come from: a folder of a development machine, or the host's services."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ephemeralml.enclave.host_services import SERVICES_HINT
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.envelope import MAX_ENVELOPE_BYTES
from ephemeralml.model.keys_file import MAX_KEYS_BYTES
from ephemeralml.model.manifest import Manifest
from ephemeralml.model.package import KEYS_NAME, MANIFEST_NAME, Package
from ephemeralml.storage.base import Storage


class PackageFiles(Protocol):
    """A package that nobody has verified yet; a `BlobStore` too."""

    def manifest_bytes(self) -> bytes:
        """Return ``manifest.json`` as shipped."""

    def keys_bytes(self) -> bytes:
        """Return ``keys.json`` as shipped."""

    def check_layout(self, manifest: Manifest) -> None:
        """Refuse a place that holds what *manifest* does not speak of, where that can be seen."""

    def size(self, key: str) -> int:
        """Return the length of blob *key*."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of blob *key* from *start*."""

    def close(self) -> None:
        """Let go of it."""


class ServedPackage:
    """A package behind the host's services. Only what the manifest names is ever asked for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def manifest_bytes(self) -> bytes:
        """Fetch ``manifest.json``."""
        return self._whole(MANIFEST_NAME, MAX_ENVELOPE_BYTES)

    def keys_bytes(self) -> bytes:
        """Fetch ``keys.json``."""
        return self._whole(KEYS_NAME, MAX_KEYS_BYTES)

    def check_layout(self, manifest: Manifest) -> None:
        """Nothing: what else the host keeps is its business, none of it gets here."""

    def size(self, key: str) -> int:
        """Return the length of blob *key*."""
        with _explained():
            return self._storage.size(key)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of blob *key* from *start*."""
        with _explained():
            self._storage.read_into(key, start, buffer)

    def close(self) -> None:
        """Close the connections."""
        self._storage.close()

    def _whole(self, key: str, most: int) -> bytes:
        with _explained():
            return self._storage.read(key, 0, _bounded(key, self._storage.size(key), most))


@contextmanager
def _explained() -> Iterator[None]:
    """Say where to look when the host does not deliver."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(error.message, hint=SERVICES_HINT) from error


class FolderPackage(Package):
    """A package as a folder of this machine, for development."""

    def keys_bytes(self) -> bytes:
        """Return ``keys.json`` as shipped.

        Raises:
            MalformedError: It is no regular file, or too large.
            UnavailableError: It is missing or cannot be read.
        """
        data = bytearray(_bounded(KEYS_NAME, self.size(KEYS_NAME), MAX_KEYS_BYTES))
        self.read_into(KEYS_NAME, 0, memoryview(data))
        return bytes(data)


def _bounded(key: str, size: int, most: int) -> int:
    if size > most:
        raise MalformedError(f"{key} has {size} bytes, at most {most} are allowed")
    return size
