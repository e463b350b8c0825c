"""Cipher suites of the channel (channel section 2)."""

from collections.abc import Sequence
from enum import IntEnum

from ephemeralml.crypto.hpke import TAG_BYTES, Aead, Kem

SESSION_SECRET_BYTES = 32
"""What the client draws and seals to the session's KEM key."""


class Suite(IntEnum):
    """A row of the suite table; HPKE uses the row's KEM, KDF and AEAD throughout."""

    X25519_CHACHA20 = 1
    """Mandatory."""
    HYBRID_CHACHA20 = 2
    """ML-KEM-768 + X25519; preferred."""
    HYBRID_AES256 = 3
    """As 2 with AES-256-GCM; preferred where the CPU has AES."""

    @property
    def kem(self) -> Kem:
        """The key encapsulation mechanism."""
        return Kem.X25519 if self is Suite.X25519_CHACHA20 else Kem.X_WING

    @property
    def aead(self) -> Aead:
        """The cipher of HPKE's single shot and of the records."""
        return Aead.AES_256_GCM if self is Suite.HYBRID_AES256 else Aead.CHACHA20_POLY1305

    @property
    def public_key_bytes(self) -> int:
        """Size of the KEM public key: 32 or 1,216."""
        return self.kem.public_key_bytes

    @property
    def sealed_bytes(self) -> int:
        """Size of ``enc ‖ ct`` in client_finish: 80 or 1,168."""
        return self.kem.enc_bytes + SESSION_SECRET_BYTES + TAG_BYTES


PREFERRED = (Suite.HYBRID_AES256, Suite.HYBRID_CHACHA20, Suite.X25519_CHACHA20)
"""Order of preference on a CPU with AES instructions, which every TEE of ours has."""

PREFERRED_WITHOUT_AES = (Suite.HYBRID_CHACHA20, Suite.HYBRID_AES256, Suite.X25519_CHACHA20)
"""Order of preference on a CPU without them."""


def select(offered: Sequence[int], supported: Sequence[Suite]) -> Suite | None:
    """Return the first of the client's suites that the server supports, or None.

    Unknown numbers and repetitions are passed over (channel section 7, Suite).
    """
    by_number = {int(suite): suite for suite in supported}
    return next((by_number[number] for number in offered if number in by_number), None)
