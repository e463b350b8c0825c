"""Looks into a model, or a package of one, without trusting or loading it."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import MalformedError
from ephemeralml.model import envelope, manifest, source_folder
from ephemeralml.model.describe import MAX_CONFIG_BYTES, Description, describe, total_parameters
from ephemeralml.model.formats.gguf import GgufHeader
from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES, SafetensorsHeader
from ephemeralml.model.hashing import Meter
from ephemeralml.model.manifest import Manifest, Suite
from ephemeralml.model.package import KEYS_NAME, MANIFEST_NAME, Package
from ephemeralml.model.package_keys import read_keys
from ephemeralml.model.roles import Role
from ephemeralml.model.source_folder import SourceFile, WeightsHeader
from ephemeralml.progress import Progress, Silent

READ_BYTES = 1 << 20
_DOCUMENTS = ("config.json", "modules.json", "tokenizer_config.json")
_GGUF_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """One file of a model."""

    path: str
    role: Role
    size: int
    sha256: bytes
    header: WeightsHeader | None
    """Of weights; None for other files."""

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors have each type."""
        counts = Counter(tensor.dtype for tensor in _tensors_of(self))
        return dict(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class InspectedTensor:
    """One tensor of a model."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template that turns messages into a prompt; it is code, so it has a digest of its own."""

    source: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class InspectedPackage:
    """What a package's manifest says. Its signature was not checked."""

    manifest: Manifest
    model_hash: bytes
    keyid: str | None
    """Who is said to have signed it; None if nobody did."""
    keys: tuple[WrappedKey, ...] = ()
    """Its data key, wrapped; what they say was not checked either."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found."""

    path: Path
    description: Description
    parameters: int
    files: tuple[InspectedFile, ...]
    templates: tuple[ChatTemplate, ...] = ()
    package: InspectedPackage | None = None
    tensors: tuple[InspectedTensor, ...] = field(default=(), repr=False)


def inspect(path: Path, *, dtypes: Collection[str] = DEFAULT_DTYPES, progress: Progress | None = None) -> Inspection:
    """Look into the model folder, model file or package at *path*.

    An encrypted package shows its manifest and its wrapped keys only.

    Raises:
        MalformedError: It does not parse, or holds what can run code or lies.
        UnavailableError: It cannot be read.
    """
    if path.is_dir() and (path / MANIFEST_NAME).exists() and (path / "blobs").is_dir():
        package = _read_package(path)
        files = tuple(SourceFile(file.path, path / file.blob, file.role) for file in package.manifest.files)
        if package.manifest.suite is not Suite.NONE:
            return _manifest_only(path, package)
        return _inspect(path, files, package, dtypes, progress or Silent())
    return _inspect(path, source_folder.find(path).files, None, dtypes, progress or Silent())


def _read_package(path: Path) -> InspectedPackage:
    with Package.open(path) as package:
        signed = envelope.parse(package.manifest_bytes())
        parsed = manifest.parse(signed.payload)
        package.check_layout(parsed)
        # Whether keys.json has to be there, `verify` says; here it is shown where it is.
        has_keys = parsed.suite is not Suite.NONE and package.holds(KEYS_NAME)
        keys = read_keys(package) if has_keys else ()
    return InspectedPackage(parsed, hashlib.sha256(signed.payload).digest(), signed.keyid, keys)


def _manifest_only(path: Path, package: InspectedPackage) -> Inspection:
    said = package.manifest
    files = tuple(InspectedFile(file.path, file.role, file.size, file.sha256, None) for file in said.files)
    return Inspection(path, Description(said.format, said.architecture, said.task), 0, files, package=package)


def _inspect(
    path: Path,
    sources: tuple[SourceFile, ...],
    package: InspectedPackage | None,
    dtypes: Collection[str],
    progress: Progress,
) -> Inspection:
    progress.step("inspect")
    meter = Meter(progress, sum(source.location.lstat().st_size for source in sources))
    files: list[InspectedFile] = []
    documents: dict[str, bytes] = {}
    templates: list[ChatTemplate] = []
    for source in sources:
        with source_folder.opened(source) as fd:
            header = source_folder.check_format(source, fd, dtypes=dtypes)
            if source.path in _DOCUMENTS:
                documents[source.path] = os.pread(fd, MAX_CONFIG_BYTES + 1, 0)
            files.append(_hashed(source, fd, header, meter))
        templates += _templates(files[-1], documents)
    headers = {file.path: file.header for file in files if file.header is not None}
    return Inspection(
        path,
        describe(headers, documents),
        sum(map(total_parameters, headers.values())),
        tuple(files),
        tuple(templates),
        package,
        tuple(tensor for file in files for tensor in _tensors_of(file)),
    )


def _hashed(source: SourceFile, fd: int, header: WeightsHeader | None, meter: Meter) -> InspectedFile:
    flat = hashlib.sha256()
    size = 0
    while block := os.pread(fd, READ_BYTES, size):
        flat.update(block)
        size += len(block)
        meter.add(len(block))
    return InspectedFile(source.path, source.role, size, flat.digest(), header)


def _templates(file: InspectedFile, documents: dict[str, bytes]) -> list[ChatTemplate]:
    """Return the chat templates that *file* is or holds."""
    if file.role is Role.CHAT_TEMPLATE:
        return [ChatTemplate(file.path, file.size, file.sha256)]
    found: dict[str, Any] = {}
    if isinstance(file.header, GgufHeader):
        found = {key: value for key, value in file.header.metadata.items() if key.startswith(_GGUF_TEMPLATE)}
    elif file.path == "tokenizer_config.json":
        document = strict_json.parse_object(documents[file.path], max_bytes=MAX_CONFIG_BYTES)
        found = _listed_templates(document.get("chat_template"))
    return [
        ChatTemplate(f"{file.path}: {key}", len(text.encode()), hashlib.sha256(text.encode()).digest())
        for key, text in found.items()
        if isinstance(text, str)
    ]


def _listed_templates(value: Any) -> dict[str, Any]:
    """Read ``chat_template``, a text or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"chat_template": value}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return {f"chat_template {item.get('name')}": item.get("template") for item in value}
    raise MalformedError("tokenizer_config.json: chat_template is neither a text nor a list of named ones")


def _tensors_of(file: InspectedFile) -> list[InspectedTensor]:
    if isinstance(file.header, GgufHeader):
        return [
            InspectedTensor(file.path, tensor.name, tensor.type, tensor.shape, tensor.end - tensor.start)
            for tensor in file.header.tensors
        ]
    if isinstance(file.header, SafetensorsHeader):
        return [
            InspectedTensor(file.path, entry.name, entry.dtype, entry.shape, entry.end - entry.start)
            for entry in file.header.tensors
        ]
    return []
