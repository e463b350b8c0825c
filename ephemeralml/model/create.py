"""Makes a package out of a plaintext model; suite ``none`` so far.

Every file is checked, then read once: what is hashed is what is written. The
package grows in a hidden folder beside its destination and takes its name when
it is complete, so a failure leaves nothing behind.
"""

import hashlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope, source_folder
from ephemeralml.model.describe import MAX_CONFIG_BYTES, Description, describe
from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES
from ephemeralml.model.hashing import Meter, chunk_digest, chunk_root, worker_count
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
from ephemeralml.model.package import BLOB_FOLDER, MANIFEST_NAME
from ephemeralml.model.source_folder import SourceFile, SourceModel, WeightsHeader
from ephemeralml.progress import Progress, Silent
from ephemeralml.semver import SemVer

CHUNKS_IN_FLIGHT = 4


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

    def __post_init__(self) -> None:
        check_model_id(self.model_id)
        for text in (self.license, self.publisher, self.architecture or ""):
            if len(text.encode()) > MAX_TEXT_BYTES:
                raise MalformedError(f"licence, publisher and architecture have at most {MAX_TEXT_BYTES} bytes")
        power_of_two = self.chunk_size > 0 and self.chunk_size & (self.chunk_size - 1) == 0
        if not power_of_two or not MIN_CHUNK_BYTES <= self.chunk_size <= MAX_CHUNK_BYTES:
            raise MalformedError(f"chunk size {self.chunk_size} is no power of two from 64 KiB to 64 MiB")


def create_package(
    source: Path, out: Path, request: PackageRequest, *, replace: bool = False, progress: Progress | None = None
) -> Manifest:
    """Package the model at *source* as *out*, unencrypted and not yet signed.

    Args:
        source: A folder or one file.
        out: The package to make; its parent exists.
        request: What the manifest says beyond the files.
        replace: Whether an existing package at *out* may be replaced.
        progress: Told of the bytes written.

    Raises:
        MalformedError: The model does not parse, breaks a limit, or holds what
            can run code.
        RejectedError: A file changed meanwhile (code SOURCE_CHANGED).
        UnavailableError: *out* exists, or the disk does not allow it.
    """
    progress = progress or Silent()
    progress.step("check")
    model = source_folder.find(source)
    description = _inspect(model, request.dtypes)
    _check_out(source, out, replace=replace)
    with _growing(out, replace=replace) as folder:
        progress.step("package")
        meter = Meter(progress, sum(file.location.lstat().st_size for file in model.files))
        (folder / BLOB_FOLDER).mkdir()
        with ThreadPoolExecutor(worker_count(), thread_name_prefix="package") as pool:
            files = tuple(_pack(file, folder, request.chunk_size, pool, meter) for file in model.files)
        manifest = Manifest(
            model_id=request.model_id,
            version=request.version,
            created_at=request.created_at,
            format=description.format,
            architecture=request.architecture or description.architecture,
            task=request.task or description.task or Task.GENERATION,
            license=request.license,
            files=files,
            suite=Suite.NONE,
            publisher=request.publisher,
            upstream_signature=None,
        )
        _write(folder / MANIFEST_NAME, envelope.unsigned(encode(manifest)))
    return manifest


def _inspect(model: SourceModel, dtypes: Collection[str]) -> Description:
    """Check the format of every file, before the first byte is written."""
    headers: dict[str, WeightsHeader] = {}
    documents: dict[str, bytes] = {}
    for file in model.files:
        with source_folder.opened(file) as fd:
            header = source_folder.check_format(file, fd, dtypes=dtypes)
            if header is not None:
                headers[file.path] = header
            if file.path in ("config.json", "modules.json"):
                documents[file.path] = os.pread(fd, MAX_CONFIG_BYTES + 1, 0)
    return describe(headers, documents)


def _pack(file: SourceFile, folder: Path, chunk_size: int, pool: ThreadPoolExecutor, meter: Meter) -> ManifestFile:
    """Copy *file* to its blob and return its entry, computed from the bytes that were written."""
    blob = blob_name(file.path, Suite.NONE)
    flat = hashlib.sha256()
    size = 0
    digests: list[bytes] = []
    pending: deque[Future[bytes]] = deque()
    with source_folder.opened(file) as fd, _created(folder / blob) as target:
        expected = os.fstat(fd).st_size
        for chunk in _chunks(fd, chunk_size):
            pending.append(pool.submit(chunk_digest, chunk))
            flat.update(chunk)
            _write_all(target, chunk)
            size += len(chunk)
            meter.add(len(chunk))
            if len(pending) == CHUNKS_IN_FLIGHT:
                digests.append(pending.popleft().result())
        os.fsync(target)
    if size != expected:
        raise RejectedError(
            f"{file.path} changed while it was packaged", code="SOURCE_CHANGED", expected=expected, actual=size
        )
    digests += [future.result() for future in pending]
    return ManifestFile(
        path=file.path,
        role=file.role,
        size=size,
        sha256=flat.digest(),
        blob=blob,
        blob_size=blob_size(size, chunk_size, Suite.NONE),
        blob_sha256=flat.digest(),
        chunk_size=chunk_size,
        chunk_root=chunk_root(digests),
    )


def _chunks(fd: int, chunk_size: int) -> Iterator[bytes]:
    """Yield the chunks of a file as it is read; an empty file is one empty chunk."""
    position = 0
    while True:
        parts = bytearray()
        while len(parts) < chunk_size:
            part = os.pread(fd, chunk_size - len(parts), position + len(parts))
            if not part:
                break
            parts += part
        if parts or position == 0:
            yield bytes(parts)
        position += len(parts)
        if len(parts) < chunk_size:
            return


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
