"""Keys and what belongs to them, in the database, their material sealed.

Each method that changes something is one transaction: once it returns, the
change is on disk.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence

from ephemeralml.keyrelease.local.database import Database
from ephemeralml.keyrelease.local.records import KEY_COLUMNS, Alias, GrantRecord, KeyRecord, KeyState, Principal
from ephemeralml.keyrelease.local.state_key import Random, StateKey

MATERIAL_BYTES = 32
DAY = 86_400.0


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

    def create_key(self, record: KeyRecord, tags: Mapping[str, str]) -> None:
        """Keep a new key and make its material."""
        with self._db.transaction():
            self._db.change(
                f"INSERT INTO keys ({KEY_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - a constant of ours
                *(record.id, record.created, record.description, record.state.value, record.deletion),
                *(record.deletion_days, record.policy, record.version, record.rotation_days, record.next_rotation),
            )
            self._add_version(record.id, record.version, record.created)
            self._set_tags(record.id, tags)

    def key(self, key_id: str, now: float) -> KeyRecord | None:
        """Return a key, or None; one whose waiting period has ended is removed for good."""
        row = self._db.row(f"SELECT {KEY_COLUMNS} FROM keys WHERE id=?", key_id)  # noqa: S608 - a constant of ours
        if row is None:
            return None
        record = KeyRecord.of_row(row)
        if record.deletion is not None and record.deletion <= now:
            self.purge(now)
            return None
        return record

    def keys_after(self, last: str, limit: int) -> list[str]:
        """Return the ids of at most *limit* keys behind *last*, in their order."""
        return [
            key_id for (key_id,) in self._db.rows("SELECT id FROM keys WHERE id>? ORDER BY id LIMIT ?", last, limit)
        ]

    def purge(self, now: float) -> int:
        """Remove every key whose waiting period has ended, its material first of all."""
        due = self._db.row("SELECT 1 FROM keys WHERE deletion IS NOT NULL AND deletion<=?", now)
        if due is None:
            return 0
        with self._db.transaction():
            return self._db.change("DELETE FROM keys WHERE deletion IS NOT NULL AND deletion<=?", now)

    def set_state(self, key_id: str, state: KeyState, deletion: float | None = None, days: int | None = None) -> None:
        """Change a key's state and the date of its end."""
        with self._db.transaction():
            self._db.change(
                "UPDATE keys SET state=?, deletion=?, deletion_days=? WHERE id=?", state.value, deletion, days, key_id
            )

    def set_policy(self, key_id: str, policy: str) -> None:
        """Replace a key's policy."""
        with self._db.transaction():
            self._db.change("UPDATE keys SET policy=? WHERE id=?", policy, key_id)

    def set_rotation(self, key_id: str, days: int | None, next_rotation: float | None) -> None:
        """Turn yearly or other rotation on, or off with None."""
        with self._db.transaction():
            self._db.change("UPDATE keys SET rotation_days=?, next_rotation=? WHERE id=?", days, next_rotation, key_id)

    def rotate(self, record: KeyRecord, now: float) -> int:
        """Make the next version of a key's material and return its number; older ones stay."""
        version = record.version + 1
        due = now + record.rotation_days * DAY if record.rotation_days is not None else None
        with self._db.transaction():
            self._add_version(record.id, version, now)
            self._db.change("UPDATE keys SET version=?, next_rotation=? WHERE id=?", version, due, record.id)
        return version

    def material(self, key_id: str, version: int) -> bytes | None:
        """Return the material of one version of a key, or None where there is no such version.

        Raises:
            RejectedError: The row was changed or swapped.
        """
        row = self._db.row("SELECT sealed FROM key_versions WHERE key_id=? AND version=?", key_id, version)
        return None if row is None else self._sealer.open("key_versions", key_id, version, row[0])

    def _add_version(self, key_id: str, version: int, created: float) -> None:
        sealed = self._sealer.seal("key_versions", key_id, version, self._random(MATERIAL_BYTES))
        self._db.change("INSERT INTO key_versions VALUES (?,?,?,?)", key_id, version, created, sealed)

    # Tags

    def tags(self, key_id: str, last: str = "", limit: int = 1_000) -> list[tuple[str, str]]:
        """Return at most *limit* tags of a key behind the name *last*."""
        found = self._db.rows(
            "SELECT name, value FROM tags WHERE key_id=? AND name>? ORDER BY name LIMIT ?", key_id, last, limit
        )
        return [(name, value) for name, value in found]

    def set_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        """Add tags, or replace their values."""
        with self._db.transaction():
            self._set_tags(key_id, tags)

    def remove_tags(self, key_id: str, names: Iterable[str]) -> None:
        """Remove tags by name."""
        with self._db.transaction():
            for name in names:
                self._db.change("DELETE FROM tags WHERE key_id=? AND name=?", key_id, name)

    def _set_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._db.change("INSERT OR REPLACE INTO tags VALUES (?,?,?)", key_id, name, value)

    # Aliases

    def alias(self, name: str) -> Alias | None:
        """Return an alias, or None."""
        row = self._db.row("SELECT name, key_id, created FROM aliases WHERE name=?", name)
        return None if row is None else Alias(*row)

    def aliases(self, key_id: str | None, last: str, limit: int) -> list[Alias]:
        """Return at most *limit* aliases behind the name *last*, of one key or of all."""
        rows = self._db.rows(
            "SELECT name, key_id, created FROM aliases WHERE name>?1 AND (?2 IS NULL OR key_id=?2)"
            " ORDER BY name LIMIT ?3",
            *(last, key_id, limit),
        )
        return [Alias(*row) for row in rows]

    def set_alias(self, alias: Alias) -> None:
        """Keep an alias, or point it elsewhere."""
        with self._db.transaction():
            self._db.change("INSERT OR REPLACE INTO aliases VALUES (?,?,?)", alias.name, alias.key_id, alias.created)

    def remove_alias(self, name: str) -> None:
        """Forget an alias."""
        with self._db.transaction():
            self._db.change("DELETE FROM aliases WHERE name=?", name)

    # Grants

    def grants(self, key_id: str, last: str = "", limit: int = 1 << 20) -> list[GrantRecord]:
        """Return at most *limit* grants of a key behind the id *last*."""
        rows = self._db.rows(
            "SELECT id, key_id, token, created, document FROM grants WHERE key_id=? AND id>? ORDER BY id LIMIT ?",
            *(key_id, last, limit),
        )
        return [GrantRecord.of_row(row) for row in rows]

    def grants_naming(self, key_id: str, part: str) -> list[GrantRecord]:
        """Return those grants of a key whose record holds *part* of an ARN: a key may have tens of thousands."""
        rows = self._db.rows(
            "SELECT id, key_id, token, created, document FROM grants WHERE key_id=? AND instr(document, ?) ORDER BY id",
            *(key_id, part),
        )
        return [GrantRecord.of_row(row) for row in rows]

    def count_grants(self, key_id: str) -> int:
        """Return how many grants a key has."""
        (count,) = self._db.rows("SELECT count(*) FROM grants WHERE key_id=?", key_id)[0]
        return int(count)

    def add_grant(self, grant: GrantRecord) -> None:
        """Keep a grant."""
        with self._db.transaction():
            self._db.change(
                "INSERT INTO grants (key_id, id, token, created, document) VALUES (?,?,?,?,?)",
                *(grant.key_id, grant.id, grant.token, grant.created, grant.to_json()),
            )

    def remove_grant(self, key_id: str, grant_id: str) -> bool:
        """Revoke a grant; False where there is none."""
        with self._db.transaction():
            return bool(self._db.change("DELETE FROM grants WHERE key_id=? AND id=?", key_id, grant_id))

    def holds_grant_token(self, token: str) -> bool:
        """Return whether some grant has this token."""
        return self._db.row("SELECT 1 FROM grants WHERE token=?", token) is not None

    # Principals

    def add_principal(self, principal: Principal, secret: str) -> None:
        """Keep a principal and its secret key."""
        sealed = self._sealer.seal("principals", principal.name, 0, secret.encode())
        with self._db.transaction():
            self._db.change(
                "INSERT INTO principals VALUES (?,?,?,?,?,?)",
                *(principal.name, principal.arn, principal.access_key, sealed),
                *(json.dumps(principal.policies), principal.created),
            )

    def principals(self) -> Sequence[Principal]:
        """Return everybody who has an access key."""
        rows = self._db.rows("SELECT name, arn, access_key, policies, created FROM principals ORDER BY name")
        return [_principal(row) for row in rows]

    def credentials(self, access_key: str) -> tuple[Principal, str] | None:
        """Return whose access key this is, and its secret, or None.

        Raises:
            RejectedError: The row was changed or swapped.
        """
        row = self._db.row(
            "SELECT name, arn, access_key, policies, created, sealed FROM principals WHERE access_key=?", access_key
        )
        if row is None:
            return None
        principal = _principal(row[:5])
        return principal, self._sealer.open("principals", principal.name, 0, row[5]).decode()

    # Marks of the state itself

    def note(self, name: str, value: bytes) -> None:
        """Keep one value about the state."""
        with self._db.transaction():
            self._db.change("INSERT OR REPLACE INTO meta VALUES (?,?)", name, value)

    def noted(self, name: str) -> bytes | None:
        """Return a value that `note` kept."""
        row = self._db.row("SELECT value FROM meta WHERE name=?", name)
        return None if row is None else bytes(row[0])

    def forget(self, name: str) -> None:
        """Drop a value that `note` kept."""
        with self._db.transaction():
            self._db.change("DELETE FROM meta WHERE name=?", name)

    @property
    def sealer(self) -> StateKey:
        """What seals rows; pages and backups use it too."""
        return self._sealer

    @property
    def database(self) -> Database:
        """The database, for backups."""
        return self._db


def _principal(row: tuple[str, str, str, str, float]) -> Principal:
    name, arn, access_key, policies, created = row
    return Principal(name, arn, access_key, tuple(json.loads(policies)), created)
