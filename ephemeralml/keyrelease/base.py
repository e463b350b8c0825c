"""What releases a model's key, as seen by packaging and runtime (key-release.md section 1)."""

from typing import Protocol

from ephemeralml.crypto.data_key import DEK_BYTES, MAX_CONTEXT_PAIRS, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import MalformedError

MAX_CONTEXT_CHARACTERS = 8_192
"""AWS KMS's own limit, over all names and values."""
MAX_WRAPPED_BYTES = 6_144
"""Ciphertext of a wrapped key."""


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


class OperatorKeys(KeyProvider, Protocol):
    """A KMS as the publisher's command line uses it."""

    @property
    def uri(self) -> str:
        """The key's full URI; an alias is resolved first."""

    def decrypt_plain(self, wrapped: WrappedKey) -> SecretBytes:
        """Have the key in the clear, without attestation: where the key's policy lets an operator.

        Raises:
            RejectedError: It does not (KEY_RELEASE_DENIED), or the entry is wrong.
            UnavailableError: The service, key or credentials are missing.
        """


def checked_context(context: EncryptionContext) -> dict[str, str]:
    """Return *context* if a KMS takes it.

    Raises:
        MalformedError: Not 1 to 8 pairs of non-empty strings, or over 8,192 characters.
    """
    result = dict(context)
    if not 1 <= len(result) <= MAX_CONTEXT_PAIRS:
        raise MalformedError(f"an encryption context of {len(result)} pairs, 1 to {MAX_CONTEXT_PAIRS} are allowed")
    if not all(result) or not all(result.values()):
        raise MalformedError("an encryption context with an empty name or value")
    characters = sum(len(name) + len(value) for name, value in result.items())
    if characters > MAX_CONTEXT_CHARACTERS:
        raise MalformedError(f"an encryption context of {characters} characters")
    return result


def take_secret(plaintext: bytes) -> SecretBytes | None:
    """Move a data key out of the `bytes` that a library returned and wipe those; None if it is not 32 bytes."""
    secret = SecretBytes(bytearray(plaintext)) if len(plaintext) == DEK_BYTES else None
    wipe_bytes(plaintext)
    return secret
