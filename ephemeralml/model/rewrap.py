"""``model rewrap``: another KMS key for a package, its ciphertext untouched (model-package.md section 1).

Only ``keys.json`` changes, in one step, so every receipt's ``model_hash`` stays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ephemeralml.crypto.data_key import EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.container import Blob
from ephemeralml.model.encryption import MANIFEST_PAIR, KeySource, encryption_context
from ephemeralml.model.keys_file import encode_keys
from ephemeralml.model.manifest import Manifest, Suite
from ephemeralml.model.package import KEYS_NAME, Package
from ephemeralml.model.package_keys import check_contexts, read_keys
from ephemeralml.model.sign import replace_file


class MovingKeys(Protocol):
    """A KMS that moves data keys among its own keys."""

    def re_encrypt(self, wrapped: WrappedKey, context: EncryptionContext) -> WrappedKey:
        """Wrap the data key in *wrapped* for this key, under *context*, without showing it."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A package and its wrapped keys; nobody's signature was checked."""

    manifest: Manifest
    payload: bytes
    entries: tuple[WrappedKey, ...]

    @property
    def bound(self) -> bool:
        """Whether a key of it is bound to the manifest; a new one is then, too."""
        return any(MANIFEST_PAIR in entry.context for entry in self.entries)

    def context(self, *, bind_manifest: bool) -> dict[str, str]:
        """Return the context of a new entry, bound to the manifest if that is wanted or another one is."""
        payload = self.payload if bind_manifest or self.bound else None
        return encryption_context(self.manifest.model_id, self.manifest.version, payload)


def read_wrapped(package: Package) -> Wrapped:
    """Read manifest and ``keys.json`` of an encrypted package.

    Each entry is bound to this manifest, else whoever renamed another's package
    would have its key opened under the one name and wrapped under the other.

    Raises:
        MalformedError: They do not parse, something does not belong there, or
            the package is not encrypted.
        RejectedError: An entry is not bound to it (code CONTEXT_MISMATCH).
        UnavailableError: Something is missing.
    """
    payload = envelope.parse(package.manifest_bytes()).payload
    parsed = manifest.parse(payload)
    if parsed.suite is Suite.NONE:
        raise MalformedError("the package is not encrypted: it has no key to wrap")
    package.check_layout(parsed)
    entries = read_keys(package)
    check_contexts(parsed, payload, entries)
    return Wrapped(parsed, payload, entries)


def rewrap_package(
    folder: Path, source: KeySource, dek: SecretBytes, *, add: bool = False, bind_manifest: bool = False
) -> tuple[WrappedKey, ...]:
    """Wrap the data key of the package at *folder* for another KMS key.

    1. *dek* opens a chunk of the package: a wrong one is never wrapped.    CHUNK_AUTH_FAILED
    2. It is wrapped under the package's context.
    3. ``keys.json`` gets the new entry, in place of all others or, with *add*, behind them.

    Args:
        folder: The package.
        source: The KMS key to wrap for.
        dek: The package's data key; the caller wipes it.
        add: Keep the other entries; one for the same KMS key is replaced.
        bind_manifest: Bind the new entry to the manifest even if no other is.

    Returns:
        The entries that ``keys.json`` has now.

    Raises:
        MalformedError: The package does not parse, is not encrypted, or would
            have too many entries.
        RejectedError: Step 1 fails, an entry is not bound to the package, or the
            KMS refuses.
        UnavailableError: Something is missing, or cannot be written.
    """
    with Package.open(folder) as package:
        found = read_wrapped(package)
        # 1
        check_dek(found.manifest, package, dek)
    # 2
    wrapped = source.wrap(dek, found.context(bind_manifest=bind_manifest))
    # 3
    return _replace(folder, found, wrapped, add=add)


def move_package(
    folder: Path, target: MovingKeys, entry: WrappedKey, *, add: bool = False, bind_manifest: bool = False
) -> tuple[WrappedKey, ...]:
    """Have the KMS move the data key in *entry* of the package at *folder* to another of its keys.

    The data key is not seen here and so not tried: what *entry* opens to for a
    runtime, the new one does.

    Args:
        folder: The package.
        target: The KMS key to wrap for.
        entry: The entry of ``keys.json`` to move.
        add: Keep the other entries; one for the same KMS key is replaced.
        bind_manifest: Bind the new entry to the manifest even if no other is.

    Returns:
        The entries that ``keys.json`` has now.

    Raises:
        MalformedError: The package does not parse, is not encrypted, has no such
            entry, or would have too many.
        RejectedError: An entry is not bound to the package, or the KMS refuses.
        UnavailableError: Something is missing, or cannot be written.
    """
    with Package.open(folder) as package:
        found = read_wrapped(package)
    if entry not in found.entries:
        raise MalformedError(f"the package has no such entry of {entry.key[:200]!a} any more")
    return _replace(folder, found, target.re_encrypt(entry, found.context(bind_manifest=bind_manifest)), add=add)


def _replace(folder: Path, found: Wrapped, wrapped: WrappedKey, *, add: bool) -> tuple[WrappedKey, ...]:
    kept = [entry for entry in found.entries if entry.key != wrapped.key] if add else []
    entries = (*kept, wrapped)
    replace_file(folder / KEYS_NAME, encode_keys(entries))
    return entries


def check_dek(said: Manifest, package: Package, dek: SecretBytes) -> None:
    """Refuse a data key that does not open the package; one chunk of its smallest file is enough.

    Raises:
        RejectedError: With code CHUNK_AUTH_FAILED, or HEADER_MISMATCH or
            SIZE_MISMATCH for a blob that is not the manifest's.
        UnavailableError: The blob is missing.
    """
    file = min(said.files, key=lambda entry: entry.size)
    blob = Blob.open(package, file, said.suite, dek)
    try:
        window = memoryview(bytearray(blob.extent(0, 1)))
        scratch = memoryview(bytearray(len(window)))
        fetched = blob.fetch(0, 1, window)
        blob.plaintext(0, 0, fetched, scratch)
        # What was decrypted is not kept: only that it could be.
        scratch[:] = bytes(len(scratch))
    except RejectedError as error:
        if error.code != "CHUNK_AUTH_FAILED":
            raise
        raise RejectedError(
            f"the key does not open the package ({error.message})",
            code=error.code,
            hint="is it this package's key, and is the package whole?",
        ) from error
    finally:
        blob.close()
