"""Keys as the command line names them: text or file."""

from pathlib import Path

from ephemeralml.cli import console
from ephemeralml.crypto.keys import MAX_PEM_BYTES, PrivateKey, PublicKey
from ephemeralml.errors import MalformedError

_PRIVATE_MARK = b"PRIVATE KEY-----"


def read_public_key(text: str) -> PublicKey:
    """Read ``ed25519:HEX``, bare HEX, or a file with either of them or a public key in PEM.

    Raises:
        UsageError: A file that does not exist, or one that holds a private key.
        MalformedError: Neither.
    """
    if text.startswith("ed25519:") or _is_hex(text):
        return PublicKey.parse(text)
    if "/" not in text and not Path(text).exists():
        raise console.usage(
            f"{text[:120]!r} is neither a public key nor a file",
            hint="give ed25519: and 64 lower-case hex digits, those alone, or the name of a .pub file",
        )
    data = console.read_file(Path(text), max_bytes=MAX_PEM_BYTES, what="the public key")
    if _PRIVATE_MARK in data:
        public = private_from_pem(data, Path(text)).public
        raise console.usage(f"{text!r} is a private key, and a public one is wanted", hint=f"give {public}")
    try:
        return parse_public(data)
    except MalformedError as error:
        raise MalformedError(f"{text!r}: {error.message}", hint=error.hint) from error


def read_private_key(path: Path) -> PrivateKey:
    """Read a private key in PEM, and warn where others may read its file too.

    Raises:
        UsageError: The file does not exist.
        MalformedError: It holds no Ed25519 private key.
    """
    data = console.read_file(path, max_bytes=MAX_PEM_BYTES, what="the private key")
    key = private_from_pem(data, path)
    warn_if_shared(path)
    return key


def warn_if_shared(path: Path) -> None:
    """Warn where others may read a private key's file too."""
    if path.stat().st_mode & 0o077:
        console.current().warning(f"other users may read {str(path)!r}; chmod 600 it")


def public_half(path: Path) -> tuple[PublicKey, bool]:
    """Return the public key of a file, and whether the file holds the private one.

    Raises:
        UsageError: The file does not exist.
        MalformedError: It holds no Ed25519 key.
    """
    data = console.read_file(path, max_bytes=MAX_PEM_BYTES, what="the key")
    if _PRIVATE_MARK in data:
        return private_from_pem(data, path).public, True
    return parse_public(data), False


def private_from_pem(data: bytes, path: Path) -> PrivateKey:
    """Read a private key in PEM, the contents of the file *path*.

    Raises:
        MalformedError: It is none; the message names the file.
    """
    try:
        return PrivateKey.from_pem(data)
    except MalformedError as error:
        raise MalformedError(f"{str(path)!r}: {error.message}", hint="`ephemeralml key generate` makes one") from error


def parse_public(data: bytes) -> PublicKey:
    """Read the contents of a public key file: PEM, ``ed25519:HEX`` or HEX.

    Raises:
        MalformedError: It is none of them.
    """
    if data.lstrip().startswith(b"-----BEGIN"):
        return _public_from_pem(data)
    try:
        return PublicKey.parse(data.decode("ascii").strip())
    except UnicodeDecodeError as error:
        raise MalformedError("not a public key") from error


def _public_from_pem(data: bytes) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise MalformedError("the public key is not an Ed25519 key")
    return PublicKey(key.public_bytes_raw())


def _is_hex(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
