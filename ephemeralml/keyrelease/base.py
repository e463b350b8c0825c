"""What releases a model's key, as seen by packaging and runtime (key-release.md section 1)."""

from typing import Protocol

from ephemeralml.crypto.data_key import EncryptionContext, SecretBytes, WrappedKey


class ReleaseAttester(Protocol):
    """Makes the attestation document under which a KMS releases a key (key-release.md section 2)."""

    def attest_release(self, recipient_spki: bytes) -> bytes:
        """Return a document that binds the recipient's RSA key."""


class KeyProvider(Protocol):
    """A KMS. Errors and their codes are those of the table in key-release.md section 1."""

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        """Make a data key under *context*; the publisher's side."""

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        """Wrap a data key that exists already, for a second KMS key."""

    def unwrap(self, wrapped: WrappedKey, *, attester: ReleaseAttester) -> SecretBytes:
        """Have the key released to the machine that *attester* speaks for: 32 bytes or an error."""
