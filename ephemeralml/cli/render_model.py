"""How `ephemeralml model` shows its results, as text and as JSON."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.model.encryption import MANIFEST_PAIR
from ephemeralml.model.inspect import InspectedFile, Inspection
from ephemeralml.model.manifest import Manifest, Suite
from ephemeralml.model.transfer import Upload
from ephemeralml.model.verify import VerifiedManifest

if TYPE_CHECKING:
    import rich.console

    Printer = rich.console.Console

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def inspection_document(found: Inspection) -> dict[str, Any]:
    """Return the JSON document of ``model inspect``."""
    package = found.package
    return {
        "schema": "ephemeralml.model-inspect/1",
        "path": str(found.path),
        "format": found.description.format.value,
        "architecture": found.description.architecture,
        "task": _task(found),
        "parameters": found.parameters,
        "size": sum(file.size for file in found.files),
        "files": [_file_document(file) for file in found.files],
        "tensors": [
            {
                "file": tensor.file,
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "bytes": tensor.size,
            }
            for tensor in found.tensors
        ],
        "chat_templates": [
            {"source": template.source, "bytes": template.size, "sha256": template.sha256.hex()}
            for template in found.templates
        ],
        "package": None
        if package is None
        else {
            "model_id": package.manifest.model_id,
            "version": str(package.manifest.version),
            "suite": package.manifest.suite.value,
            "model_hash": package.model_hash.hex(),
            "signed_by": package.keyid,
            "signature": "unsigned" if package.keyid is None else "not checked",
            "keys": keys_document(package.keys),
        },
    }


def _task(found: Inspection) -> str:
    return found.description.task.value if found.description.task is not None else "unknown"


def print_inspection(out: "Printer", found: Inspection, *, tensors: bool) -> None:
    """Print what ``model inspect`` found."""
    if found.package is not None:
        said = found.package.manifest
        by = f"signed by {found.package.keyid} (not checked)" if found.package.keyid else "unsigned"
        _line(out, "package", f"{said.model_id} {said.version}, suite {said.suite.value}, {by}")
        _line(out, "model hash", found.package.model_hash.hex())
        for entry in keys_document(found.package.keys):
            _key_line(out, entry)
    total = sum(file.size for file in found.files)
    sealed = found.package is not None and found.package.manifest.suite is not Suite.NONE
    tensors_said = "tensors encrypted" if sealed else f"{len(found.tensors)} tensors"
    _line(out, "format", f"{found.description.format.value}, {tensors_said}")
    _line(out, "architecture", f"{found.description.architecture}, for {_task(found)}")
    if not sealed:
        _line(out, "parameters", f"{found.parameters:,}")
    _line(out, "size", f"{_size(total)} in {len(found.files)} files")
    for template in found.templates:
        _line(out, "template", f"{template.source}, {_size(template.size)}, sha256 {template.sha256.hex()}")
    _print_rows(out, _file_rows(found))
    if tensors:
        _print_rows(out, _tensor_rows(found))


def keys_document(entries: Sequence[WrappedKey]) -> list[dict[str, Any]]:
    """Return wrapped keys as documents show them: which key, and under what context."""
    return [{"provider": entry.provider, "key": entry.key, "context": dict(entry.context)} for entry in entries]


def package_document(folder: Path, made: Manifest, entries: Sequence[WrappedKey] = ()) -> dict[str, Any]:
    """Return the JSON document of ``model encrypt`` and ``model import``."""
    return {
        "schema": "ephemeralml.model-package/1",
        "package": str(folder),
        "model_id": made.model_id,
        "version": str(made.version),
        "suite": made.suite.value,
        "format": made.format.value,
        "architecture": made.architecture,
        "files": len(made.files),
        "size": sum(file.size for file in made.files),
        "keys": keys_document(entries),
        "upstream_signature": made.upstream_signature.hex() if made.upstream_signature else None,
        "signed": False,
    }


def print_package(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model encrypt`` made."""
    _line(out, "package", document["package"])
    kind = f"({document['format']}, {document['architecture']})"
    _line(out, "model", f"{document['model_id']} {document['version']} {kind}")
    _line(out, "files", f"{document['files']}, {_size(document['size'])}, suite {document['suite']}")
    for entry in document["keys"]:
        _key_line(out, entry)
    if document["upstream_signature"]:
        _line(out, "upstream", f"signature {document['upstream_signature']}")
    _line(out, "next", f"ephemeralml model sign {document['package']} --key FILE")


def signed_document(folder: Path, signed: Manifest, key: PublicKey) -> dict[str, Any]:
    """Return the JSON document of ``model sign``."""
    return {
        "schema": "ephemeralml.model-signature/1",
        "package": str(folder),
        "model_id": signed.model_id,
        "version": str(signed.version),
        "publisher_key": str(key),
        "keyid": key.keyid,
    }


def print_signed(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model sign`` did."""
    _line(out, "signed", f"{document['model_id']} {document['version']}, {document['package']}")
    _line(out, "publisher", document["publisher_key"])
    _line(out, "key id", document["keyid"])


def oms_document(model: Path, bundle: Path) -> dict[str, Any]:
    """Return the JSON document of ``model sign --oms``."""
    return {
        "schema": "ephemeralml.model-oms-signature/1",
        "model": str(model),
        "signature": str(bundle),
        "sha256": hashlib.sha256(bundle.read_bytes()).hexdigest(),
    }


def print_oms_signed(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model sign --oms`` did."""
    _line(out, "signed", document["model"])
    _line(out, "signature", document["signature"])
    _line(out, "sha256", document["sha256"])


def rewrapped_document(folder: Path, said: Manifest, entries: Sequence[WrappedKey]) -> dict[str, Any]:
    """Return the JSON document of ``model rewrap``."""
    return {
        "schema": "ephemeralml.model-rewrap/1",
        "package": str(folder),
        "model_id": said.model_id,
        "version": str(said.version),
        "keys": keys_document(entries),
    }


def print_rewrapped(out: "Printer", document: dict[str, Any]) -> None:
    """Print which keys open a package now."""
    _line(out, "rewrapped", f"{document['model_id']} {document['version']}, {document['package']}")
    for entry in document["keys"]:
        _key_line(out, entry)


def uploaded_document(folder: Path, destination: str, done: Upload) -> dict[str, Any]:
    """Return the JSON document of ``model upload``."""
    return {
        "schema": "ephemeralml.model-upload/1",
        "package": str(folder),
        "destination": destination,
        "model_id": done.manifest.model_id,
        "version": str(done.manifest.version),
        "model_hash": done.model_hash.hex(),
        "stored": list(done.stored),
        "skipped": list(done.skipped),
        "left": list(done.left),
        "bytes": done.size,
    }


def print_uploaded(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model upload`` did."""
    _line(out, "model", f"{document['model_id']} {document['version']}")
    _line(out, "stored", f"{_objects(document['stored'])}, {_size(document['bytes'])}, {document['destination']}")
    if document["skipped"]:
        _line(out, "skipped", f"{_objects(document['skipped'])} that lay there already")
    _line(out, "model hash", document["model_hash"])


def _objects(keys: Sequence[str]) -> str:
    return "1 object" if len(keys) == 1 else f"{len(keys)} objects"


def downloaded_document(source: str, folder: Path, verified: VerifiedManifest) -> dict[str, Any]:
    """Return the JSON document of ``model download``."""
    said = verified.manifest
    return {
        "schema": "ephemeralml.model-download/1",
        "verdict": "verified",
        "source": source,
        "package": str(folder),
        "model_id": said.model_id,
        "version": str(said.version),
        "suite": said.suite.value,
        "model_hash": verified.model_hash.hex(),
        "publisher_key": str(verified.publisher_key),
        "files": len(said.files),
        "bytes": sum(file.blob_size for file in said.files),
    }


def print_downloaded(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model download`` fetched."""
    _line(out, "package", document["package"])
    _line(out, "model", f"{document['model_id']} {document['version']}, suite {document['suite']}")
    _line(out, "files", f"{document['files']}, {_size(document['bytes'])}")
    _line(out, "publisher", document["publisher_key"])
    _line(out, "model hash", document["model_hash"])
    out.print("verified", style="bold green")


def verified_document(
    folder: Path, verified: VerifiedManifest, entries: Sequence[WrappedKey] = (), *, full: bool
) -> dict[str, Any]:
    """Return the JSON document of ``model verify``."""
    said = verified.manifest
    checks = ["signature", "layout", "sizes", "blob digests"]
    checks += ["key bindings"] if entries else []
    checks += ["plaintext digests"] if full else []
    return {
        "schema": "ephemeralml.model-verify/1",
        "verdict": "verified",
        "package": str(folder),
        "model_id": said.model_id,
        "version": str(said.version),
        "suite": said.suite.value,
        "model_hash": verified.model_hash.hex(),
        "model_hash_scheme": verified.model_hash_scheme,
        "publisher_key": str(verified.publisher_key),
        "files": len(said.files),
        "size": sum(file.size for file in said.files),
        "keys": keys_document(entries),
        "checks": checks,
    }


def print_verified(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model verify`` checked."""
    for check in document["checks"]:
        out.print(f"✓ {check}", markup=False)
    _line(out, "model", f"{document['model_id']} {document['version']}, suite {document['suite']}")
    for entry in document["keys"]:
        _key_line(out, entry)
    _line(out, "publisher", document["publisher_key"])
    _line(out, "model hash", document["model_hash"])
    out.print("verified", style="bold green")


def _file_document(file: InspectedFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "role": file.role.value,
        "size": file.size,
        "sha256": file.sha256.hex(),
        "tensors": sum(file.dtypes.values()),
        "dtypes": file.dtypes,
    }


def _file_rows(found: Inspection) -> list[list[str]]:
    rows = [["file", "role", "size", "dtypes", "sha256"]]
    for file in found.files:
        dtypes = ", ".join(f"{count} {name}" for name, count in file.dtypes.items())
        rows.append([file.path, file.role.value, _size(file.size), dtypes or "-", file.sha256.hex()])
    return rows


def _tensor_rows(found: Inspection) -> list[list[str]]:
    rows = [["tensor", "dtype", "shape", "bytes"]]
    rows += [[tensor.name, tensor.dtype, str(list(tensor.shape)), f"{tensor.size:,}"] for tensor in found.tensors]
    return rows


def _print_rows(out: "Printer", rows: list[list[str]]) -> None:
    """Print *rows* aligned, the first as a heading; digests must survive any terminal width, so nothing wraps."""
    rows = [[_visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    out.print()
    for number, row in enumerate(rows):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        out.print(line, markup=False, soft_wrap=True, style="bold" if number == 0 else None)


def _key_line(out: "Printer", entry: dict[str, Any]) -> None:
    bound = "bound to this manifest" if MANIFEST_PAIR in entry["context"] else "bound to id and version"
    _line(out, "key", f"{entry['key']}, {bound}")


def _line(out: "Printer", label: str, text: str) -> None:
    out.print(f"{label:<14}{_visible(text)}", markup=False, soft_wrap=True)


def _visible(text: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _size(count: int) -> str:
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: the last unit ends the loop")
