"""The manifest of a model package (model-package.md sections 1 and 6).

Its payload is signed as shipped and never serialised again: a `Manifest` is a
reading of those bytes, and SHA-256 of them is the ``model_hash`` of receipts.
Fields that this version does not know are kept in the bytes and signed with
them; they mean nothing here.
"""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from ephemeralml import clock
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.model.paths import check_distinct, check_path
from ephemeralml.model.roles import Role
from ephemeralml.semver import SemVer

SCHEMA = "ephemeralml.model/1"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 4_096
MAX_TEXT_BYTES = 256
"""Model id, architecture, license, publisher; receipts allow no more for an id."""
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 64 << 10, 64 << 20
DEFAULT_CHUNK_BYTES = 4 << 20
CONTAINER_HEADER_BYTES, CHUNK_TAG_BYTES = 96, 16

_E = TypeVar("_E", bound=Enum)


class Suite(Enum):
    """How the files of a package are encrypted."""

    NONE = "none"
    CHACHA20POLY1305 = "chacha20poly1305-stream"
    AES256GCM = "aes256gcm-stream"


class Format(Enum):
    """The format of the weights."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"


class Task(Enum):
    """What a model is for."""

    EMBEDDING = "embedding"
    GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a model, and the blob that carries it."""

    path: str
    role: Role
    size: int
    sha256: bytes
    """Of the plaintext."""
    blob: str
    """Key of the blob within the package."""
    blob_size: int
    blob_sha256: bytes
    chunk_size: int
    chunk_root: bytes
    """RFC 6962 tree hash over the SHA-256 of each plaintext chunk."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest's payload says. Whose word it is, `ephemeralml.model.verify` tells."""

    model_id: str
    version: SemVer
    created_at: datetime
    format: Format
    architecture: str
    task: Task
    license: str
    files: tuple[ManifestFile, ...]
    suite: Suite
    publisher: str
    upstream_signature: bytes | None
    """SHA-256 of the upstream's OpenSSF model signature, where the publisher verified one."""

    def file(self, path: str) -> ManifestFile:
        """Return the entry of *path*; KeyError where there is none."""
        for file in self.files:
            if file.path == path:
                return file
        raise KeyError(path)


def chunk_count(size: int, chunk_size: int) -> int:
    """Return the chunks of a file; an empty file is one empty chunk."""
    return max(1, -(-size // chunk_size))


def blob_name(path: str, suite: Suite) -> str:
    """Return the key of the blob that carries *path*."""
    suffix = "raw" if suite is Suite.NONE else "eml"
    return f"blobs/{hashlib.sha256(path.encode()).hexdigest()}.{suffix}"


def blob_size(size: int, chunk_size: int, suite: Suite) -> int:
    """Return the length of the blob that carries *size* bytes."""
    if suite is Suite.NONE:
        return size
    return CONTAINER_HEADER_BYTES + size + CHUNK_TAG_BYTES * chunk_count(size, chunk_size)


def parse(payload: bytes) -> Manifest:
    """Read a manifest's payload.

    This function does not check the signature; the caller does that first.

    Raises:
        MalformedError: Not such a manifest, over a limit, or inconsistent in itself.
    """
    document = strict_json.parse_object(payload, max_bytes=MAX_MANIFEST_BYTES)
    schema = document.get("schema")
    if schema != SCHEMA:
        raise MalformedError(f"a manifest of schema {ascii(schema)[:64]}, only {SCHEMA!r} is known")
    suite = _member(_object(document, "encryption"), "suite", Suite)
    publisher = _object(document, "publisher")
    return Manifest(
        model_id=check_model_id(_text(document, "model_id")),
        version=_version(document),
        created_at=_instant(document, "created_at"),
        format=_member(document, "format", Format),
        architecture=_text(document, "architecture"),
        task=_member(document, "task", Task),
        license=_text(document, "license"),
        files=_files(document.get("files"), suite),
        suite=suite,
        publisher=_text(publisher, "name"),
        upstream_signature=_digest_or_none(publisher, "upstream_signature"),
    )


def check_model_id(model_id: str) -> str:
    """Return *model_id* if it can name a model in requests, receipts and key policies.

    Raises:
        MalformedError: It is over 256 bytes, has a space or a control character,
            or an ``@``, which separates id and version in requests.
    """
    if not model_id or "@" in model_id or any(unicodedata.category(letter)[0] in "CZ" for letter in model_id):
        raise MalformedError(f"model id {ascii(model_id)[:64]} is empty, or has a space, a control character or '@'")
    if len(model_id.encode()) > MAX_TEXT_BYTES:
        raise MalformedError(f"a model id of more than {MAX_TEXT_BYTES} bytes")
    return model_id


def encode(manifest: Manifest) -> bytes:
    """Return the payload of a new manifest; `parse` reads the same back.

    Only for manifests made here: one that was parsed may have had fields which
    this would lose.
    """
    document = {
        "schema": SCHEMA,
        "model_id": manifest.model_id,
        "version": str(manifest.version),
        "created_at": clock.format_rfc3339(manifest.created_at),
        "format": manifest.format.value,
        "architecture": manifest.architecture,
        "task": manifest.task.value,
        "license": manifest.license,
        "files": [_file_document(file) for file in manifest.files],
        "encryption": {"suite": manifest.suite.value},
        "publisher": {
            "name": manifest.publisher,
            "upstream_signature": manifest.upstream_signature.hex() if manifest.upstream_signature else None,
        },
    }
    payload = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    if parse(payload) != manifest:
        raise RuntimeError("a manifest that does not read back as it was written")
    return payload


def _file_document(file: ManifestFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "role": file.role.value,
        "size": file.size,
        "sha256": file.sha256.hex(),
        "blob": file.blob,
        "blob_size": file.blob_size,
        "blob_sha256": file.blob_sha256.hex(),
        "chunk_size": file.chunk_size,
        "chunk_root": file.chunk_root.hex(),
    }


def _files(value: Any, suite: Suite) -> tuple[ManifestFile, ...]:
    if type(value) is not list or not 0 < len(value) <= MAX_FILES:
        raise MalformedError(f"a manifest lists 1 to {MAX_FILES} files")
    files = tuple(_file(entry, suite) for entry in value)
    check_distinct(file.path for file in files)
    return files


def _file(entry: Any, suite: Suite) -> ManifestFile:
    if type(entry) is not dict:
        raise MalformedError("a file of a manifest is not an object")
    path = entry.get("path")
    if type(path) is not str:
        raise MalformedError("a file of a manifest has no path")
    check_path(path)
    try:
        file = ManifestFile(
            path=path,
            role=_member(entry, "role", Role),
            size=_size(entry, "size"),
            sha256=_digest(entry, "sha256"),
            blob=_text(entry, "blob"),
            blob_size=_size(entry, "blob_size"),
            blob_sha256=_digest(entry, "blob_sha256"),
            chunk_size=_size(entry, "chunk_size"),
            chunk_root=_digest(entry, "chunk_root"),
        )
        _check_consistent(file, suite)
    except MalformedError as error:
        raise MalformedError(f"{path[:64]!a}: {error.message}") from error
    return file


def _check_consistent(file: ManifestFile, suite: Suite) -> None:
    """Hold what can be computed without the blob against what the manifest says."""
    power_of_two = file.chunk_size & (file.chunk_size - 1) == 0
    if not MIN_CHUNK_BYTES <= file.chunk_size <= MAX_CHUNK_BYTES or not power_of_two:
        raise MalformedError(f"chunk_size {file.chunk_size} is no power of two from 64 KiB to 64 MiB")
    if file.blob != blob_name(file.path, suite):
        raise MalformedError("blob is not the name that follows from the path")
    if file.blob_size != blob_size(file.size, file.chunk_size, suite):
        raise MalformedError(f"blob_size {file.blob_size} does not follow from size {file.size}")
    if suite is Suite.NONE and file.blob_sha256 != file.sha256:
        raise MalformedError("blob_sha256 and sha256 differ although the package is not encrypted")


def _present(document: dict[str, Any], name: str) -> Any:
    if name not in document:
        raise MalformedError(f"{name} is missing")
    return document[name]


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = _present(document, name)
    if type(value) is not dict:
        raise MalformedError(f"{name} is not an object")
    return value


def _text(document: dict[str, Any], name: str) -> str:
    value = _present(document, name)
    if type(value) is not str or len(value.encode()) > MAX_TEXT_BYTES:
        raise MalformedError(f"{name} is no text of at most {MAX_TEXT_BYTES} bytes")
    return value


def _size(document: dict[str, Any], name: str) -> int:
    value = _present(document, name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise MalformedError(f"{name} is no integer from 0 to 2^63 - 1")
    return value


def _digest(document: dict[str, Any], name: str) -> bytes:
    value = _present(document, name)
    if type(value) is not str or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise MalformedError(f"{name} is not 64 lower-case hex digits")
    return bytes.fromhex(value)


def _digest_or_none(document: dict[str, Any], name: str) -> bytes | None:
    return None if _present(document, name) is None else _digest(document, name)


def _member(document: dict[str, Any], name: str, kind: type[_E]) -> _E:
    value = _present(document, name)
    try:
        return kind(value)
    except ValueError as error:
        allowed = ", ".join(str(member.value) for member in kind)
        raise MalformedError(f"{name} is {ascii(value)[:64]}, known are {allowed}") from error


def _version(document: dict[str, Any]) -> SemVer:
    try:
        return SemVer.parse(_text(document, "version"))
    except ValueError as error:
        raise MalformedError(f"version: {error}") from error


def _instant(document: dict[str, Any], name: str) -> datetime:
    try:
        return clock.parse_rfc3339(_text(document, name))
    except ValueError as error:
        raise MalformedError(f"{name} is no RFC 3339 time") from error
