"""What `model encrypt`, `import` and `sign --oms` do once their options are read."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeralml.cli import console
from ephemeralml.cli.data_keys import KeptKeys, publishing_denied
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model.manifest import Manifest, Suite
from ephemeralml.model.package import Package
from ephemeralml.model.package_keys import read_keys

if TYPE_CHECKING:
    from ephemeralml.keyrelease.base import OperatorKeys
    from ephemeralml.model.create import PackageRequest


def make_package(
    model: Path,
    out: Path,
    request: "PackageRequest",
    keys: "OperatorKeys | None",
    *,
    keep_dek: Path | None,
    force: bool,
) -> Manifest:
    """Make the package, and write its data key to *keep_dek* if that is wanted."""
    from ephemeralml.model.create import create_package

    kept = None if keys is None or keep_dek is None else KeptKeys(keys, keep_dek, force=force)
    try:
        with console.current().progress() as progress:
            made = create_package(model, out, request, key_source=kept or keys, replace=force, progress=progress)
        if kept is not None:
            kept.write()
    except RejectedError as error:
        raise publishing_denied(error, request.model_id, str(request.version)) from error.__cause__
    finally:
        if kept is not None:
            kept.forget()
    return made


def report_package(out: Path, made: Manifest) -> None:
    """Print what package was made, and warn of one that anybody can read."""
    from ephemeralml.cli.render_model import package_document, print_package

    if made.suite is Suite.NONE:
        console.current().warning("the package is not encrypted: only a runtime that allows plaintext will load it")
    with Package.open(out) as package:
        entries = () if made.suite is Suite.NONE else read_keys(package)
    document = package_document(out, made, entries)
    console.current().result(document, lambda printer: print_package(printer, document))


def sign_model(model: Path, key: Path, out: Path, *, force: bool) -> None:
    """Sign a plaintext model with an elliptic-curve key, beside the model."""
    from ephemeralml.cli.key_files import warn_if_shared
    from ephemeralml.cli.render_model import oms_document, print_oms_signed

    if (model / "manifest.json").exists() and (model / "blobs").is_dir():
        raise console.usage(
            f"{str(model)!r} is a package, and --oms signs plaintext models", hint="give the model's folder"
        )
    if not key.is_file():
        raise console.usage(f"there is no private key {str(key)!r}")
    console.check_creatable(out, force=force)
    if out.resolve().is_relative_to(model.resolve()):
        raise console.usage(f"{str(out)!r} would be a file of the model", hint="name a file beside the model's folder")
    warn_if_shared(key)
    with console.current().progress() as progress:
        progress.step("sign the model")
        _sign_to(model, key, out)
    document = oms_document(model, out)
    console.current().result(document, lambda printer: print_oms_signed(printer, document))


def _sign_to(model: Path, key: Path, out: Path) -> None:
    """Have the signature made beside its place, then put there in one step."""
    from ephemeralml.model.oms import sign_upstream

    try:
        fd, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        os.close(fd)
        temporary = Path(name)
        try:
            sign_upstream(model, temporary, key)
            temporary.chmod(0o644)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(f"cannot write {str(out)!r}: {error.strerror}") from error
