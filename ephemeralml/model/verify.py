"""Verification of a model package (model-package.md sections 1, 5 and 6)."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from ephemeralml.crypto.keys import PublicKey
from ephemeralml.daemon_pool import DaemonPool
from ephemeralml.errors import RejectedError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.blobs import check_size
from ephemeralml.model.hashing import Meter, worker_count
from ephemeralml.model.manifest import Manifest, ManifestFile, Suite
from ephemeralml.model.package import Package
from ephemeralml.progress import Progress, Silent
from ephemeralml.semver import SemVer

READ_BYTES = 1 << 20
_MODEL_HASH_SCHEME = "sha256-manifest"


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A manifest whose publisher's signature was checked; only this module makes one."""

    manifest: Manifest
    payload: bytes
    """The bytes that were signed."""
    envelope: bytes
    """``manifest.json`` as shipped."""
    publisher_key: PublicKey
    """The key, of those allowed, that signed it."""

    @property
    def model_hash(self) -> bytes:
        """Identity of the model in receipts: SHA-256 of the payload."""
        return hashlib.sha256(self.payload).digest()

    @property
    def model_hash_scheme(self) -> str:
        """How receipts name that (air-v1.md section 6)."""
        return _MODEL_HASH_SCHEME

    def __repr__(self) -> str:
        return f"VerifiedManifest({self.manifest.model_id}@{self.manifest.version}, {self.model_hash.hex()[:16]}…)"


def verify_manifest(
    data: bytes,
    *,
    publisher_keys: Sequence[PublicKey],
    min_version: SemVer | None = None,
    allow_plaintext: bool = False,
) -> VerifiedManifest:
    """Verify ``manifest.json``, without the files it lists.

    1. It is a DSSE envelope of a model manifest.          MalformedError
    2. One of *publisher_keys* signed the payload.         UNSIGNED, SIGNER_UNKNOWN, SIGNATURE_INVALID
    3. The payload parses, within its limits.              MalformedError
    4. Its version is *min_version* or newer.              VERSION_ROLLBACK
    5. It is encrypted, unless *allow_plaintext*.          PLAINTEXT_NOT_ALLOWED

    Which model ids are acceptable is the caller's business, and so are the
    files: `verify_package` checks the blobs at rest, `container.load_files`
    what is loaded.

    Raises:
        MalformedError: Steps 1 and 3.
        RejectedError: Steps 2, 4 and 5.
    """
    # 1
    signed = envelope.parse(data)
    # 2
    publisher = signed.verify(tuple(publisher_keys), payload_type=envelope.PAYLOAD_TYPE)
    # 3
    parsed = manifest.parse(signed.payload)
    # 4
    if min_version is not None and parsed.version < min_version:
        raise RejectedError(
            f"{parsed.model_id} {parsed.version} is older than {min_version}",
            code="VERSION_ROLLBACK",
            expected=str(min_version),
            actual=str(parsed.version),
        )
    # 5
    if parsed.suite is Suite.NONE and not allow_plaintext:
        raise RejectedError(
            f"the package of {parsed.model_id} is not encrypted",
            code="PLAINTEXT_NOT_ALLOWED",
            hint="encrypt it, or allow plaintext packages (--allow-plaintext; allow_plaintext in measured config)",
        )
    return VerifiedManifest(parsed, signed.payload, data, publisher)


def verify_package(
    package: Package,
    *,
    publisher_keys: Sequence[PublicKey],
    min_version: SemVer | None = None,
    allow_plaintext: bool = False,
    progress: Progress | None = None,
) -> VerifiedManifest:
    """Verify a package at rest; needs no key to its contents.

    1. The manifest: `verify_manifest`, all its steps.
    2. The folder holds the manifest's blobs and nothing else.    MalformedError; UnavailableError for a missing one
    3. Every blob has the size of the manifest.                   SIZE_MISMATCH
    4. Every blob has the SHA-256 of the manifest.                BLOB_DIGEST_MISMATCH

    Plaintext digests are not checked here unless the package is plaintext:
    there they are the blobs' own.

    Raises:
        MalformedError: Something does not parse or does not belong there.
        RejectedError: A check fails; the code says which.
        UnavailableError: A blob is missing or cannot be read.
    """
    # 1
    verified = verify_manifest(
        package.manifest_bytes(),
        publisher_keys=publisher_keys,
        min_version=min_version,
        allow_plaintext=allow_plaintext,
    )
    # 2, 3, 4
    check_blobs(package, verified.manifest, progress=progress)
    return verified


def check_blobs(package: Package, manifest: Manifest, *, progress: Progress | None = None) -> None:
    """Hold a package's folder against *manifest*, whoever signed it: steps 2 to 4 of `verify_package`.

    Raises:
        MalformedError: Something does not belong there.
        RejectedError: A blob has another size or digest.
        UnavailableError: A blob is missing or cannot be read.
    """
    # 2
    files = manifest.files
    package.check_layout(manifest)
    # 3
    for file in files:
        check_size(package, file)
    # 4
    progress = progress or Silent()
    progress.step("verify digests")
    meter = Meter(progress, sum(file.blob_size for file in files))
    with DaemonPool(worker_count(), "verify") as pool:  # who interrupts waits for no large blob
        digests = pool.map(lambda file: _blob_digest(package, file, meter), files)
    for file, digest in zip(files, digests, strict=True):
        if not hmac.compare_digest(digest, file.blob_sha256):
            raise RejectedError(
                f"{file.path}: its blob is not the one the manifest was signed for",
                code="BLOB_DIGEST_MISMATCH",
                expected=file.blob_sha256.hex(),
                actual=digest.hex(),
            )


def _blob_digest(package: Package, file: ManifestFile, meter: Meter) -> bytes:
    flat = hashlib.sha256()
    buffer = memoryview(bytearray(min(READ_BYTES, max(file.blob_size, 1))))
    for start in range(0, file.blob_size, READ_BYTES):
        part = buffer[: min(READ_BYTES, file.blob_size - start)]
        package.read_into(file.blob, start, part)
        flat.update(part)
        meter.add(len(part))
    return flat.digest()
