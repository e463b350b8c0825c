"""The publisher's side: the files of a plaintext model, checked before anything uses them.

Nothing is followed and nothing is skipped: links, FIFOs and devices are
refused, hidden files belong to the model like all others (model-package.md
section 6).
"""

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.formats import gguf, pickle, safetensors
from ephemeralml.model.formats.gguf import GgufHeader
from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES, SafetensorsHeader
from ephemeralml.model.formats.source import FileSource
from ephemeralml.model.manifest import MAX_FILES
from ephemeralml.model.paths import check_distinct, check_path
from ephemeralml.model.roles import Role, role_of

MAX_FOLDER_DEPTH = 32

WeightsHeader = SafetensorsHeader | GgufHeader


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a model on the publisher's disk."""

    path: str
    """Relative to the model."""
    location: Path
    role: Role


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The files of a model, in order of their paths."""

    root: Path
    files: tuple[SourceFile, ...]


def find(root: Path) -> SourceModel:
    """List the model at *root*, a folder or one file.

    Raises:
        MalformedError: A link, FIFO, device, or a path that a manifest cannot
            name; no weights; too many files.
        UnavailableError: Something cannot be read.
    """
    try:
        kind = os.lstat(root).st_mode
        if stat.S_ISDIR(kind):
            found = [(path, root / path) for path in _walk(root, "", 0)]
        else:
            found = [(root.name, root)]
            _check_kind(root.name, kind)
    except OSError as error:
        raise UnavailableError(f"cannot read {str(root)!r}: {error.strerror}") from error
    if len(found) > MAX_FILES:
        raise MalformedError(f"more than {MAX_FILES} files")
    for path, _ in found:
        check_path(path)
    check_distinct(path for path, _ in found)
    files = tuple(SourceFile(path, location, role_of(path)) for path, location in sorted(found))
    if not any(file.role is Role.WEIGHTS for file in files):
        raise MalformedError(
            f"{str(root)!r} holds no weights", hint="a model has at least one .safetensors or .gguf file"
        )
    return SourceModel(root, files)


def _walk(root: Path, prefix: str, depth: int) -> Iterator[str]:
    if depth > MAX_FOLDER_DEPTH:
        raise MalformedError(f"folders nested deeper than {MAX_FOLDER_DEPTH}")
    with os.scandir(root / prefix) as entries:
        # One more than is allowed is enough to refuse the rest unseen.
        for count, entry in enumerate(entries):
            if count > MAX_FILES:
                raise MalformedError(f"more than {MAX_FILES} files")
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{path}/", depth + 1)
            else:
                _check_kind(path, entry.stat(follow_symlinks=False).st_mode)
                yield path


def _check_kind(path: str, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise MalformedError(
            f"{ascii(path)[:96]} is a symbolic link",
            hint="give the file itself, or a copy with links resolved (cp -rL)",
        )
    if not stat.S_ISREG(mode):
        raise MalformedError(f"{ascii(path)[:96]} is neither a regular file nor a folder")


@contextmanager
def opened(file: SourceFile) -> Iterator[int]:
    """Open *file* for reading, and refuse it if it became something else since it was listed."""
    try:
        fd = os.open(file.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MalformedError(f"{ascii(file.path)[:96]} is a symbolic link") from error
        raise UnavailableError(f"cannot read {file.path}: {error.strerror}") from error
    try:
        _check_kind(file.path, os.fstat(fd).st_mode)
        yield fd
    finally:
        os.close(fd)


def version(fd: int) -> tuple[int, ...]:
    """Return what changes whenever the open file's contents do; nobody but root can set its change time."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_format(file: SourceFile, fd: int, *, dtypes: Collection[str] = DEFAULT_DTYPES) -> WeightsHeader | None:
    """Check what *file* is; return its header if it holds weights.

    Raises:
        MalformedError: Weights whose header does not hold, a pickle (code
            PICKLE), a suspect name (FORMAT_UNKNOWN), or a dtype that is not
            allowed (DTYPE_NOT_ALLOWED).
    """
    source = FileSource(fd)
    header: WeightsHeader | None = None
    try:
        if file.path.endswith(".safetensors"):
            header = safetensors.parse(source, dtypes=dtypes)
        elif file.path.endswith(".gguf"):
            header = gguf.parse(source)
    except MalformedError as error:
        # A pickle called .safetensors is worth its own name.
        pickle.refuse(file.path, source, safetensors=False)
        raise MalformedError(f"{file.path}: {error.message}", code=error.code, hint=error.hint) from error
    pickle.refuse(file.path, source, safetensors=isinstance(header, SafetensorsHeader))
    return header
