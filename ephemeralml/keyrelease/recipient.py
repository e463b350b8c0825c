"""The key to which a KMS encrypts what it releases (key-release.md section 2).

It is made at boot, kept in memory, and dropped when the last package is open.
A KMS accepts an attestation document again for as long as its certificates
are valid; what such a replay yields can be opened with this key alone.
"""

import hashlib
from typing import Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.crypto import cms
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.crypto.transcript import lp

RSA_BITS = 2_048
RSA_EXPONENT = 65_537

_USER_DATA_LABEL = b"ephemeralml/keyrelease/1"


class RecipientKey:
    """An RSA key of one boot; nothing exports, stores or derives it."""

    __slots__ = ("_private", "spki")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self._private: rsa.RSAPrivateKey | None = private
        self.spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        """DER SubjectPublicKeyInfo, as the attestation document carries it."""

    @classmethod
    def generate(cls) -> Self:
        """Make a key; takes a tenth of a second or so."""
        return cls(rsa.generate_private_key(RSA_EXPONENT, RSA_BITS))

    def open(self, ciphertext_for_recipient: bytes) -> SecretBytes:
        """Open what the KMS sent: the 32 bytes of a data key.

        That it opens says nothing about who made it.

        Raises:
            MalformedError: No envelope, with code KEY_RESPONSE_INVALID.
            RejectedError: It does not open, with the same code.
            RuntimeError: The key was dropped.
        """
        if self._private is None:
            raise RuntimeError("the recipient key was dropped")
        return cms.unwrap(ciphertext_for_recipient, self._private)

    def drop(self) -> None:
        """Forget the private key; OpenSSL clears it as it frees it."""
        self._private = None

    def __repr__(self) -> str:
        return f"RecipientKey(sha256={hashlib.sha256(self.spki).hexdigest()[:16]})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a recipient key is not copied or stored")


def release_user_data(recipient_spki: bytes, receipt_public_key: bytes) -> bytes:
    """Return what ties a release to this boot's receipts: the document's user data, 32 bytes."""
    return hashlib.sha256(lp(_USER_DATA_LABEL, recipient_spki, receipt_public_key)).digest()
