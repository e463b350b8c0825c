"""A KMS of one key, in memory: data keys are wrapped with AES-256-GCM, their context is authenticated."""

import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ephemeralml.crypto.data_key import DEK_BYTES, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.errors import RejectedError

KEY_URI = "local:arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000001"


@dataclass
class OneKey:
    """Makes, wraps and opens data keys; notes every secret it gave away, so that tests see it wiped."""

    key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    uri: str = KEY_URI
    given: list[SecretBytes] = field(default_factory=list)
    calls: list[tuple[str, EncryptionContext]] = field(default_factory=list)

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        dek = SecretBytes(bytearray(os.urandom(DEK_BYTES)))
        self.calls.append(("generate", dict(context)))
        return dek, self._wrapped(dek, context)

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        self.calls.append(("wrap", dict(context)))
        return self._wrapped(dek, context)

    def _wrapped(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        self.given.append(dek)
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(self.key).encrypt(nonce, bytes(dek.reveal()), _canonical(context))
        return WrappedKey("local", self.uri, sealed, dict(context))

    def open(self, wrapped: WrappedKey) -> SecretBytes:
        try:
            opened = AESGCM(self.key).decrypt(
                wrapped.ciphertext[:12], wrapped.ciphertext[12:], _canonical(wrapped.context)
            )
        except InvalidTag as error:
            raise RejectedError("wrong context, key or ciphertext", code="KEY_CIPHERTEXT_INVALID") from error
        return SecretBytes(bytearray(opened))


def _canonical(context: EncryptionContext) -> bytes:
    return json.dumps(dict(context), sort_keys=True).encode()
