"""What a package's data key is bound to: its encryption context (key-release.md section 1).

`keys.json` is unsigned, so a context that stands there is never believed: it
is made again from the signed manifest and compared whole.
"""

import hashlib
from typing import Protocol

from ephemeralml.crypto.aead_stream import StreamSuite
from ephemeralml.crypto.data_key import EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.errors import RejectedError
from ephemeralml.model.manifest import Suite
from ephemeralml.model.verify import VerifiedManifest
from ephemeralml.semver import SemVer

MANIFEST_PAIR = "manifest"

_STREAMS = {
    Suite.CHACHA20POLY1305: StreamSuite.CHACHA20POLY1305,
    Suite.AES256GCM: StreamSuite.AES256GCM,
}


def stream_suite(suite: Suite) -> StreamSuite:
    """Return how containers of a manifest's *suite* are sealed; ``none`` has no containers."""
    return _STREAMS[suite]


class KeySource(Protocol):
    """A KMS as the publisher uses it; every `KeyProvider` of key release is one."""

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        """Make a data key under *context*."""

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        """Wrap a data key that exists already."""


def encryption_context(model_id: str, version: SemVer, payload: bytes | None = None) -> dict[str, str]:
    """Return the context of a package; with *payload*, the manifest's, it is bound to that very manifest."""
    context = {"model_id": model_id, "version": str(version)}
    if payload is not None:
        context[MANIFEST_PAIR] = hashlib.sha256(payload).hexdigest()
    return context


def expected_context(
    verified: VerifiedManifest, entry: WrappedKey, *, bind_manifest: bool = False
) -> EncryptionContext:
    """Return the context under which *entry* of ``keys.json`` must have been wrapped.

    Args:
        verified: The package's manifest.
        entry: One of its wrapped keys. Of its context only this counts: whether
            it names a manifest.
        bind_manifest: Whether it must.

    Raises:
        RejectedError: The entry says anything else (code CONTEXT_MISMATCH).
    """
    bound = bind_manifest or MANIFEST_PAIR in entry.context
    manifest = verified.manifest
    expected = encryption_context(manifest.model_id, manifest.version, verified.payload if bound else None)
    if dict(entry.context) != expected:
        raise RejectedError(
            "a wrapped key in keys.json is not bound to this package",
            code="CONTEXT_MISMATCH",
            expected=expected,
            actual=dict(entry.context),
        )
    return expected
