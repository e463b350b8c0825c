"""Checks every plaintext digest of a package: ``model verify --full`` (model-package.md section 1)."""

import hashlib
import hmac

from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import RejectedError
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.container import load_files
from ephemeralml.model.verify import VerifiedManifest
from ephemeralml.progress import Progress


def verify_plaintext(
    verified: VerifiedManifest,
    store: BlobStore,
    *,
    dek: SecretBytes | None = None,
    progress: Progress | None = None,
) -> None:
    """Load every file of a package and check its plaintext, root and flat digest.

    1. Size, header, chunks and chunk root of every file: `load_files`.
    2. SHA-256 of every file.                               FILE_DIGEST_MISMATCH

    Raises:
        IncompleteError: The package is encrypted and there is no *dek*.
        MalformedError: A container's header does not parse.
        RejectedError: A check fails.
        UnavailableError: A blob is missing.
    """
    # 1
    loaded = load_files(verified, store, dek=dek, progress=progress)
    try:
        # 2
        for file in verified.manifest.files:
            actual = hashlib.sha256(loaded[file.path].view()).digest()
            if not hmac.compare_digest(actual, file.sha256):
                raise RejectedError(
                    f"{file.path}: its contents are not those the manifest was signed for",
                    code="FILE_DIGEST_MISMATCH",
                    expected=file.sha256.hex(),
                    actual=actual.hex(),
                )
    finally:
        for memory in loaded.values():
            memory.close()
