"""The key server's database: one file, one writer, nothing acknowledged that is not on disk.

SQLite in WAL mode with ``synchronous=FULL``: a committed transaction survives
the end of the process and of the power, an uncommitted one leaves nothing.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError

FILE = "kms.sqlite3"
LOCK = "lock"
CACHE_KIB = 65_536
"""Of pages in memory: the keys in use of a hundred thousand."""

OLDEST = 2
"""The oldest schema that is read: the one before authenticated nothing but secrets, and was never released."""

MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL, tag BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE keys (
        id TEXT PRIMARY KEY, created REAL NOT NULL, description TEXT NOT NULL, state TEXT NOT NULL,
        deletion REAL, deletion_days INTEGER, policy TEXT NOT NULL, version INTEGER NOT NULL,
        rotation_days INTEGER, next_rotation REAL, tags TEXT NOT NULL, revision INTEGER NOT NULL, tag BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX keys_deletion ON keys (deletion) WHERE deletion IS NOT NULL;
    CREATE TABLE key_versions (
        key_id TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE, version INTEGER NOT NULL,
        created REAL NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (key_id, version)
    ) WITHOUT ROWID;
    CREATE TABLE aliases (
        name TEXT PRIMARY KEY, key_id TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE, created REAL NOT NULL,
        tag BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX aliases_key ON aliases (key_id);
    CREATE TABLE grants (
        key_id TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE, id TEXT NOT NULL, token TEXT NOT NULL,
        created REAL NOT NULL, document TEXT NOT NULL, tag BLOB NOT NULL, PRIMARY KEY (key_id, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX grants_token ON grants (token);
    CREATE TABLE principals (
        name TEXT PRIMARY KEY, arn TEXT NOT NULL UNIQUE, access_key TEXT NOT NULL UNIQUE, policies TEXT NOT NULL,
        created REAL NOT NULL, sealed BLOB NOT NULL, tag BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""What makes each schema version from the one before, `OLDEST` first; entries are never changed, only added."""

SCHEMA = OLDEST + len(MIGRATIONS) - 1


class Database:
    """An open database of one state folder.

    Not for several threads: the server works in one.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> "Database":
        """Open a database, bring it to this version's schema, and check it.

        Raises:
            UnavailableError: It is not there, there already, or cannot be opened.
            RejectedError: A newer version wrote it, or one from before the first release.
            MalformedError: It is damaged, or has other tables, indexes or triggers than this version makes.
        """
        if create:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError as error:
                raise UnavailableError(f"there is a key server's state at {path} already") from error
            except OSError as error:
                raise UnavailableError(f"cannot create {path}: {error.strerror}") from error
        elif not path.is_file():
            raise UnavailableError(f"no key server's state at {path}", hint="make it with --init")
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        except sqlite3.Error as error:
            raise UnavailableError(f"cannot open {path}: {error}") from error
        try:
            database = cls(connection)
            database._prepare()
        except sqlite3.OperationalError as error:
            # No permission, no space, or another process that holds it: nothing says that it is damaged.
            connection.close()
            raise UnavailableError(f"cannot use {path}: {error}") from error
        except sqlite3.Error as error:
            connection.close()
            raise MalformedError(f"{path} is no intact database: {error}") from error
        except (MalformedError, RejectedError):
            connection.close()
            raise
        return database

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA foreign_keys=ON")
        run(f"PRAGMA cache_size=-{CACHE_KIB}")
        (version,) = run("PRAGMA user_version").fetchone()
        check_schema(version or SCHEMA, "state")
        (found,) = run("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise MalformedError("the state's database is damaged", hint="restore a backup with --import")
        for number in range(max(version + 1, OLDEST), SCHEMA + 1):
            with self.transaction():
                for statement in _statements(number):
                    run(statement)
                run(f"PRAGMA user_version={number}")
        # A trigger could undo what was acknowledged, and a lost index let a row be there twice.
        if set(run(_OBJECTS)) != _expected_objects():
            raise MalformedError("the state's database has other tables than this version makes")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do everything in the block, on disk when it ends, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return every row that *statement* gives."""
        return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row, or None."""
        found: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return found

    def change(self, statement: str, *values: Any) -> int:
        """Run a statement that changes something and return how many rows it did."""
        return self._connection.execute(statement, values).rowcount

    def image(self) -> bytes:
        """Return the whole database as one file's bytes, taken at one instant."""
        copy = sqlite3.connect(":memory:")
        try:
            self._connection.backup(copy)
            return copy.serialize()
        finally:
            copy.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master"


def _statements(number: int) -> list[str]:
    return [statement for statement in MIGRATIONS[number - OLDEST].split(";") if statement.strip()]


def _expected_objects() -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for number in range(OLDEST, SCHEMA + 1):
            for statement in _statements(number):
                fresh.execute(statement)
        return set(fresh.execute(_OBJECTS))


def check_schema(version: int, what: str) -> None:
    """Refuse a state or a backup of a schema that this version cannot read.

    Raises:
        RejectedError: It is newer, or older than the first release.
    """
    if version > SCHEMA:
        raise RejectedError(
            f"the {what} has schema {version}, this version knows {SCHEMA}",
            code="KMS_SCHEMA_NEWER",
            hint="use the version that wrote it, or a newer one",
        )
    if version < OLDEST:
        raise RejectedError(
            f"the {what} has schema {version}, from before the first release; its policies cannot be trusted",
            code="KMS_SCHEMA_OLDER",
            hint="make a new state in another folder with --init",
        )


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a state folder for one server alone.

    Raises:
        UnavailableError: Another one has it.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise UnavailableError(f"no key server's state at {folder}", hint="make it with --init") from error
    except OSError as error:
        raise UnavailableError(f"cannot use the state in {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(f"another key server uses the state in {folder}", hint="stop it first") from error
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
