"""Keys and what belongs to them, in the database: each row authenticated, material and secrets sealed.

Each method that changes something is one transaction: once it returns, the
change is on disk. What it writes again it has verified in that transaction, so
that nothing which somebody else put there gets an authenticator of ours.

Only an older copy can pass for a row: of a whole database, or of a key's row
with the aliases and grants that it had. A row that is taken away is not there.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ephemeralml.keyrelease.local.database import Database
from ephemeralml.keyrelease.local.records import KEY_COLUMNS, Alias, GrantRecord, KeyRecord, KeyState, Principal
from ephemeralml.keyrelease.local.state_key import Random, StateKey, changed_row

MATERIAL_BYTES = 32
DAY = 86_400.0

_COLUMNS = {
    "meta": "name, value",
    "keys": KEY_COLUMNS,
    "aliases": "name, key_id, created",
    "grants": "id, key_id, token, created, document",
    "principals": "name, arn, access_key, policies, created, sealed",
}
"""What a row's authenticator is over, in this order, and is kept behind."""
_OF_A_KEY = ("aliases", "grants")
"""Tables whose rows are bound to their key's revision: one that was deleted cannot be put back."""


class Store:
    """The state of one key server.

    Args:
        database: An open database.
        state_key: Seals key material and secrets.
        random: Makes key material.
    """

    def __init__(self, database: Database, state_key: StateKey, random: Random = os.urandom) -> None:
        self._db = database
        self._sealer = state_key
        self._random = random

    # Keys

    def create_key(self, record: KeyRecord) -> None:
        """Keep a new key and make its material."""
        self.create_keys([record])

    def create_keys(self, records: Iterable[KeyRecord]) -> None:
        """Keep many new keys at once and make their material."""
        with self._db.transaction():
            for record in records:
                self._write("INSERT INTO", "keys", record.to_row())
                self._add_version(record.id, record.version, record.created)

    def key(self, key_id: str, now: float) -> KeyRecord | None:
        """Return a key, or None; one whose waiting period has ended is removed for good.

        Raises:
            RejectedError: The row was changed or swapped, as everywhere below.
        """
        record = self._key(key_id)
        if record is not None and record.deletion is not None and record.deletion <= now:
            self.purge(now)
            return None
        return record

    def keys_after(self, last: str, limit: int) -> list[str]:
        """Return the ids of at most *limit* keys behind *last*, in their order."""
        return [row[0] for row in self._read("keys", "id>? ORDER BY id LIMIT ?", last, limit)]

    def purge(self, now: float) -> int:
        """Remove every key whose waiting period has ended, its material first of all."""
        due = self._db.row("SELECT 1 FROM keys WHERE deletion IS NOT NULL AND deletion<=?", now)
        if due is None:
            return 0
        with self._db.transaction():
            return self._db.change("DELETE FROM keys WHERE deletion IS NOT NULL AND deletion<=?", now)

    def set_state(self, key_id: str, state: KeyState, deletion: float | None = None, days: int | None = None) -> None:
        """Change a key's state and the date of its end."""
        with self._changing(key_id) as key:
            self._keep(replace(key, state=state, deletion=deletion, deletion_days=days))

    def set_policy(self, key_id: str, policy: str) -> None:
        """Replace a key's policy."""
        with self._changing(key_id) as key:
            self._keep(replace(key, policy=policy))

    def set_rotation(self, key_id: str, days: int | None, next_rotation: float | None) -> None:
        """Turn yearly or other rotation on, or off with None."""
        with self._changing(key_id) as key:
            self._keep(replace(key, rotation_days=days, next_rotation=next_rotation))

    def rotate(self, key_id: str, now: float) -> int:
        """Make the next version of a key's material and return its number; older ones stay."""
        with self._changing(key_id) as key:
            version = key.version + 1
            due = now + key.rotation_days * DAY if key.rotation_days is not None else None
            self._add_version(key_id, version, now)
            self._keep(replace(key, version=version, next_rotation=due))
        return version

    def material(self, key_id: str, version: int) -> bytes | None:
        """Return the material of one version of a key, or None where there is no such version."""
        row = self._db.row("SELECT sealed FROM key_versions WHERE key_id=? AND version=?", key_id, version)
        return None if row is None else self._sealer.open("key_versions", key_id, version, row[0])

    def set_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        """Add tags, or replace their values."""
        with self._changing(key_id) as key:
            self._keep(replace(key, tags={**key.tags, **tags}))

    def remove_tags(self, key_id: str, names: Collection[str]) -> None:
        """Remove tags by name."""
        with self._changing(key_id) as key:
            self._keep(replace(key, tags={name: value for name, value in key.tags.items() if name not in names}))

    def _key(self, key_id: str) -> KeyRecord | None:
        row = self._one("keys", "id", key_id)
        return None if row is None else KeyRecord.of_row(row)

    def _certain(self, key_id: str) -> KeyRecord:
        """Return a key that another row says to exist."""
        record = self._key(key_id)
        if record is None:
            raise changed_row("keys", key_id)
        return record

    @contextmanager
    def _changing(self, key_id: str) -> Iterator[KeyRecord]:
        """Open a transaction with the key as it is: only what was verified in it is written again."""
        with self._db.transaction():
            yield self._certain(key_id)

    def _keep(self, record: KeyRecord) -> None:
        marks = ",".join("?" * len(record.to_row()))
        tag = self._sealer.tag("keys", *record.to_row())
        statement = f"UPDATE keys SET ({KEY_COLUMNS}, tag)=({marks},?) WHERE id=?"  # noqa: S608 - constants of ours
        if self._db.change(statement, *record.to_row(), tag, record.id) != 1:
            raise changed_row("keys", record.id)

    def _add_version(self, key_id: str, version: int, created: float) -> None:
        sealed = self._sealer.seal("key_versions", key_id, version, self._random(MATERIAL_BYTES))
        self._db.change("INSERT INTO key_versions VALUES (?,?,?,?)", key_id, version, created, sealed)

    def _take_from(self, key_id: str, statement: str, *values: Any) -> bool:
        """Delete an alias or a grant of a key, and make every copy of its row worthless; False where there is none.

        What the key keeps is verified and authenticated again under the key's next
        revision: a row that was taken away and is put back is of an older one.
        """
        with self._changing(key_id) as key:
            if not self._db.change(statement, *values):
                return False
            kept = {table: self._of_key(table, key_id, "1") for table in _OF_A_KEY}
            self._keep(replace(key, revision=key.revision + 1))
            for table, rows in kept.items():
                for row in rows:
                    self._write("REPLACE INTO", table, row, (key.revision + 1,))
        return True

    # Aliases

    def alias(self, name: str) -> Alias | None:
        """Return an alias, or None."""
        row = self._one("aliases", "name", name)
        return None if row is None else Alias(*row)

    def aliases(self, key_id: str | None, last: str, limit: int) -> list[Alias]:
        """Return at most *limit* aliases behind the name *last*, of one key or of all."""
        rest = "name>? ORDER BY name LIMIT ?"
        if key_id is None:
            return [Alias(*row) for row in self._read("aliases", rest, last, limit)]
        return [Alias(*row) for row in self._of_key("aliases", key_id, rest, last, limit)]

    def add_alias(self, alias: Alias) -> None:
        """Keep an alias of a name that nobody has."""
        with self._db.transaction():
            row = (alias.name, alias.key_id, alias.created)
            self._write("INSERT INTO", "aliases", row, self._bound(alias.key_id))

    def remove_alias(self, alias: Alias) -> bool:
        """Forget an alias; False where there is none."""
        return self._take_from(alias.key_id, "DELETE FROM aliases WHERE name=? AND key_id=?", alias.name, alias.key_id)

    # Grants

    def grants(self, key_id: str, last: str = "", limit: int = 1 << 20) -> list[GrantRecord]:
        """Return at most *limit* grants of a key behind the id *last*."""
        rows = self._of_key("grants", key_id, "id>? ORDER BY id LIMIT ?", last, limit)
        return [GrantRecord.of_row(row) for row in rows]

    def grants_naming(self, key_id: str, part: str) -> list[GrantRecord]:
        """Return those grants of a key whose record holds *part* of an ARN: a key may have tens of thousands."""
        rows = self._of_key("grants", key_id, "instr(document, ?) ORDER BY id", part)
        return [GrantRecord.of_row(row) for row in rows]

    def count_grants(self, key_id: str) -> int:
        """Return how many grants a key has."""
        (count,) = self._db.rows("SELECT count(*) FROM grants WHERE key_id=?", key_id)[0]
        return int(count)

    def add_grant(self, grant: GrantRecord) -> None:
        """Keep a grant."""
        with self._db.transaction():
            self._write("INSERT INTO", "grants", grant.to_row(), self._bound(grant.key_id))

    def remove_grant(self, key_id: str, grant_id: str) -> bool:
        """Revoke a grant; False where there is none."""
        return self._take_from(key_id, "DELETE FROM grants WHERE key_id=? AND id=?", key_id, grant_id)

    def holds_grant_token(self, token: str) -> bool:
        """Return whether some grant has this token."""
        return self._one("grants", "token", token) is not None

    # Principals

    def add_principal(self, principal: Principal, secret: str) -> None:
        """Keep a principal and its secret key."""
        sealed = self._sealer.seal("principals", principal.name, 0, secret.encode())
        fields = (principal.name, principal.arn, principal.access_key, json.dumps(principal.policies))
        with self._db.transaction():
            self._write("INSERT INTO", "principals", (*fields, principal.created, sealed))

    def principals(self) -> Sequence[Principal]:
        """Return everybody who has an access key."""
        return [_principal(row) for row in self._read("principals", "1 ORDER BY name")]

    def credentials(self, access_key: str) -> tuple[Principal, str] | None:
        """Return whose access key this is, and its secret, or None."""
        row = self._one("principals", "access_key", access_key)
        if row is None:
            return None
        principal = _principal(row)
        return principal, self._sealer.open("principals", principal.name, 0, row[-1]).decode()

    # Marks of the state itself

    def note(self, name: str, value: bytes) -> None:
        """Keep one value about the state."""
        with self._db.transaction():
            self._write("REPLACE INTO", "meta", (name, value))

    def noted(self, name: str) -> bytes | None:
        """Return a value that `note` kept."""
        row = self._one("meta", "name", name)
        return None if row is None else bytes(row[1])

    # Rows with their authenticators

    def _read(self, table: str, where: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return whole rows without their authenticators, each one verified."""
        found = self._db.rows(f"SELECT {_COLUMNS[table]}, tag FROM {table} WHERE {where}", *values)  # noqa: S608 - ours
        bound = {key_id: self._bound(key_id) for key_id in {row[1] for row in found}} if table in _OF_A_KEY else {}
        for row in found:
            place = bound[row[1]] if bound else ()
            if not self._sealer.holds(row[-1], table, *place, *row[:-1]):
                raise changed_row(table, row[0])
        return [row[:-1] for row in found]

    def _one(self, table: str, column: str, value: str) -> tuple[Any, ...] | None:
        """Return the row in which *column* is *value*, or None."""
        rows = self._read(table, f"{column}=?", value)
        # Whoever writes the file says what SQLite takes for equal, and how it finds it.
        if any(row[_COLUMNS[table].split(", ").index(column)] != value for row in rows):
            raise changed_row(table, rows[0][0])
        return rows[0] if rows else None

    def _of_key(self, table: str, key_id: str, where: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return rows of one key."""
        rows = self._read(table, f"key_id=? AND {where}", key_id, *values)
        if any(row[1] != key_id for row in rows):
            raise changed_row(table, rows[0][0])
        return rows

    def _write(self, verb: str, table: str, row: tuple[Any, ...], place: tuple[int, ...] = ()) -> None:
        tag = self._sealer.tag(table, *place, *row)
        marks = ",".join("?" * len(row))
        self._db.change(f"{verb} {table} ({_COLUMNS[table]}, tag) VALUES ({marks},?)", *row, tag)

    def _bound(self, key_id: str) -> tuple[int]:
        """Return what the rows of a key are bound to besides their table."""
        return (self._certain(key_id).revision,)

    @property
    def sealer(self) -> StateKey:
        """What seals rows; pages and backups use it too."""
        return self._sealer

    @property
    def database(self) -> Database:
        """The database, for backups."""
        return self._db


def _principal(row: tuple[Any, ...]) -> Principal:
    name, arn, access_key, policies, created, _ = row
    return Principal(name, arn, access_key, tuple(json.loads(policies)), created)
