"""A database that somebody without the state key wrote to: nothing that a decision rests on passes for ours."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError
from ephemeralml.keyrelease.local import backup, database, principals, state
from ephemeralml.keyrelease.local.names import new_key_id
from ephemeralml.keyrelease.local.records import Alias, GrantRecord, KeyState
from ephemeralml.keyrelease.local.state_key import StateKey
from ephemeralml.keyrelease.local.store import Store
from tests.keyrelease.local.test_service import GENUINE, Bench, make
from tests.keyrelease.local.test_store import FILE, NAMES, NOW, record, sql

ADMINISTRATOR, PARENT = (NAMES.principal(name)[1] for name in ("administrator", "parent"))
ONE, TWO = (f"{number}aaaaaaa-0000-4000-8000-000000000000" for number in (1, 2))
OPEN = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}'
READS: dict[str, list[Callable[[Store], object]]] = {
    "keys": [lambda store: store.key(ONE, 0.0), lambda store: store.keys_after("", 9)],
    "aliases": [lambda store: store.alias("alias/one"), lambda store: store.aliases(None, "", 9)],
    "grants": [
        lambda store: store.grants(ONE),
        lambda store: store.grants_naming(ONE, "parent"),
        lambda store: store.holds_grant_token("token-a"),
    ],
    "principals": [lambda store: store.principals(), lambda store: store.credentials(_access_key(store, "parent"))],
}


def grant(name: str, key_id: str = ONE) -> GrantRecord:
    return GrantRecord(name, key_id, f"token-{name}", 1.0, PARENT, ("Decrypt",), ADMINISTRATOR)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two keys, each with material, an alias and two grants; a second principal."""
    path = tmp_path / "state"
    state.create(path, FILE, NAMES, NOW)
    with state.opened(path, FILE) as opened:
        principals.add(opened.store, NAMES, path, "parent", now=NOW)
        for key_id, alias, names in ((ONE, "alias/one", "ab"), (TWO, "alias/two", "cd")):
            opened.store.create_key(record(id=key_id, tags={"team": alias}, rotation_days=90, next_rotation=9e9))
            opened.store.add_alias(Alias(alias, key_id, 1.0))
            for name in names:
                opened.store.add_grant(grant(name, key_id))
    return path


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with state.opened(folder, FILE) as opened:
        yield opened.store


def _access_key(store: Store, name: str) -> str:
    row = store.database.row("SELECT access_key FROM principals WHERE name=?", name)
    assert row is not None
    return str(row[0])


def rows(folder: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / database.FILE)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def put(folder: Path, table: str, row: tuple[Any, ...]) -> None:
    sql(folder, f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", *row)


def refused(read: Callable[[], object]) -> None:
    with pytest.raises(RejectedError) as caught:
        read()
    assert caught.value.code == "KMS_STATE_UNSEALABLE"


class TestChanged:
    @pytest.mark.parametrize(
        ("table", "column", "value"),
        [
            *(("keys", "created", 2.0), ("keys", "description", "x"), ("keys", "state", "Disabled")),
            *(("keys", "deletion", 9e9), ("keys", "deletion_days", 7), ("keys", "policy", OPEN)),
            *(("keys", "version", 2), ("keys", "rotation_days", 91), ("keys", "rotation_days", None)),
            *(("keys", "next_rotation", 8e9), ("keys", "next_rotation", None), ("keys", "tags", "{}")),
            *(("keys", "revision", 2), ("keys", "tag", bytes(32)), ("keys", "tag", b""), ("keys", "tag", "x")),
            *(("keys", "policy", OPEN.encode()), ("keys", "state", "Nonsense")),
            *(("aliases", "key_id", TWO), ("aliases", "created", 2.0), ("aliases", "tag", bytes(32))),
            *(("grants", "created", 2.0), ("grants", "tag", bytes(32))),
            *(("principals", "arn", "arn:aws:iam::000000000000:role/other"), ("principals", "created", 2.0)),
            *(("principals", "policies", json.dumps([principals.ADMINISTRATORS_POLICY])),),
            *(("principals", "sealed", bytes(68)), ("principals", "tag", bytes(32))),
        ],
    )
    def test_a_column(self, folder: Path, store: Store, table: str, column: str, value: object) -> None:
        which = {"keys": ("id", ONE), "aliases": ("name", "alias/one"), "grants": ("id", "a")}
        name, key = which.get(table, ("name", "parent"))
        sql(folder, f"UPDATE {table} SET {column}=? WHERE {name}=?", value, key)
        for read in READS[table]:
            refused(partial(read, store))

    def test_a_grants_document(self, folder: Path, store: Store) -> None:
        sql(folder, "UPDATE grants SET document=replace(document, 'Decrypt', 'Encrypt') WHERE id='a'")
        for read in READS["grants"]:
            refused(partial(read, store))

    @pytest.mark.parametrize("table", READS)
    def test_unchanged(self, store: Store, table: str) -> None:
        for read in READS[table]:
            assert read(store)

    def test_every_column_is_under_the_tag(self, store: Store) -> None:
        """A column that is added without being authenticated is found here."""
        for table in ("meta", *READS):
            columns = {row[1] for row in store.database.rows(f"PRAGMA table_info({table})")} - {"tag"}
            seen: list[tuple[Any, ...]] = store._read(table, "1")
            assert all(len(row) == len(columns) for row in seen)
            assert seen


class TestSwapped:
    @pytest.mark.parametrize("columns", ["policy", "policy, tag", "tag", "state, policy, tags, revision, created, tag"])
    def test_between_keys(self, folder: Path, store: Store, columns: str) -> None:
        store.set_policy(TWO, OPEN)
        sql(folder, f"UPDATE keys SET ({columns})=(SELECT {columns} FROM keys WHERE id=?) WHERE id=?", TWO, ONE)
        refused(lambda: store.key(ONE, 0.0))
        assert store.key(TWO, 0.0)

    def test_the_administrators_arn(self, folder: Path, store: Store) -> None:
        key = _access_key(store, "parent")
        sql(folder, "DELETE FROM principals WHERE name='administrator'")
        sql(folder, "UPDATE principals SET arn=? WHERE name='parent'", ADMINISTRATOR)
        refused(lambda: store.credentials(key))

    def test_access_keys(self, folder: Path, store: Store) -> None:
        parent, administrator = (_access_key(store, name) for name in ("parent", "administrator"))
        sql(folder, "UPDATE principals SET access_key='x' WHERE name='parent'")
        sql(folder, "UPDATE principals SET access_key=? WHERE name='administrator'", parent)
        sql(folder, "UPDATE principals SET access_key=? WHERE name='parent'", administrator)
        for key in (parent, administrator):
            refused(partial(store.credentials, key))

    def test_aliases(self, folder: Path, store: Store) -> None:
        one, two = (
            (name, row[1:]) for name, row in zip(("alias/two", "alias/one"), rows(folder, "aliases"), strict=True)
        )
        sql(folder, "DELETE FROM aliases")
        for name, rest in (one, two):
            put(folder, "aliases", (name, *rest))
            refused(partial(store.alias, name))

    def test_grants_between_keys(self, folder: Path, store: Store) -> None:
        sql(folder, "UPDATE grants SET key_id=? WHERE id='c'", ONE)
        refused(lambda: store.grants(ONE))

    def test_a_table_that_compares_otherwise(self, folder: Path, store: Store) -> None:
        """Whoever writes the file says what SQLite takes for equal: a row must be what was asked for to the letter."""
        assert store.alias("alias/ONE") is None
        assert store.aliases(ONE.upper(), "", 9) == []
        collated = "name TEXT COLLATE NOCASE, key_id TEXT COLLATE NOCASE, created REAL, tag BLOB"
        for statement in (
            "ALTER TABLE aliases RENAME TO others",
            f"CREATE TABLE aliases ({collated})",
            "INSERT INTO aliases SELECT * FROM others",
        ):
            sql(folder, statement)
        assert store.alias("alias/one")
        refused(lambda: store.alias("alias/ONE"))
        refused(lambda: store.aliases(ONE.upper(), "", 9))


class TestDuplicated:
    def test_a_key_under_another_id(self, folder: Path, store: Store) -> None:
        other = new_key_id()
        put(folder, "keys", (other, *rows(folder, "keys")[0][1:]))
        refused(lambda: store.key(other, 0.0))

    def test_an_alias_under_another_name(self, folder: Path, store: Store) -> None:
        put(folder, "aliases", ("alias/x", *rows(folder, "aliases")[0][1:]))
        refused(lambda: store.alias("alias/x"))
        assert store.alias("alias/one")

    def test_a_grant_under_another_id(self, folder: Path, store: Store) -> None:
        key_id, _, _, *rest = rows(folder, "grants")[0]
        put(folder, "grants", (key_id, "x", "token-x", *rest))
        refused(lambda: store.grants(ONE))
        assert store.grants(TWO)

    def test_a_principal_under_another_name(self, folder: Path, store: Store) -> None:
        _, _, _, *rest = rows(folder, "principals")[0]
        put(folder, "principals", ("x", "arn:aws:iam::000000000000:role/x", "EMLKX", *rest))
        refused(lambda: store.credentials("EMLKX"))

    def test_a_row_of_no_key(self, folder: Path, store: Store) -> None:
        sql(folder, "DELETE FROM keys WHERE id=?", ONE)
        assert store.key(ONE, 0.0) is None
        for read in (*READS["aliases"], READS["grants"][0]):
            refused(partial(read, store))


class TestTakenAway:
    def test_a_revoked_grant_that_is_put_back(self, folder: Path, store: Store) -> None:
        kept = rows(folder, "grants")
        assert store.remove_grant(ONE, "a")
        assert [one.id for one in store.grants(ONE)] == ["b"]
        assert [one.id for one in store.grants(TWO)] == ["c", "d"]
        assert store.alias("alias/one")
        put(folder, "grants", next(row for row in kept if row[1] == "a"))
        for read in READS["grants"]:
            refused(partial(read, store))
        sql(folder, "UPDATE keys SET revision=1 WHERE id=?", ONE)
        refused(lambda: store.grants(ONE))

    def test_a_deleted_alias_that_is_put_back(self, folder: Path, store: Store) -> None:
        kept = rows(folder, "aliases")
        alias = store.alias("alias/one")
        assert alias is not None
        assert store.remove_alias(alias)
        assert not store.remove_alias(alias)
        assert store.alias("alias/one") is None
        assert len(store.grants(ONE)) == 2
        put(folder, "aliases", kept[0])
        refused(lambda: store.alias("alias/one"))

    def test_an_alias_moves_once(self, folder: Path, store: Store) -> None:
        kept = rows(folder, "aliases")
        alias = store.alias("alias/one")
        assert alias is not None
        store.remove_alias(alias)
        store.add_alias(replace(alias, key_id=TWO))
        sql(folder, "DELETE FROM aliases WHERE name='alias/one'")
        put(folder, "aliases", kept[0])
        refused(lambda: store.alias("alias/one"))

    def test_an_older_copy_of_a_key_and_all_of_its_own_is_believed(self, folder: Path, store: Store) -> None:
        """What nothing inside the database can tell; docs/kms.md says so."""
        kept = rows(folder, "keys")[0]
        store.set_policy(ONE, OPEN)
        sql(folder, "UPDATE keys SET (policy, tag)=(?, ?) WHERE id=?", kept[6], kept[-1], ONE)
        found = store.key(ONE, 0.0)
        assert found is not None
        assert found.policy == kept[6] != OPEN


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.set_state(ONE, KeyState.DISABLED),
        lambda store: store.set_policy(ONE, "{}"),
        lambda store: store.set_rotation(ONE, None, None),
        lambda store: store.rotate(ONE, 0.0),
        lambda store: store.set_tags(ONE, {"a": "b"}),
        lambda store: store.remove_tags(ONE, ["team"]),
        lambda store: store.add_alias(Alias("alias/new", ONE, 1.0)),
        lambda store: store.add_grant(grant("new")),
        lambda store: store.remove_grant(ONE, "a"),
        lambda store: store.remove_alias(Alias("alias/one", ONE, 1.0)),
    ],
    ids=["state", "policy", "rotation", "rotate", "tag", "untag", "alias", "grant", "revoke", "unalias"],
)
class TestNothingOfOthersIsWrittenAgain:
    def test_a_changed_key(self, folder: Path, store: Store, change: Callable[[Store], object]) -> None:
        sql(folder, "UPDATE keys SET policy=? WHERE id=?", OPEN, ONE)
        self._leaves_all(folder, store, change)

    def test_a_key_that_is_gone(self, folder: Path, store: Store, change: Callable[[Store], object]) -> None:
        sql(folder, "DELETE FROM keys WHERE id=?", ONE)
        self._leaves_all(folder, store, change)

    def _leaves_all(self, folder: Path, store: Store, change: Callable[[Store], object]) -> None:
        tables = ("keys", "key_versions", "aliases", "grants")
        before = [rows(folder, table) for table in tables]
        refused(lambda: change(store))
        assert [rows(folder, table) for table in tables] == before


@pytest.mark.parametrize("table", ["aliases", "grants"])
def test_a_changed_neighbour_is_not_written_again(folder: Path, store: Store, table: str) -> None:
    sql(folder, f"UPDATE {table} SET created=7 WHERE key_id=? AND {'id' if table == 'grants' else 'name'}!='a'", ONE)
    before = [rows(folder, name) for name in ("keys", "aliases", "grants")]
    refused(lambda: store.remove_grant(ONE, "a"))
    assert [rows(folder, name) for name in ("keys", "aliases", "grants")] == before


class TestStart:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("account", b"999999999999"), ("region", b"elsewhere"), ("account", "000000000000"), ("account", None)],
    )
    def test_what_init_wrote(self, folder: Path, name: str, value: object) -> None:
        if value is None:
            sql(folder, "DELETE FROM meta WHERE name=?", name)
        else:
            sql(folder, "UPDATE meta SET value=? WHERE name=?", value, name)
        with pytest.raises((RejectedError, MalformedError)), state.opened(folder, FILE):
            pass

    def test_another_value_in_its_place(self, folder: Path) -> None:
        sql(
            folder,
            "UPDATE meta SET (value, tag)=(SELECT value, tag FROM meta WHERE name='region') WHERE name='account'",
        )
        with pytest.raises(RejectedError), state.opened(folder, FILE):
            pass

    def test_the_audit_logs_head(self, folder: Path, store: Store) -> None:
        assert state.known_head(store).count == 0
        sql(folder, "UPDATE meta SET value=zeroblob(40) WHERE name='audit_head'")
        state.known_head(store)
        sql(folder, "UPDATE meta SET value=randomblob(40) WHERE name='audit_head'")
        refused(lambda: state.known_head(store))
        sql(folder, "DELETE FROM meta WHERE name='audit_head'")
        with pytest.raises(MalformedError):
            state.known_head(store)

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TRIGGER t BEFORE UPDATE ON keys BEGIN SELECT RAISE(IGNORE); END",
            "CREATE VIEW v AS SELECT 1",
            "CREATE TABLE extra (x)",
            "DROP INDEX grants_token",
            "ALTER TABLE keys ADD COLUMN more TEXT",
        ],
    )
    def test_another_schema(self, folder: Path, statement: str) -> None:
        sql(folder, statement)
        with pytest.raises(MalformedError, match="other tables"), state.opened(folder, FILE):
            pass

    def test_the_schema_before_the_first_release(self, folder: Path, tmp_path: Path) -> None:
        with state.opened(folder, FILE) as opened:
            data = backup.export(opened.store)
        sql(folder, "PRAGMA user_version=1")
        older = data[:8] + (1).to_bytes(4, "big") + data[12:]
        for use in (partial(_open, folder), partial(backup.restore, tmp_path, FILE, older)):
            with pytest.raises(RejectedError) as caught:
                use()
            assert caught.value.code == "KMS_SCHEMA_OLDER"
            assert "--init" in (caught.value.hint or "")

    def test_no_schema(self, folder: Path) -> None:
        sql(folder, "PRAGMA user_version=0")
        with pytest.raises(EphemeralError):
            _open(folder)


def _open(folder: Path) -> None:
    with state.opened(folder, FILE):
        pass


def test_tags_have_one_reading() -> None:
    key = StateKey(bytes(32))
    places: list[tuple[Any, ...]] = [
        *(("t", "a", "b"), ("t", "ab", ""), ("ta", "b"), ("t", "a", b"b"), ("t", "a", None), ("t", "a", "")),
        *(("t", "a"), ("t", "a", 0), ("t", "a", "0"), ("t", "a", 1), ("t", "a", "-"), ("t", "a", b"-")),
    ]
    assert len({key.tag(*place) for place in places}) == len(places)
    assert key.tag("t", 1) == key.tag("t", 1.0)
    assert StateKey(b"\1" * 32).tag("t", "a") != key.tag("t", "a")


class TestService:
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        with ExitStack() as stack:
            made = make(tmp_path, stack, GENUINE)
            yield made
            made.service.close()

    def test_refused_logged_and_in_the_audit_log(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        first, second = (bench.ask("CreateKey")[1]["KeyMetadata"]["KeyId"] for _ in range(2))
        _, sealed = bench.ask("Encrypt", KeyId=first, Plaintext=b"x")
        sql(bench.folder, "UPDATE keys SET policy=? WHERE id=?", OPEN, first)
        with caplog.at_level(logging.ERROR, "ephemeralml.keyrelease"):
            status, answer = bench.ask("Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
        assert (status, answer["__type"]) == (500, "KMSInternalException")
        assert "Plaintext" not in answer
        assert (bench.last["error"], bench.last["state"]) == ("KMSInternalException", "KMS_STATE_UNSEALABLE")
        assert f"the row '{first}' of keys" in caplog.text
        for operation in ("DescribeKey", "GetKeyPolicy", "ListGrants", "ScheduleKeyDeletion"):
            bench.refused("KMSInternalException", operation, KeyId=first)
        bench.refused("KMSInternalException", "PutKeyPolicy", KeyId=first, Policy=OPEN)
        assert bench.ask("Encrypt", KeyId=second, Plaintext=b"x")[0] == 200
        assert "state" not in bench.last

    def test_whoever_takes_the_administrators_name(self, bench: Bench) -> None:
        _, path = principals.add(bench.desk.store, bench.desk.names, bench.folder, "parent", now=bench.now)
        _, made = bench.ask("CreateKey")
        _, sealed = bench.ask("Encrypt", KeyId=made["KeyMetadata"]["KeyId"], Plaintext=b"x")
        (bench.folder / "credentials" / "administrator").write_text(path.read_text())
        bench.refused("AccessDeniedException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
        sql(bench.folder, "DELETE FROM principals WHERE name='administrator'")
        sql(bench.folder, "UPDATE principals SET arn=? WHERE name='parent'", ADMINISTRATOR)
        bench.refused("KMSInternalException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
        assert (bench.last["principal"], bench.last["state"]) == (None, "KMS_STATE_UNSEALABLE")

    def test_a_grant_of_ones_own_making(self, bench: Bench) -> None:
        _, path = principals.add(bench.desk.store, bench.desk.names, bench.folder, "parent", now=bench.now)
        _, made = bench.ask("CreateKey")
        key = made["KeyMetadata"]["KeyId"]
        _, sealed = bench.ask("Encrypt", KeyId=key, Plaintext=b"x")
        grant_id, _, *rest = grant("a", key).to_row()
        put(bench.folder, "grants", (key, grant_id, *rest, bytes(32)))
        (bench.folder / "credentials" / "administrator").write_text(path.read_text())
        bench.refused("KMSInternalException", "Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
