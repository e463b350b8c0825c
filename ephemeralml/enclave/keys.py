"""The keys of one boot. They never leave the process and die with it."""

from ephemeralml.crypto.keys import PrivateKey


class ReceiptKey:
    """The Ed25519 key that signs this boot's receipts (air-v1 section 11).

    It is bound in every session's evidence. `wipe` drops the only reference;
    OpenSSL clears the key's memory as it frees it.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: PrivateKey) -> None:
        self._key: PrivateKey | None = key
        self.public: bytes = key.public.raw
        """The 32 public bytes."""

    @classmethod
    def generate(cls) -> "ReceiptKey":
        """Make the key from the operating system's random source."""
        return cls(PrivateKey.generate())

    @property
    def signing(self) -> PrivateKey:
        """The private key, for the receipt issuer alone.

        Raises:
            RuntimeError: It was wiped.
        """
        if self._key is None:
            raise RuntimeError("the receipt key was wiped")
        return self._key

    def wipe(self) -> None:
        """Forget the private key; signing afterwards is an error."""
        self._key = None

    def __repr__(self) -> str:
        return f"ReceiptKey(public={self.public.hex()})"
