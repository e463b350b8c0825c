"""Packages to and from object storage (model-package.md sections 4 to 6).

The store is trusted for nothing. An upload checks the package before the first
byte leaves, and its manifest goes last, so that who finds one finds the rest. A
download verifies as `verify_package` does, while it arrives and before anything
gets its final name.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Protocol

from ephemeralml.crypto.keys import PublicKey
from ephemeralml.daemon_pool import DaemonPool
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.arrival import receive
from ephemeralml.model.blobs import BlobStore, check_size
from ephemeralml.model.envelope import MAX_ENVELOPE_BYTES
from ephemeralml.model.keys_file import parse_keys
from ephemeralml.model.manifest import MAX_FILES, Manifest, Suite
from ephemeralml.model.package import BLOB_FOLDER, KEYS_NAME, MANIFEST_NAME, Package
from ephemeralml.model.package_keys import check_contexts, keys_bytes
from ephemeralml.model.part_folder import PartFolder
from ephemeralml.model.verify import VerifiedManifest, check_blobs, verify_manifest
from ephemeralml.progress import Progress, Silent
from ephemeralml.semver import SemVer

READ_BYTES = 8 << 20
LOOKS_AT_ONCE = 8
"""Objects asked about at once; each is a round trip."""


class ByteSource(Protocol):
    """Bytes to upload, of known length and readable at any place."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* up to *end*."""


class ObjectStore(BlobStore, Protocol):
    """Object storage as an upload needs it; every `Storage` is one."""

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*."""

    def digest(self, key: str) -> bytes | None:
        """Return the SHA-256 kept beside the object, or None."""

    def put(
        self, key: str, source: ByteSource, *, sha256: bytes, force: bool = ..., progress: Progress = ...
    ) -> int | None:
        """Store *source* as *key*, complete or not at all; continues an interrupted upload of the same bytes.

        Returns how many bytes it sent, or None where an equal object lay there.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What an upload did."""

    manifest: Manifest
    model_hash: bytes
    stored: tuple[str, ...]
    """Keys of the objects that were sent."""
    skipped: tuple[str, ...]
    """Keys of those that lay there already."""
    size: int
    """Bytes that were sent now; what an interrupted upload had sent of an object is not among them."""
    left: tuple[str, ...] = ()
    """Keys of blobs that lie there from another package, where objects were replaced."""


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size: int
    sha256: bytes


class _There(Enum):
    """What lies where an object is to go."""

    NOTHING = auto()
    EQUAL = auto()
    DIFFERENT = auto()


class _FromPackage:
    """A `ByteSource` over one object of a package."""

    def __init__(self, package: Package, key: str, size: int) -> None:
        self._package = package
        self._key = key
        self.size = size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* up to *end*."""
        data = bytearray(end - start)
        with memoryview(data) as view:
            self._package.read_into(self._key, start, view)
        return bytes(data)


class _Share:
    """A `Progress` for one object among many."""

    def __init__(self, progress: Progress, base: int, total: int) -> None:
        self._progress = progress
        self._base = base
        self._total = total

    def step(self, name: str) -> None:
        """Say nothing: the whole upload is one step."""

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        """Add what the objects before had."""
        del total
        self._progress.advance(self._base + done, self._total, unit=unit)


def upload_package(
    package: Package,
    store: ObjectStore,
    *,
    publisher_keys: Sequence[PublicKey] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Upload:
    """Store the signed package as objects below *store*.

    1. The manifest parses and is signed, by one of *publisher_keys* if any is given.  UNSIGNED, as `verify_manifest`
    2. Layout, sizes and digests are the manifest's, ``keys.json`` is bound to it.   as `model verify`
    3. What lies there already is equal, or *force* is given.                        OBJECT_EXISTS
    4. The blobs go first, then ``keys.json``, the manifest last.

    Equal objects are left alone and interrupted ones continued, so the same
    call again finishes what was interrupted.

    Raises:
        MalformedError: The package does not parse.
        RejectedError: Step 1, 2 or 3 fails.
        UnavailableError: Something is missing here, or cannot be stored there.
    """
    progress = progress or Silent()
    # 1
    data = package.manifest_bytes()  # once: what was checked is what is stored
    if publisher_keys:
        verify_manifest(data, publisher_keys=publisher_keys, allow_plaintext=True)
    signed = envelope.parse(data)
    if signed.signature is None:
        raise RejectedError("the package is not signed", code="UNSIGNED", hint="`ephemeralml model sign` signs it")
    parsed = manifest.parse(signed.payload)
    # 2
    check_blobs(package, parsed, progress=progress)
    objects = list(_objects(package, parsed, signed.payload, data))
    # 3
    progress.step("compare")
    waiting, replaced = _missing(store, objects, force=force)
    # 4
    progress.step("upload")
    total = sum(item.size for item in waiting)
    progress.advance(0, total)
    done = sent_bytes = 0
    for item in waiting:
        source = _FromPackage(package, item.key, item.size)
        share = _Share(progress, done, total)
        sent_bytes += store.put(item.key, source, sha256=item.sha256, force=force, progress=share) or 0
        done += item.size
        progress.advance(done, total)
    sent = tuple(item.key for item in waiting)
    skipped = tuple(item.key for item in objects if item.key not in sent)
    left = _left_behind(store, parsed) if replaced else ()
    return Upload(parsed, hashlib.sha256(signed.payload).digest(), sent, skipped, sent_bytes, left)


def _objects(package: Package, parsed: Manifest, payload: bytes, envelope_bytes: bytes) -> Iterator[_Object]:
    """Yield what a package consists of, in the order in which it is stored."""
    for file in parsed.files:
        yield _Object(file.blob, file.blob_size, file.blob_sha256)
    if parsed.suite is not Suite.NONE:
        keys = keys_bytes(package)
        check_contexts(parsed, payload, parse_keys(keys))
        yield _Object(KEYS_NAME, len(keys), hashlib.sha256(keys).digest())
    yield _Object(MANIFEST_NAME, len(envelope_bytes), hashlib.sha256(envelope_bytes).digest())


def _missing(store: ObjectStore, objects: Sequence[_Object], *, force: bool) -> tuple[list[_Object], list[_Object]]:
    """Return the objects to be stored, and those of them that replace others; nothing was written when this refuses."""
    with DaemonPool(LOOKS_AT_ONCE, "compare") as pool:
        found = list(zip(objects, pool.map(lambda item: _look(store, item), objects), strict=True))
    waiting = [item for item, there in found if there is not _There.EQUAL]
    differing = [item for item, there in found if there is _There.DIFFERENT]
    if differing and not force:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise RejectedError(
            f"{differing[0].key}{more}: a differing object lies there already",
            code="OBJECT_EXISTS",
            hint="choose another destination, or add --force to replace what is there",
        )
    return waiting, differing


def _look(store: ObjectStore, item: _Object) -> _There:
    if not store.exists(item.key):
        return _There.NOTHING
    return _There.EQUAL if _is_equal(store, item) else _There.DIFFERENT


def _left_behind(store: ObjectStore, parsed: Manifest) -> tuple[str, ...]:
    """Return the blobs there that *parsed* does not speak of; none where they may not be listed."""
    own = {file.blob for file in parsed.files}
    try:
        found = list(islice(store.list(f"{BLOB_FOLDER}/"), 2 * MAX_FILES))
    except UnavailableError:
        return ()
    return tuple(key for key in found if key not in own)


def _is_equal(store: ObjectStore, item: _Object) -> bool:
    if store.size(item.key) != item.size:
        return False
    kept = store.digest(item.key)
    return hmac.compare_digest(kept if kept is not None else _digest(store, item), item.sha256)


def _digest(store: BlobStore, item: _Object) -> bytes:
    """Return the SHA-256 of an object that was stored without one."""
    flat = hashlib.sha256()
    buffer = memoryview(bytearray(min(READ_BYTES, max(item.size, 1))))
    for start in range(0, item.size, READ_BYTES):
        part = buffer[: min(READ_BYTES, item.size - start)]
        store.read_into(item.key, start, part)
        flat.update(part)
    return flat.digest()


def download_package(
    store: BlobStore,
    folder: Path,
    *,
    publisher_keys: Sequence[PublicKey],
    min_version: SemVer | None = None,
    allow_plaintext: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> VerifiedManifest:
    """Fetch the package below *store* to *folder*, verified.

    1. The manifest: `verify_manifest`, all its steps.
    2. ``keys.json`` of an encrypted package parses and is bound to it.   CONTEXT_MISMATCH
    3. Every object has the size of the manifest.                         SIZE_MISMATCH
    4. Every object has the SHA-256 of the manifest.                      BLOB_DIGEST_MISMATCH
    5. The folder holds these and nothing else, and gets its name.

    Until step 4 nothing is written. What arrives lies in ``FOLDER.part``, where
    an interrupted download goes on; where a check fails, it is removed.

    Raises:
        MalformedError: Something does not parse.
        RejectedError: A check fails, or an object changed meanwhile (OBJECT_CHANGED).
        UnavailableError: An object is missing, the store is out of reach, or
            *folder* cannot be written.
    """
    progress = progress or Silent()
    _check_free(folder, replace=replace)
    # 1
    progress.step("manifest")
    data = _manifest_bytes(store)
    verified = verify_manifest(
        data, publisher_keys=publisher_keys, min_version=min_version, allow_plaintext=allow_plaintext
    )
    # 2
    keys = None if verified.manifest.suite is Suite.NONE else keys_bytes(store)
    if keys is not None:
        check_contexts(verified.manifest, verified.payload, parse_keys(keys))
    # 3
    with DaemonPool(LOOKS_AT_ONCE, "sizes") as pool:
        pool.map(lambda file: check_size(store, file), verified.manifest.files)
    with PartFolder.open(folder, data) as part:
        try:
            if keys is not None:
                part.store(KEYS_NAME, keys)
            # 4
            receive(verified.manifest.files, store, part, progress)
            # 5
            with Package.open(part.path) as package:
                package.check_layout(verified.manifest)
        except (RejectedError, MalformedError):
            part.discard()
            raise
        part.finish(replace=replace)
    return verified


def _manifest_bytes(store: BlobStore) -> bytes:
    size = store.size(MANIFEST_NAME)
    if size > MAX_ENVELOPE_BYTES:
        raise MalformedError(f"{MANIFEST_NAME} has {size} bytes, at most {MAX_ENVELOPE_BYTES} are allowed")
    data = bytearray(size)
    with memoryview(data) as view:
        store.read_into(MANIFEST_NAME, 0, view)
    return bytes(data)


def _check_free(folder: Path, *, replace: bool) -> None:
    """Refuse a destination that exists; even *replace* takes only what looks like a package."""
    if folder.name in ("", "..") or not folder.parent.is_dir():
        raise UnavailableError(f"{str(folder)!r} is no name for a new folder, or its own does not exist")
    if not os.path.lexists(folder):
        return
    if not replace:
        raise UnavailableError(f"{str(folder)!r} exists", hint="choose another name, or add --force to replace it")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {""}
    if names and MANIFEST_NAME not in names:
        raise UnavailableError(f"{str(folder)!r} is no package and will not be replaced")
