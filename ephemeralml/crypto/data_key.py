"""A model's data key, in the clear and wrapped: the values that packaging and key release share.

Source: model-package.md section 6 (keys.json) and key-release.md section 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

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
