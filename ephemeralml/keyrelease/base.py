"""What releases a model's key, as seen by packaging and runtime (key-release.md section 1).

Only the seams: adapters for each KMS come with key release itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

DEK_BYTES = 32
MAX_CONTEXT_PAIRS = 8

EncryptionContext = Mapping[str, str]
"""Binds a wrapped key to a model: ``model_id``, ``version`` and, if bound, ``manifest``. No secrets."""


class SecretBytes:
    """Bytes that are wiped when they are no longer needed, and shown by nothing.

    Python may have copied them before they came here; what this holds, it wipes.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytearray) -> None:
        """Take *data* over; the caller keeps no other reference."""
        self._data = data

    def reveal(self) -> memoryview:
        """Return the bytes for immediate use; valid until `wipe`.

        Raises:
            RuntimeError: They were wiped before.
        """
        if not self._data:
            raise RuntimeError("the secret was wiped")
        return memoryview(self._data).toreadonly()

    def wipe(self) -> None:
        """Overwrite the bytes."""
        for index in range(len(self._data)):
            self._data[index] = 0
        self._data = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "SecretBytes(…)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not copied or stored")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as a KMS encrypted it: one entry of ``keys.json``."""

    provider: str
    """``aws-kms``, ``gcp-kms`` or ``local``."""
    key: str
    """URI of the wrapping key."""
    ciphertext: bytes
    context: EncryptionContext


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
