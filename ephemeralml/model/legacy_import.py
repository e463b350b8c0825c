"""Reads the reference system's packages, so that they can be packaged anew (legacy.md section 3).

Such a package is a folder with a signed manifest, the weights encrypted as one
piece, and the other files in the clear. It is verified, and laid out as a
plaintext model in a private scratch folder, from which `create_package` makes a
package of ours under a data key of its own: the old one is never used again.
"""

import hashlib
import hmac
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import legacy_manifest, legacy_weights
from ephemeralml.model.hashing import Meter
from ephemeralml.model.legacy_manifest import LegacyManifest
from ephemeralml.model.manifest import MAX_FILES
from ephemeralml.model.paths import check_path
from ephemeralml.progress import Progress, Silent

MANIFEST_NAME = "manifest.json"
ENCRYPTED_SUFFIXES = (".enc", ".encrypted")
PLAIN_SUFFIXES = (".safetensors", ".gguf", ".bin")
"""Of weights that were encrypted under their own name."""
COPY_BYTES = 1 << 20
MAX_SMALL_FILE_BYTES = 1 << 30
"""Of a file that is not weights; the format kept them in the clear and small."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class LegacyPackage:
    """A package of the reference system whose manifest was verified; its files were not, yet."""

    folder: Path
    manifest: LegacyManifest
    weights: str
    """Name of the encrypted file."""
    others: tuple[str, ...]
    """The plaintext files, relative to the folder."""

    @property
    def unsigned(self) -> tuple[str, ...]:
        """The files that the manifest's signature does not cover."""
        covered = set(self._expected())
        return tuple(name for name in self.others if name not in covered)

    @property
    def size(self) -> int:
        """Bytes that a plaintext copy takes, at most."""
        return sum((self.folder / name).lstat().st_size for name in (self.weights, *self.others))

    def _expected(self) -> dict[str, bytes]:
        hashes = {"tokenizer.json": self.manifest.tokenizer_hash, "config.json": self.manifest.config_hash}
        return {name: digest for name, digest in hashes.items() if digest is not None}


def open_legacy(folder: Path, *, publisher_keys: Sequence[PublicKey], weights: str | None = None) -> LegacyPackage:
    """Find and verify the manifest of the legacy package at *folder*, and list its files.

    Args:
        folder: The package.
        publisher_keys: Who may have signed it.
        weights: Name of the encrypted file, where it cannot be told by its suffix.

    Raises:
        MalformedError: A link or special file, or a manifest that does not parse.
        RejectedError: The manifest is unsigned or signed by another key.
        UnavailableError: No manifest, no weights, or a file that it names is missing.
    """
    names = _names(folder)
    manifest_name = _manifest_name(folder, names)
    data = _read(folder / manifest_name, max_bytes=legacy_manifest.MAX_BYTES)
    manifest = legacy_manifest.verify(data, publisher_keys=publisher_keys)
    chosen = _weights(names, weights)
    others = tuple(name for name in names if name not in (manifest_name, chosen))
    package = LegacyPackage(folder, manifest, chosen, others)
    missing = sorted(set(package._expected()) - set(others))  # noqa: SLF001 - its own module
    if missing:
        raise UnavailableError(f"the package lacks {missing[0]}, whose digest its manifest signs")
    return package


@contextmanager
def unpacked(
    package: LegacyPackage, dek: SecretBytes, *, scratch: Path, progress: Progress | None = None
) -> Iterator[Path]:
    """Yield a folder below *scratch* with the plaintext model, verified; it is gone afterwards.

    1. The tag over the encrypted weights holds under *dek*.         WEIGHTS_AUTH_FAILED
    2. The SHA-256 of the plaintext weights is the manifest's.       FILE_DIGEST_MISMATCH
    3. So are those of ``tokenizer.json`` and ``config.json``, where it states them.

    Files that the manifest does not speak of are copied as they are; the caller
    tells the publisher of them (`LegacyPackage.unsigned`).

    Raises:
        MalformedError: The weights are too short, or a file is none.
        RejectedError: A step fails.
        UnavailableError: Something cannot be read, or *scratch* cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix=".legacy-"))
    except OSError as error:
        raise UnavailableError(f"cannot write below {str(scratch)!r}: {error.strerror}") from error
    try:
        progress = progress or Silent()
        progress.step("decrypt")
        meter = Meter(progress, package.size)
        # 1, 2
        _unpack_weights(package, dek, folder, meter)
        # 3
        expected = package._expected()  # noqa: SLF001 - its own module
        for name in package.others:
            _match(name, _copy(package.folder / name, folder / name, meter), expected.get(name))
        yield folder
    except OSError as error:
        raise UnavailableError(f"cannot unpack the legacy package: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_weights(package: LegacyPackage, dek: SecretBytes, folder: Path, meter: Meter) -> None:
    source = _open(package.folder / package.weights)
    try:
        with legacy_weights.authenticated(source, package.weights, dek) as weights:
            name = _plain_name(package.weights, weights.head())
            check_path(name)
            digest = _store(folder / name, weights.blocks(), meter)
    finally:
        os.close(source)
    _match(package.weights, digest, package.manifest.model_hash)


def _match(name: str, digest: bytes, expected: bytes | None) -> None:
    if expected is not None and not hmac.compare_digest(digest, expected):
        raise RejectedError(
            f"{name}: its contents are not those the legacy manifest was signed for",
            code="FILE_DIGEST_MISMATCH",
            expected=expected.hex(),
            actual=digest.hex(),
        )


def _plain_name(name: str, head: bytes) -> str:
    for suffix in ENCRYPTED_SUFFIXES:
        name = name.removesuffix(suffix)
    if name.endswith((".safetensors", ".gguf")):
        return name
    return "model.gguf" if head.startswith(b"GGUF") else "model.safetensors"


def _manifest_name(folder: Path, names: list[str]) -> str:
    """Return which file is the manifest: ``manifest.json``, else the only one whose name says so."""
    if MANIFEST_NAME in names:
        return MANIFEST_NAME
    found = [name for name in names if "/" not in name and "manifest" in name and name.endswith(".json")]
    if len(found) != 1:
        raise UnavailableError(f"{str(folder)!r} has no manifest.json", hint="give the folder of a legacy package")
    return found[0]


def _weights(names: list[str], given: str | None) -> str:
    """Return which file is the weights; a wrong guess fails at the tag, and harms nobody."""
    if given is not None and given not in names:
        raise UnavailableError(f"the legacy package has no file {given!a}")
    found = [given] if given is not None else [name for name in names if name.endswith(ENCRYPTED_SUFFIXES)]
    found = found or [name for name in names if name.endswith(PLAIN_SUFFIXES)]
    if not found:
        raise UnavailableError("the legacy package has no encrypted weights (*.enc)", hint="name them with --weights")
    if len(found) > 1:
        raise MalformedError(
            f"{len(found)} encrypted files, and the format has one", hint="name the weights with --weights"
        )
    return found[0]


def _names(folder: Path) -> list[str]:
    """List the regular files of *folder*; links and special files are refused."""
    found: list[str] = []
    try:
        for root, folders, files in os.walk(folder, followlinks=False, onerror=_raise):
            for name in (*folders, *files):
                path = Path(root, name)
                mode = path.lstat().st_mode
                shown = path.relative_to(folder).as_posix()
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise MalformedError(f"{ascii(shown)[:96]} is a link or a special file")
                if stat.S_ISREG(mode):
                    check_path(shown)
                    found.append(shown)
            if len(found) > MAX_FILES:
                raise MalformedError(f"more than {MAX_FILES} files")
    except OSError as error:
        raise UnavailableError(f"cannot read {str(folder)!r}: {error.strerror}") from error
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _open(path: Path) -> int:
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        raise UnavailableError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MalformedError(f"{str(path)!r} is no regular file")
    return fd


def _read(path: Path, *, max_bytes: int) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise MalformedError(f"{path.name} has more than {max_bytes} bytes")
    return data


def _copy(source: Path, target: Path, meter: Meter) -> bytes:
    with os.fdopen(_open(source), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_SMALL_FILE_BYTES:
            raise MalformedError(f"{source.name} is larger than {MAX_SMALL_FILE_BYTES} bytes")
        return _store(target, iter(lambda: file.read(COPY_BYTES), b""), meter)


def _store(target: Path, blocks: Iterator[bytes], meter: Meter) -> bytes:
    """Write *blocks* as *target* with mode 0600 and return their SHA-256."""
    flat = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for block in blocks:
            flat.update(block)
            file.write(block)
            meter.add(len(block))
    return flat.digest()
