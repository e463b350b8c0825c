"""How `ephemeralml model` shows its results, as text and as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.crypto.keys import PublicKey
from ephemeralml.model.inspect import InspectedFile, Inspection
from ephemeralml.model.manifest import Manifest
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
    total = sum(file.size for file in found.files)
    _line(out, "format", f"{found.description.format.value}, {len(found.tensors)} tensors")
    _line(out, "architecture", f"{found.description.architecture}, for {_task(found)}")
    _line(out, "parameters", f"{found.parameters:,}")
    _line(out, "size", f"{_size(total)} in {len(found.files)} files")
    for template in found.templates:
        _line(out, "template", f"{template.source}, {_size(template.size)}, sha256 {template.sha256.hex()}")
    _print_rows(out, _file_rows(found))
    if tensors:
        _print_rows(out, _tensor_rows(found))


def package_document(folder: Path, made: Manifest) -> dict[str, Any]:
    """Return the JSON document of ``model encrypt``."""
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
        "signed": False,
    }


def print_package(out: "Printer", folder: Path, made: Manifest) -> None:
    """Print what ``model encrypt`` made."""
    total = sum(file.size for file in made.files)
    _line(out, "package", str(folder))
    _line(out, "model", f"{made.model_id} {made.version} ({made.format.value}, {made.architecture})")
    _line(out, "files", f"{len(made.files)}, {_size(total)}, suite {made.suite.value}")
    _line(out, "next", f"ephemeralml model sign {folder} --key FILE")


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


def verified_document(folder: Path, verified: VerifiedManifest, *, full: bool) -> dict[str, Any]:
    """Return the JSON document of ``model verify``."""
    said = verified.manifest
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
        "checks": ["signature", "layout", "sizes", "blob digests", *(["plaintext digests"] if full else [])],
    }


def print_verified(out: "Printer", document: dict[str, Any]) -> None:
    """Print what ``model verify`` checked."""
    for check in document["checks"]:
        out.print(f"✓ {check}", markup=False)
    _line(out, "model", f"{document['model_id']} {document['version']}, suite {document['suite']}")
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
