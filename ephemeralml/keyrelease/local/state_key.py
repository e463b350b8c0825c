"""The key under which a key server's secrets rest, and the sealing of single rows.

The state key opens nothing itself: sealed values, whole rows, paging marks and
backups have keys derived from it. A row's place is authenticated with it, so
that rows cannot be swapped (key-release.md section 8, State).
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ephemeralml.crypto.transcript import lp
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError

KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16
UNSEALABLE = "KMS_STATE_UNSEALABLE"
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1
MAX_PASSPHRASE_BYTES = 1_024
MARK_BYTES = 16

Column = str | bytes | float | None
"""What SQLite keeps; an int is a float to the type checker, and to `StateKey.tag`."""
Random = Callable[[int], bytes]
"""Gives random bytes; `os.urandom` but in tests."""


class StateKey:
    """Seals, opens and authenticates rows.

    Args:
        secret: 32 bytes.
        random: Gives nonces.
    """

    __slots__ = ("_export", "_marks", "_random", "_rows", "_tags")

    def __init__(self, secret: bytes, random: Random = os.urandom) -> None:
        if len(secret) != KEY_BYTES:
            raise MalformedError(f"a state key has {KEY_BYTES} bytes")
        self._random = random
        self._rows = AESGCM(_derived(secret, b"rows"))
        self._export = AESGCM(_derived(secret, b"export"))
        self._marks = _derived(secret, b"marks")
        self._tags = _derived(secret, b"tags")

    def seal(self, table: str, row: str, version: int, data: bytes) -> bytes:
        """Return *data* encrypted for one place alone: nonce, then AES-256-GCM."""
        nonce = self._random(NONCE_BYTES)
        return nonce + self._rows.encrypt(nonce, data, _place(table, row, version))

    def open(self, table: str, row: str, version: int, sealed: bytes) -> bytes:
        """Return what `seal` encrypted for this place.

        Raises:
            RejectedError: Another key, another place, or changed bytes.
        """
        try:
            return self._rows.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(table, row, version))
        except (InvalidTag, ValueError) as error:
            raise changed_row(table, row) from error

    def tag(self, table: str, *columns: Column) -> bytes:
        """Return the authenticator of a whole row: HMAC-SHA-256 over its table and every column, types included."""
        return hmac.digest(self._tags, lp(table.encode(), *map(_column, columns)), hashlib.sha256)

    def holds(self, tag: object, table: str, *columns: Column) -> bool:
        """Return whether *tag* is this row's."""
        return type(tag) is bytes and hmac.compare_digest(tag, self.tag(table, *columns))

    def seal_export(self, header: bytes, data: bytes) -> bytes:
        """Return a backup's body, bound to its *header*."""
        nonce = self._random(NONCE_BYTES)
        return nonce + self._export.encrypt(nonce, data, header)

    def open_export(self, header: bytes, body: bytes) -> bytes:
        """Return what `seal_export` encrypted.

        Raises:
            RejectedError: Another state key, or changed bytes.
        """
        try:
            return self._export.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], header)
        except (InvalidTag, ValueError) as error:
            raise RejectedError(
                "the backup does not open: another state key, or changed bytes", code=UNSEALABLE
            ) from error

    def mark(self, data: bytes) -> bytes:
        """Return the authenticator of a paging mark."""
        return hmac.digest(self._marks, data, hashlib.sha256)[:MARK_BYTES]

    def __repr__(self) -> str:
        return "StateKey(…)"


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"ephemeralml/kms/1/" + purpose).derive(secret)


def changed_row(table: str, row: str) -> RejectedError:
    """Return the error for a row that was not written under this state key, or is not there."""
    return RejectedError(
        f"the row {str(row)[:64]!a} of {table} was not written under this state key: the database was changed",
        code=UNSEALABLE,
    )


def _column(value: Column) -> bytes:
    """Return a column's value with its type, in one way only."""
    match value:
        case None:
            return b"-"
        case str():
            return b"t" + value.encode()
        case bytes():
            return b"b" + value
        case _:
            # SQLite gives a whole number of a REAL column back as a float.
            return b"n" + struct.pack(">d", value)


def _place(table: str, row: str, version: int) -> bytes:
    return lp(table.encode(), row.encode()) + struct.pack(">I", version)


def create_file(path: Path, random: Random = os.urandom) -> None:
    """Make a key file, readable by its owner alone; one that is there stays.

    Raises:
        UnavailableError: It cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise UnavailableError(f"cannot write the state key {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(random(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())


def from_file(path: Path, *, owner_only: bool = True) -> bytes:
    """Read a key of 32 bytes.

    Args:
        path: The file.
        owner_only: Refuse a file that others can read. systemd guards its credentials' folder itself.

    Raises:
        UnavailableError: It is not there, or readable by others.
        MalformedError: It has another size.
    """
    try:
        if owner_only and path.stat().st_mode & 0o077:
            raise UnavailableError(f"the state key {path} is readable by others", hint=f"chmod 600 {path}")
        with path.open("rb") as file:
            secret = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise UnavailableError(
            f"cannot read the state key {path}: {error.strerror}", hint="without it nothing in this state can be opened"
        ) from error
    if len(secret) != KEY_BYTES:
        raise MalformedError(f"the state key {path} has not {KEY_BYTES} bytes")
    return secret


def from_passphrase(passphrase: bytes, salt: bytes) -> bytes:
    """Derive the key with scrypt, N = 2^17: a third of a second and 128 MiB for every guess.

    Raises:
        MalformedError: The passphrase is empty or absurdly long.
    """
    if not 1 <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise MalformedError(f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes")
    return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
