"""Signs the manifest of a package in place (model-package.md section 1)."""

import os
import tempfile
from pathlib import Path

from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import UnavailableError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.manifest import Manifest
from ephemeralml.model.package import MANIFEST_NAME, Package


def sign_package(folder: Path, key: PrivateKey) -> Manifest:
    """Sign the package at *folder* with *key*, replacing any signature it had.

    The manifest must parse and the folder must hold its blobs; that their
    contents are right is what `verify_package` checks, afterwards and by anyone.

    Raises:
        MalformedError: The manifest does not parse, or something does not belong there.
        UnavailableError: A blob is missing, or the manifest cannot be written.
    """
    with Package.open(folder) as package:
        data = package.manifest_bytes()
        parsed = manifest.parse(envelope.parse(data).payload)
        package.check_layout(parsed)
    replace_file(folder / MANIFEST_NAME, envelope.signed(data, key))
    return parsed


def replace_file(path: Path, data: bytes) -> None:
    """Write *data* beside the package that *path* lies in, then put it in place in one step.

    Raises:
        UnavailableError: The disk does not allow it.
    """
    temporary = None
    try:
        # Not inside the package: nothing may be there but what belongs, not even for a moment.
        fd, temporary = tempfile.mkstemp(dir=path.parent.resolve().parent, prefix=f".{path.parent.resolve().name}.")
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UnavailableError(f"cannot write {str(path)!r}: {error.strerror}") from error
