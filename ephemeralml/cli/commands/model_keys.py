"""`ephemeralml model rewrap` and `import`: packages under other keys."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.data_keys import DekFile, KmsEndpoint, move_key, not_movable, obtain_dek, open_key, read_dek
from ephemeralml.cli.interruption import signals_interrupt
from ephemeralml.cli.model_inputs import (
    AllowDtype,
    BindManifest,
    ChunkSize,
    License,
    OutFolder,
    PackageFolder,
    Publisher,
    PublisherKeys,
    Replace,
    SuiteName,
    WrappingKey,
    check_apart,
    chosen_suite,
    existing,
    free,
    package_request,
    packaged,
    publisher_keys,
)
from ephemeralml.errors import RejectedError

_MEMORY = Path("/dev/shm")  # noqa: S108 - where plaintext lies in memory and not on a disk


_LegacyFolder = Annotated[Path, typer.Argument(metavar="PACKAGE", help="Folder of a package of the reference system.")]
_LegacyDek = Annotated[
    Path, typer.Option("--dek", metavar="FILE", help="Its data key, 64 hex digits in a file of mode 0600.")
]
_OtherId = Annotated[str | None, typer.Option("--model-id", metavar="ID", help="Another name than its manifest gives.")]
_OtherVersion = Annotated[
    str | None, typer.Option("--model-version", metavar="V", help="SemVer 2.0 version, if its own is none.")
]
_Weights = Annotated[
    str | None, typer.Option("--weights", metavar="NAME", help="The encrypted file, if its name does not tell.")
]


def rewrap(
    package: PackageFolder,
    key: Annotated[
        str, typer.Option("--key", metavar="URI", help="KMS key to wrap for: aws-kms:ARN, gcp-kms:NAME or local:ARN.")
    ],
    add: Annotated[bool, typer.Option("--add", help="Keep the other wrapped keys.")] = False,
    bind_manifest: BindManifest = False,
    dek: DekFile = None,
    kms_endpoint: KmsEndpoint = None,
) -> None:
    """Wrap the package's data key for another KMS key; only keys.json changes."""
    from ephemeralml.cli.render_model import print_rewrapped, rewrapped_document
    from ephemeralml.model.package import Package
    from ephemeralml.model.rewrap import read_wrapped, rewrap_package

    packaged(package)
    fixed = key.startswith("gcp-kms:")
    target = open_key(key, endpoint=None if fixed else kms_endpoint)
    with Package.open(package) as opened:
        found = read_wrapped(opened)
    moved = None if dek is not None else move_key(package, found, target, add=add, bind_manifest=bind_manifest)
    if isinstance(moved, tuple):
        entries = moved
    else:
        try:
            secret = obtain_dek(found.entries, dek, endpoint=kms_endpoint)
        except RejectedError as error:
            raise not_movable(moved, error) from error.__cause__
        with secret:
            entries = rewrap_package(package, target, secret, add=add, bind_manifest=bind_manifest)
    document = rewrapped_document(package, found.manifest, entries)
    console.current().result(document, lambda out: print_rewrapped(out, document))


def import_(  # noqa: PLR0917 - the command's options
    package: _LegacyFolder,
    out: OutFolder,
    dek: _LegacyDek,
    publisher_key: PublisherKeys,
    key: WrappingKey = None,
    suite: SuiteName = None,
    model_id: _OtherId = None,
    model_version: _OtherVersion = None,
    weights: _Weights = None,
    chunk_size: ChunkSize = 4 << 20,
    bind_manifest: BindManifest = False,
    kms_endpoint: KmsEndpoint = None,
    allow_dtype: AllowDtype = None,
    license_: License = "NOASSERTION",
    publisher: Publisher = "",
    force: Replace = False,
) -> None:
    """Read a package of the reference system, verify it, and package it anew, ready to sign."""
    from ephemeralml.cli.packaging import report_package
    from ephemeralml.model.create import create_package
    from ephemeralml.model.legacy_import import open_legacy, unpacked

    existing(package, folder=True)
    chosen = chosen_suite(suite, key, bind_manifest=bind_manifest, endpoint=kms_endpoint)
    check_apart(package, out)
    free(out, force=force)
    source = None if key is None else open_key(key, endpoint=kms_endpoint)
    with read_dek(dek) as secret:
        found = open_legacy(package, publisher_keys=publisher_keys(publisher_key), weights=weights)
        request = package_request(
            model_id=model_id or found.manifest.model_id,
            version=model_version or found.manifest.version,
            chunk_size=chunk_size,
            allow_dtype=allow_dtype or [],
            license_=license_,
            publisher=publisher,
            suite=chosen,
            bind_manifest=bind_manifest,
        )
        for name in found.unsigned:
            console.current().warning(f"{name}: its old publisher signed no digest of it; look at it before you sign")
        with (
            signals_interrupt(),  # nothing but this block takes the plaintext away again
            console.current().progress() as progress,
            unpacked(found, secret, scratch=_scratch(found.size, out), progress=progress) as model,
        ):
            made = create_package(model, out, request, key_source=source, replace=force, progress=progress)
    report_package(out, made)


def _scratch(size: int, out: Path) -> Path:
    """Return where plaintext may lie for a moment: in memory, or beside *out* where it does not fit."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 * size + (64 << 20):
        return _MEMORY
    console.current().warning(f"the plaintext model lies in a private folder of {str(out.parent)!r} meanwhile")
    return out.parent
