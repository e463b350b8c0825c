"""A key server's state folder: made once, opened by one server at a time.

kms.sqlite3   keys, policies, principals: every row authenticated, material and secrets sealed
state.key     the key they are sealed under, where it is kept in a file
audit.jsonl   one line for each request
credentials/  a file for each principal
authority/    the software root of this installation, if it trusts one of its own
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.local import database, principals, state_key
from ephemeralml.keyrelease.local.audit_log import FILE as AUDIT_FILE
from ephemeralml.keyrelease.local.audit_log import AuditLog, Head
from ephemeralml.keyrelease.local.database import Database
from ephemeralml.keyrelease.local.names import Names
from ephemeralml.keyrelease.local.state_key import SALT_BYTES, StateKey
from ephemeralml.keyrelease.local.store import Store

KEY_FILE = "state.key"
AUTHORITY = "authority"
AUDIT_HEAD = "audit_head"
_CHECK = b"this state key opens this state"


class KeyKind(Enum):
    """Where the state key comes from."""

    FILE = "file"
    PASSPHRASE = "passphrase"  # noqa: S105 - no password
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class KeySource:
    """``file[:PATH]``, ``passphrase:PATH`` (a file that holds it) or ``systemd:NAME`` (a credential)."""

    kind: KeyKind
    path: Path | None

    @classmethod
    def parse(cls, text: str, *, credentials: Path | None = None) -> "KeySource":
        """Read a source.

        Args:
            text: As above.
            credentials: systemd's folder of credentials, from ``CREDENTIALS_DIRECTORY``.

        Raises:
            MalformedError: It is none.
            UnavailableError: A credential is named and systemd gave none.
        """
        name, _, rest = text.partition(":")
        try:
            kind = KeyKind(name)
        except ValueError:
            kind = None
        if kind is None or (kind is not KeyKind.FILE and not rest):
            raise MalformedError(
                "a state key comes from file, file:PATH, passphrase:PATH or systemd:NAME",
                hint="leave the option out for a key file in the state's folder",
            )
        if kind is KeyKind.SYSTEMD:
            if credentials is None:
                raise UnavailableError(
                    "systemd gave this process no credentials", hint="set LoadCredential= in the unit"
                )
            if "/" in rest or rest.startswith("."):
                raise MalformedError("the name of a systemd credential is a file's name")
            return cls(kind, credentials / rest)
        return cls(kind, Path(rest) if rest else None)

    def secret(self, folder: Path, salt: bytes, *, create: bool) -> bytes:
        """Return the state key; *create* makes a key file that is not there.

        Raises:
            UnavailableError: It is not there.
            MalformedError: It is no key.
        """
        path = self.path if self.path is not None else folder / KEY_FILE
        match self.kind:
            case KeyKind.FILE:
                if create:
                    state_key.create_file(path)
                return state_key.from_file(path)
            case KeyKind.SYSTEMD:
                return state_key.from_file(path, owner_only=False)
            case KeyKind.PASSPHRASE:
                try:
                    text = path.read_bytes()
                except OSError as error:
                    raise UnavailableError(f"cannot read the passphrase {path}: {error.strerror}") from error
                return state_key.from_passphrase(text.removesuffix(b"\n"), salt)


@dataclass(frozen=True, slots=True)
class State:
    """An open state."""

    folder: Path
    store: Store
    names: Names


def create(folder: Path, source: KeySource, names: Names, now: datetime) -> Path:
    """Make a state with an administrator and return the file of its credentials.

    The database gets its name last: what dies on the way leaves no state, and
    can be made again.

    Raises:
        UnavailableError: There is one already, or it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UnavailableError(f"cannot write the state in {folder}: {error.strerror}") from error
    if (folder / database.FILE).exists():
        raise UnavailableError(f"there is a key server's state in {folder} already", hint="leave --init out")
    with database.exclusive(folder):
        return _make(folder, source, names, now)


def _make(folder: Path, source: KeySource, names: Names, now: datetime) -> Path:
    fresh = folder / f".{database.FILE}.new"
    for leftover in folder.glob(f"{fresh.name}*"):
        leftover.unlink()
    salt = os.urandom(SALT_BYTES)
    key = StateKey(source.secret(folder, salt, create=True))
    opened = Database.open(fresh, create=True)
    try:
        store = Store(opened, key)
        store.note("salt", salt)
        store.note("account", names.account.encode())
        store.note("region", names.region.encode())
        store.note("check", key.seal("meta", "check", 0, _CHECK))
        store.note(AUDIT_HEAD, Head().encode())
        policies = (principals.ADMINISTRATORS_POLICY,)
        _, path = principals.add(store, names, folder, principals.ADMINISTRATOR, policies=policies, now=now)
    finally:
        opened.close()
    fresh.rename(folder / database.FILE)
    database.sync_folder(folder)
    return path


@contextmanager
def opened(folder: Path, source: KeySource) -> Iterator[State]:
    """Open a state that `create` made.

    Raises:
        UnavailableError: It is not there.
        RejectedError: The state key is another one, another version wrote the state, or its account was changed.
        MalformedError: It is damaged.
    """
    connection = Database.open(folder / database.FILE)
    try:
        yield _unlocked(folder, connection, source)
    finally:
        connection.close()


def _unlocked(folder: Path, connection: Database, source: KeySource) -> State:
    noted = dict(connection.rows("SELECT name, value FROM meta"))
    try:
        salt, check = bytes(noted["salt"]), bytes(noted["check"])
    except (KeyError, TypeError) as error:
        raise _lacking() from error
    key = StateKey(source.secret(folder, salt, create=False))
    try:
        key.open("meta", "check", 0, check)
    except RejectedError as error:
        raise RejectedError("this is not the state key of this state", code="KMS_STATE_KEY_WRONG") from error
    store = Store(connection, key)
    account, region = store.noted("account"), store.noted("region")
    if account is None or region is None:
        raise _lacking()
    return State(folder, store, Names(account.decode(), region.decode()))


def _lacking() -> MalformedError:
    return MalformedError("the state's database lacks what --init wrote")


def known_head(store: Store) -> Head:
    """Return how far the state remembers its audit log.

    Raises:
        MalformedError: It does not: that was taken away.
        RejectedError: It was changed.
    """
    noted = store.noted(AUDIT_HEAD)
    if noted is None:
        raise _lacking()
    return Head.decode(noted)


def remember_head(store: Store, log: AuditLog) -> None:
    """Have the state remember how far its audit log goes, once the log is on disk."""
    log.sync()
    store.note(AUDIT_HEAD, log.head.encode())


def audit_path(folder: Path) -> Path:
    """Return the audit log's file."""
    return folder / AUDIT_FILE
