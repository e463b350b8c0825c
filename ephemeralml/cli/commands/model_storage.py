"""`ephemeralml model upload` and `download`: packages to and from object storage."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.interruption import resumable
from ephemeralml.cli.model_inputs import (
    AllowPlaintext,
    MinVersion,
    PackageFolder,
    PublisherKeys,
    Replace,
    free,
    least_version,
    packaged,
    publisher_keys,
)
from ephemeralml.errors import MalformedError, RejectedError

if TYPE_CHECKING:
    from ephemeralml.storage.base import Storage

_WRITABLE = ("file://", "s3://", "gs://")


def upload(
    package: PackageFolder,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="file:///FOLDER, a path, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")
    ],
    publisher_key: Annotated[
        list[str] | None,
        typer.Option(
            "--publisher-key", metavar="KEY", help="Whose signature it has to have; else any, and it is not checked."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace objects that differ.")] = False,
) -> None:
    """Store a signed package; what lies there already is skipped, what was interrupted goes on."""
    from ephemeralml.cli.render_model import print_uploaded, uploaded_document
    from ephemeralml.model.package import Package
    from ephemeralml.model.transfer import upload_package

    packaged(package)
    keys = publisher_keys(publisher_key or [])
    if "://" in dest and not dest.startswith(_WRITABLE):
        raise console.usage(f"{dest!r} cannot be written", hint=f"known are a path, {', '.join(_WRITABLE)}")
    with (
        resumable(),
        Package.open(package) as opened,
        _storage(dest) as store,
        console.current().progress() as progress,
    ):
        try:
            done = upload_package(opened, store, publisher_keys=keys, force=force, progress=progress)
        except RejectedError as error:
            if error.code == "OBJECT_EXISTS":
                raise console.usage(error.message, hint=error.hint) from error
            raise
    if done.left:
        console.current().warning(
            f"{len(done.left)} blobs of another package lie there too, {done.left[0]} for one; remove them"
        )
    document = uploaded_document(package, dest, done)
    console.current().result(document, lambda out: print_uploaded(out, document))


def download(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="file:///FOLDER, a path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or https://HOST/PATH."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The package to make.")],
    publisher_key: PublisherKeys,
    min_version: MinVersion = None,
    allow_plaintext: AllowPlaintext = False,
    force: Replace = False,
) -> None:
    """Fetch a package and verify it on the way; an interrupted download goes on where it stopped."""
    from ephemeralml.cli.render_model import downloaded_document, print_downloaded
    from ephemeralml.model.transfer import download_package

    keys, oldest = publisher_keys(publisher_key), least_version(min_version)
    free(folder, force=force)
    with resumable(), _storage(src) as store, console.current().progress() as progress:
        verified = download_package(
            store,
            folder,
            publisher_keys=keys,
            min_version=oldest,
            allow_plaintext=allow_plaintext,
            replace=force,
            progress=progress,
        )
    document = downloaded_document(src, folder, verified)
    console.current().result(document, lambda out: print_downloaded(out, document))


def _storage(uri: str) -> "Storage":
    from ephemeralml.storage.open import open_storage

    try:
        return open_storage(uri, state=_state())
    except MalformedError as error:
        raise console.usage(error.message, hint=error.hint) from error


def _state() -> Path | None:
    """Return where unfinished uploads are noted; None where this user has no home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        home = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return home / "ephemeralml" / "uploads"
