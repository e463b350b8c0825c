"""A key server's backup: the database at one instant, encrypted under the state key.

    "EMLKBAK1" || u32be schema || salt 16 || nonce 12 || AES-256-GCM(database), AAD = what stands before the nonce

The audit log stays where it is: its lines are bound to one another, not to the
keys, and a restored server goes on with its own.
"""

import os
import struct
from pathlib import Path

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease.local import database
from ephemeralml.keyrelease.local.audit_log import Head
from ephemeralml.keyrelease.local.database import SCHEMA, Database
from ephemeralml.keyrelease.local.state import AUDIT_HEAD, KeySource
from ephemeralml.keyrelease.local.state_key import NONCE_BYTES, SALT_BYTES, StateKey
from ephemeralml.keyrelease.local.store import Store

MAGIC = b"EMLKBAK1"
MAX_BYTES = 1 << 31

_HEADER = struct.Struct(f">8sI{SALT_BYTES}s")


def export(store: Store) -> bytes:
    """Return a backup of everything but the audit log."""
    salt = store.noted("salt")
    if salt is None:
        raise MalformedError("the state's database lacks what --init wrote")
    header = _HEADER.pack(MAGIC, SCHEMA, salt)
    return header + store.sealer.seal_export(header, store.database.image())


def restore(folder: Path, source: KeySource, data: bytes) -> None:
    """Make a state from a backup; the state key must be the one that it was made under.

    Raises:
        MalformedError: It is no backup.
        RejectedError: It was changed, the state key is another one, or the version that made it is newer, or from
            before the first release.
        UnavailableError: There is a state in the folder, or it cannot be written.
    """
    if len(data) < _HEADER.size + NONCE_BYTES:
        raise MalformedError("not a key server's backup")
    magic, schema, salt = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MalformedError("not a key server's backup")
    database.check_schema(schema, "backup")
    if (folder / database.FILE).exists():
        raise UnavailableError(f"there is a key server's state in {folder} already", hint="name another folder")
    key = StateKey(source.secret(folder, salt, create=False))
    image = key.open_export(data[: _HEADER.size], data[_HEADER.size :])
    fresh = folder / f".{database.FILE}.new"
    try:
        for leftover in folder.glob(f"{fresh.name}*"):
            leftover.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnavailableError(f"cannot write {fresh}: {error.strerror}") from error
    opened = Database.open(fresh)
    try:
        Store(opened, key).note(AUDIT_HEAD, Head().encode())
    finally:
        opened.close()
    fresh.rename(folder / database.FILE)
    database.sync_folder(folder)
