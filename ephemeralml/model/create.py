"""Makes a package out of a plaintext model, encrypted or not (model-package.md sections 1 and 2).

Every file is checked, then read once: what is hashed is what is written. The
package grows in a hidden folder beside its destination and takes its name when
it is complete, so a failure leaves nothing behind.

A data key comes from the KMS before the first byte is sealed. Where the package
is bound to its manifest the order is the other one: the manifest depends on the
sealed bytes, so a random key seals them and is wrapped at the end.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes, WrappedKey
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope, source_folder
from ephemeralml.model.describe import MAX_CONFIG_BYTES, Description, describe
from ephemeralml.model.encryption import KeySource, encryption_context
from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES
from ephemeralml.model.hashing import Meter
from ephemeralml.model.keys_file import encode_keys
from ephemeralml.model.manifest import (
    DEFAULT_CHUNK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_TEXT_BYTES,
    MIN_CHUNK_BYTES,
    Manifest,
    ManifestFile,
    Suite,
    Task,
    blob_name,
    blob_size,
    check_model_id,
    encode,
)
from ephemeralml.model.pack import Packer, Sealing
from ephemeralml.model.package import BLOB_FOLDER, KEYS_NAME, MANIFEST_NAME
from ephemeralml.model.source_folder import SourceModel, WeightsHeader
from ephemeralml.progress import Progress, Silent
from ephemeralml.semver import SemVer

_Versions = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a verified signature of the model's upstream covers."""

    signature: bytes
    """SHA-256 of the signature's bundle."""
    files: Mapping[str, bytes]
    """SHA-256 of every file, by path."""
    uncovered: Collection[str] = ()
    """Files it need not speak of, such as its own bundle."""

    def check(self, entries: Collection[ManifestFile]) -> None:
        """Refuse a package whose files are not those that upstream signed.

        Raises:
            RejectedError: With code UPSTREAM_MISMATCH.
        """
        packed = {entry.path: entry.sha256 for entry in entries}
        for path in sorted((packed.keys() | self.files.keys()) - set(self.uncovered)):
            if packed.get(path) != self.files.get(path):
                raise RejectedError(
                    f"{path} is not as its upstream signed it",
                    code="UPSTREAM_MISMATCH",
                    expected=self.files[path].hex() if path in self.files else "no such file",
                    actual=packed[path].hex() if path in packed else "no such file",
                )


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """What the publisher says of a package."""

    model_id: str
    version: SemVer
    created_at: datetime
    license: str = "NOASSERTION"
    """SPDX expression; that word where nobody said."""
    publisher: str = ""
    architecture: str | None = None
    """Overrides what the model says of itself."""
    task: Task | None = None
    """Overrides what the model looks like."""
    chunk_size: int = DEFAULT_CHUNK_BYTES
    dtypes: Collection[str] = DEFAULT_DTYPES
    suite: Suite | None = None
    """None: the default, ChaCha20-Poly1305 where there is a key and ``none`` where there is not."""
    bind_manifest: bool = False
    """Whether the data key is bound to this very manifest."""
    upstream: Upstream | None = None

    def __post_init__(self) -> None:
        check_model_id(self.model_id)
        for text in (self.license, self.publisher, self.architecture or ""):
            if len(text.encode()) > MAX_TEXT_BYTES:
                raise MalformedError(f"licence, publisher and architecture have at most {MAX_TEXT_BYTES} bytes")
        power_of_two = self.chunk_size > 0 and self.chunk_size & (self.chunk_size - 1) == 0
        if not power_of_two or not MIN_CHUNK_BYTES <= self.chunk_size <= MAX_CHUNK_BYTES:
            raise MalformedError(f"chunk size {self.chunk_size} is no power of two from 64 KiB to 64 MiB")


def create_package(
    source: Path,
    out: Path,
    request: PackageRequest,
    *,
    key_source: KeySource | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> Manifest:
    """Package the model at *source* as *out*, not yet signed.

    Args:
        source: A folder or one file.
        out: The package to make; its parent exists.
        request: What the manifest says beyond the files, and how they are encrypted.
        key_source: Makes or wraps the data key; needed unless the suite is ``none``.
        replace: Whether an existing package at *out* may be replaced.
        progress: Told of the bytes written.
        entropy: Where salts come from, and the data key of a package that is
            bound to its manifest.

    Raises:
        MalformedError: The model does not parse, breaks a limit, or holds what
            can run code.
        RejectedError: A file changed meanwhile (code SOURCE_CHANGED), or is not
            what its upstream signed (UPSTREAM_MISMATCH); or the KMS denies the
            key: errors of *key_source* come through.
        UnavailableError: *out* exists, or the disk does not allow it.
    """
    suite = _suite(request, key_source)
    progress = progress or Silent()
    progress.step("check")
    model = source_folder.find(source)
    description, versions = _inspect(model, request.dtypes)
    _check_out(source, out, replace=replace)
    with _growing(out, replace=replace) as folder, _data_key(request, key_source, entropy) as key:
        sealing = None if key is None else Sealing(suite, key.dek, entropy)
        files = _pack(model, versions, folder, request.chunk_size, sealing, progress)
        if request.upstream is not None:
            request.upstream.check(files)
        manifest = _manifest(request, suite, description, files)
        payload = encode(manifest)
        _write(folder / MANIFEST_NAME, envelope.unsigned(payload))
        if key is not None:
            _write(folder / KEYS_NAME, encode_keys([key.wrapped(payload)]))
    return manifest


def _suite(request: PackageRequest, key_source: KeySource | None) -> Suite:
    suite = request.suite or (Suite.NONE if key_source is None else Suite.CHACHA20POLY1305)
    if (suite is Suite.NONE) is not (key_source is None):
        raise ValueError(f"suite {suite.value} {'with' if key_source else 'without'} a key")
    return suite


@dataclass(frozen=True, slots=True)
class _DataKey:
    dek: SecretBytes
    wrapped: Callable[[bytes], WrappedKey]
    """Called with the manifest's payload."""


@contextmanager
def _data_key(
    request: PackageRequest, key_source: KeySource | None, entropy: Callable[[int], bytes]
) -> Iterator[_DataKey | None]:
    """Yield the package's data key, and wipe it at the end whatever happens."""
    if key_source is None:
        yield None
    elif request.bind_manifest:
        with SecretBytes(bytearray(entropy(DEK_BYTES))) as dek:
            yield _DataKey(
                dek,
                lambda payload: key_source.wrap(dek, encryption_context(request.model_id, request.version, payload)),
            )
    else:
        dek, wrapped = key_source.generate(encryption_context(request.model_id, request.version))
        with dek:
            yield _DataKey(dek, lambda _: wrapped)


def _manifest(
    request: PackageRequest, suite: Suite, description: Description, files: tuple[ManifestFile, ...]
) -> Manifest:
    return Manifest(
        model_id=request.model_id,
        version=request.version,
        created_at=request.created_at,
        format=description.format,
        architecture=request.architecture or description.architecture,
        task=request.task or description.task or Task.GENERATION,
        license=request.license,
        files=files,
        suite=suite,
        publisher=request.publisher,
        upstream_signature=request.upstream.signature if request.upstream else None,
    )


def _inspect(model: SourceModel, dtypes: Collection[str]) -> tuple[Description, _Versions]:
    """Check the format of every file, before the first byte is written; return too what files were checked."""
    versions: dict[str, tuple[int, ...]] = {}
    headers: dict[str, WeightsHeader] = {}
    documents: dict[str, bytes] = {}
    for file in model.files:
        with source_folder.opened(file) as fd:
            versions[file.path] = source_folder.version(fd)
            header = source_folder.check_format(file, fd, dtypes=dtypes)
            if header is not None:
                headers[file.path] = header
            if file.path in ("config.json", "modules.json"):
                documents[file.path] = os.pread(fd, MAX_CONFIG_BYTES + 1, 0)
    return describe(headers, documents), versions


def _pack(
    model: SourceModel,
    versions: _Versions,
    folder: Path,
    chunk_size: int,
    sealing: Sealing | None,
    progress: Progress,
) -> tuple[ManifestFile, ...]:
    """Write the blob of every file and return the files' entries, computed from the bytes that were written.

    A file whose *versions* entry no longer fits is another than the one that was checked.
    """
    suite = Suite.NONE if sealing is None else sealing.suite
    progress.step("package" if sealing is None else "encrypt")
    sizes = [file.location.lstat().st_size for file in model.files]
    packer = Packer(chunk_size, max(sizes), sealing, Meter(progress, sum(sizes)))
    (folder / BLOB_FOLDER).mkdir()
    entries = []
    for file, size in zip(model.files, sizes, strict=True):
        blob = blob_name(file.path, suite)
        with source_folder.opened(file) as source, _created(folder / blob) as target:
            packed = packer.pack(file.path, size, source, target)
            if source_folder.version(source) != versions[file.path]:
                raise RejectedError(f"{file.path} changed while it was packaged", code="SOURCE_CHANGED")
        entries.append(
            ManifestFile(
                path=file.path,
                role=file.role,
                size=size,
                sha256=packed.sha256,
                blob=blob,
                blob_size=blob_size(size, chunk_size, suite),
                blob_sha256=packed.blob_sha256,
                chunk_size=chunk_size,
                chunk_root=packed.chunk_root,
            )
        )
    return tuple(entries)


@contextmanager
def _created(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _write(path: Path, data: bytes) -> None:
    with _created(path) as fd:
        _write_all(fd, data)
        os.fsync(fd)


def lie_in_each_other(source: Path, out: Path) -> bool:
    """Return whether one of the two is, or is inside of, the other; a link at *out* itself is not followed."""
    model, package = source.resolve(), out.parent.resolve() / out.name
    return package.is_relative_to(model) or model.is_relative_to(package)


def _check_out(source: Path, out: Path, *, replace: bool) -> None:
    """Refuse a destination that exists; even *replace* takes only what looks like a package.

    One inside of the model would be part of it the next time, and of one
    around the model nothing would be left.
    """
    if lie_in_each_other(source, out):
        raise UnavailableError(f"{str(out)!r} and the model {str(source)!r} lie in each other")
    if not os.path.lexists(out):
        if not out.parent.is_dir():
            raise UnavailableError(f"the folder of {str(out)!r} does not exist")
        return
    if not replace:
        raise UnavailableError(f"{str(out)!r} exists", hint="choose another name, or add --force to replace it")
    names = {entry.name for entry in out.iterdir()} if out.is_dir() and not out.is_symlink() else {""}
    if names and MANIFEST_NAME not in names:
        raise UnavailableError(f"{str(out)!r} is no package and will not be replaced")


@contextmanager
def _growing(out: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a hidden folder beside *out* that becomes *out* if all goes well, and vanishes if not."""
    try:
        growing = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise UnavailableError(f"cannot write beside {str(out)!r}: {error.strerror}") from error
    old = growing.with_name(growing.name + ".old")
    try:
        growing.chmod(0o755)
        yield growing
        if replace and out.exists():
            out.rename(old)
        try:
            growing.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise UnavailableError(f"cannot write {str(out)!r}: {error.strerror}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
