"""Which receipts were accepted before: REPLAY of air-v1, section 8."""

import os
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ephemeralml.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    import sqlite3

_APPLICATION_ID = 0x41495231
"""``AIR1``, so that no other program's database is taken for ours."""
_MAGIC = b"SQLite format 3\x00"
_BUSY_SECONDS = 10.0


class ReplayStore(Protocol):
    """Remembers (RK, cti) of every receipt that was accepted."""

    def seen(self, public_key: bytes, cti: bytes) -> bool:
        """Return whether the pair was recorded; records nothing."""

    def record(self, public_key: bytes, cti: bytes) -> bool:
        """Record the pair; return False if it was there already.

        Atomic: of several callers with one pair, exactly one gets True.
        """


class MemoryReplayStore:
    """A store that ends with its process; safe to share between threads."""

    def __init__(self) -> None:
        self._pairs: set[tuple[bytes, bytes]] = set()
        self._lock = threading.Lock()

    def seen(self, public_key: bytes, cti: bytes) -> bool:
        """Return whether the pair was recorded."""
        with self._lock:
            return (public_key, cti) in self._pairs

    def record(self, public_key: bytes, cti: bytes) -> bool:
        """Record the pair; return False if it was there already."""
        with self._lock:
            if (public_key, cti) in self._pairs:
                return False
            self._pairs.add((public_key, cti))
            return True


class SqliteReplayStore:
    """A store in one SQLite file of mode 0600, shared by any number of processes.

    A file that cannot be read as a store is an error and never an empty store:
    forgetting what was accepted would accept it again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def seen(self, public_key: bytes, cti: bytes) -> bool:
        """Return whether the pair was recorded.

        Raises:
            MalformedError: The file is not a replay store.
            UnavailableError: It cannot be opened, locked or read.
        """
        row = self._run("SELECT 1 FROM accepted WHERE public_key = ? AND cti = ?", public_key, cti)
        return row is not None

    def record(self, public_key: bytes, cti: bytes) -> bool:
        """Record the pair; return False if it was there already.

        Raises:
            MalformedError: The file is not a replay store.
            UnavailableError: It cannot be opened, locked or written.
        """
        statement = "INSERT INTO accepted VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1"
        return self._run(statement, public_key, cti) is not None

    def _run(self, statement: str, public_key: bytes, cti: bytes) -> object | None:
        """Run one statement in a transaction of its own and return its first row."""
        import sqlite3  # 10 ms that only --replay-store should pay

        try:
            self._prepare_file()
            # The whole path: SQLite takes some bare names, ``:memory:`` for one, for no file at all.
            name = self._path.absolute()
            with closing(sqlite3.connect(name, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                # IMMEDIATE takes the write lock before the look-up, so that look-up and record are one step.
                database.execute("BEGIN IMMEDIATE")
                self._prepare_schema(database)
                row: object | None = database.execute(statement, (public_key, cti)).fetchone()
                database.execute("COMMIT")
                return row
        except sqlite3.OperationalError as error:
            raise UnavailableError(
                f"the replay store {self._path} cannot be used: {error}",
                hint="check its folder, permissions and free space",
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._broken(str(error)) from error
        except OSError as error:
            raise UnavailableError(
                f"the replay store {self._path} cannot be opened: {error.strerror}",
                hint="check its folder and permissions",
            ) from error

    def _prepare_file(self) -> None:
        """Make the file, or narrow its mode, before SQLite opens it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnavailableError(f"the replay store {self._path} is not a regular file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                os.fchmod(descriptor, 0o600)
            # SQLite takes a file of a few bytes for an empty one.
            if status.st_size and os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
                raise self._broken("no SQLite database")
        finally:
            os.close(descriptor)

    def _prepare_schema(self, database: "sqlite3.Connection") -> None:
        """Make the table in an empty file; refuse a database of another program."""
        found = database.execute("PRAGMA application_id").fetchone()[0]
        if found == _APPLICATION_ID:
            return
        if found != 0 or database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
            raise self._broken("another program's database")
        database.execute(
            "CREATE TABLE accepted"
            " (public_key BLOB NOT NULL, cti BLOB NOT NULL, PRIMARY KEY (public_key, cti)) WITHOUT ROWID"
        )
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    def _broken(self, why: str) -> MalformedError:
        return MalformedError(
            f"{self._path} is not a replay store: {why}",
            hint="restore it from a backup, or name a new file with --replay-store",
        )
