"""State at rest: rows in their places, schema, damage, ends of keys, state keys, backups."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.local import backup, database, principals, state
from ephemeralml.keyrelease.local.names import Names, default_policy, new_key_id
from ephemeralml.keyrelease.local.records import GrantRecord, KeyRecord, KeyState
from ephemeralml.keyrelease.local.state import KeySource
from ephemeralml.keyrelease.policy.principals import last_name, same

NOW = datetime(2026, 11, 20, tzinfo=UTC)
NAMES = Names("000000000000", "local")
FILE = KeySource.parse("file")


def record(**changed: object) -> KeyRecord:
    fields = {
        "id": new_key_id(),
        "created": NOW.timestamp(),
        "description": "",
        "state": KeyState.ENABLED,
        "deletion": None,
        "deletion_days": None,
        "policy": default_policy(NAMES.account),
        "version": 1,
        "rotation_days": None,
        "next_rotation": None,
        **changed,
    }
    return KeyRecord(**fields)  # type: ignore[arg-type] # fields of a test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    state.create(path, FILE, NAMES, NOW)
    return path


def sql(folder: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(folder / database.FILE)
    with connection:
        connection.execute(statement, values)
    connection.close()


def add_key(folder: Path, one: KeyRecord | None = None) -> str:
    made = one or record()
    with state.opened(folder, FILE) as opened:
        opened.store.create_key(made)
    return made.id


class TestFolder:
    def test_what_is_acknowledged_is_on_disk(self, folder: Path) -> None:
        with state.opened(folder, FILE) as opened:
            assert opened.store.database.row("PRAGMA synchronous") == (2,)
            assert opened.store.database.row("PRAGMA journal_mode") == ("wal",)
            assert opened.store.database.row("PRAGMA foreign_keys") == (1,)

    def test_private(self, folder: Path) -> None:
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in [*folder.iterdir(), *(folder / "credentials").iterdir()]:
            assert path.stat().st_mode & 0o077 == 0, path

    def test_made_once(self, folder: Path) -> None:
        with pytest.raises(UnavailableError, match="already"):
            state.create(folder, FILE, NAMES, NOW)

    def test_a_making_that_was_cut_short_is_made_again(self, tmp_path: Path) -> None:
        path = tmp_path / "state"
        path.mkdir()
        (path / f".{database.FILE}.new").write_bytes(b"half")
        state.create(path, FILE, NAMES, NOW)
        with state.opened(path, FILE) as opened:
            assert [one.name for one in opened.store.principals()] == ["administrator"]

    def test_one_server_at_a_time(self, folder: Path) -> None:
        with (
            database.exclusive(folder),
            pytest.raises(UnavailableError, match="another key server"),
            database.exclusive(folder),
        ):
            pass

    def test_nothing_secret_in_the_clear(self, folder: Path) -> None:
        key_id = add_key(folder)
        with state.opened(folder, FILE) as opened:
            material = opened.store.material(key_id, 1)
            secret = (folder / "credentials" / "administrator").read_text().split()[-1]
        assert material is not None
        whole = b"".join(path.read_bytes() for path in folder.glob("kms*"))
        assert material not in whole
        assert secret.encode() not in whole


class TestRows:
    def test_swapped_between_keys(self, folder: Path) -> None:
        first, second = add_key(folder), add_key(folder)
        sql(
            folder,
            "UPDATE key_versions SET sealed=(SELECT sealed FROM key_versions WHERE key_id=?) WHERE key_id=?",
            *(first, second),
        )
        self._refused(folder, second)

    def test_swapped_between_versions(self, folder: Path) -> None:
        one = record()
        add_key(folder, one)
        with state.opened(folder, FILE) as opened:
            assert opened.store.rotate(one.id, NOW.timestamp()) == 2
        sql(
            folder,
            "UPDATE key_versions SET sealed=(SELECT sealed FROM key_versions WHERE version=1) WHERE version=2",
        )
        with state.opened(folder, FILE) as opened:
            assert opened.store.material(one.id, 1)
            with pytest.raises(RejectedError):
                opened.store.material(one.id, 2)

    def test_changed(self, folder: Path) -> None:
        key_id = add_key(folder)
        sql(folder, "UPDATE key_versions SET sealed=zeroblob(60)")
        self._refused(folder, key_id)

    def test_short(self, folder: Path) -> None:
        key_id = add_key(folder)
        sql(folder, "UPDATE key_versions SET sealed=x'00'")
        self._refused(folder, key_id)

    def test_a_secret_of_somebody_else(self, folder: Path) -> None:
        with state.opened(folder, FILE) as opened:
            principals.add(opened.store, NAMES, folder, "parent", now=NOW)
        sql(
            folder,
            "UPDATE principals SET sealed=(SELECT sealed FROM principals WHERE name='administrator') WHERE name='parent'",
        )
        with state.opened(folder, FILE) as opened:
            ((key,),) = opened.store.database.rows("SELECT access_key FROM principals WHERE name='parent'")
            with pytest.raises(RejectedError):
                opened.store.credentials(key)

    def _refused(self, folder: Path, key_id: str) -> None:
        with state.opened(folder, FILE) as opened, pytest.raises(RejectedError) as caught:
            opened.store.material(key_id, 1)
        assert caught.value.code == "KMS_STATE_UNSEALABLE"


class TestOpening:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError) as caught, state.opened(tmp_path, FILE):
            pass
        assert "--init" in (caught.value.hint or "")

    def test_a_newer_schema(self, folder: Path) -> None:
        sql(folder, f"PRAGMA user_version={database.SCHEMA + 1}")
        self._rejected(folder, "KMS_SCHEMA_NEWER")

    def test_another_state_key(self, folder: Path) -> None:
        (folder / "state.key").write_bytes(bytes(32))
        self._rejected(folder, "KMS_STATE_KEY_WRONG")

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
    def test_a_state_key_that_others_can_read(self, folder: Path, mode: int) -> None:
        (folder / "state.key").chmod(mode)
        with pytest.raises(UnavailableError, match="readable by others"), state.opened(folder, FILE):
            pass

    def test_no_state_key(self, folder: Path) -> None:
        (folder / "state.key").unlink()
        with pytest.raises(UnavailableError, match=r"state\.key"), state.opened(folder, FILE):
            pass

    def test_a_state_key_of_another_size(self, folder: Path) -> None:
        (folder / "state.key").write_bytes(bytes(31))
        with pytest.raises(MalformedError), state.opened(folder, FILE):
            pass

    @pytest.mark.parametrize("place", [0, 100, 4_096])
    def test_damage_is_an_error_of_ours(self, folder: Path, place: int) -> None:
        for _ in range(20):
            add_key(folder)
        path = folder / database.FILE
        data = bytearray(path.read_bytes())
        data[place : place + 1_000] = b"\x5a" * 1_000
        path.write_bytes(data)
        with pytest.raises((EphemeralError, sqlite3.DatabaseError)) as caught, state.opened(folder, FILE):
            pass
        assert isinstance(caught.value, EphemeralError)

    def _rejected(self, folder: Path, code: str) -> None:
        with pytest.raises(RejectedError) as caught, state.opened(folder, FILE):
            pass
        assert caught.value.code == code


class TestEnds:
    def test_a_key_whose_time_has_come_is_gone_with_everything(self, folder: Path) -> None:
        one = record(state=KeyState.PENDING_DELETION, deletion=NOW.timestamp() + 10, deletion_days=7)
        with state.opened(folder, FILE) as opened:
            store = opened.store
            store.create_key(one)
            assert store.key(one.id, NOW.timestamp() + 9) == one
            assert store.key(one.id, NOW.timestamp() + 10) is None
            assert store.material(one.id, 1) is None
            assert store.grants(one.id) == []

    def test_versions_stay(self, folder: Path) -> None:
        one = record(rotation_days=90, next_rotation=NOW.timestamp())
        with state.opened(folder, FILE) as opened:
            opened.store.create_key(one)
            old = opened.store.material(one.id, 1)
            opened.store.rotate(one.id, NOW.timestamp())
            assert opened.store.material(one.id, 1) == old != opened.store.material(one.id, 2)
            found = opened.store.key(one.id, NOW.timestamp())
        assert found is not None
        assert (found.version, found.next_rotation) == (2, NOW.timestamp() + 90 * 86_400)


class TestSources:
    def test_passphrase(self, tmp_path: Path) -> None:
        (tmp_path / "words").write_text("correct horse\n")
        (tmp_path / "others").write_text("wrong horse\n")
        source = KeySource.parse(f"passphrase:{tmp_path / 'words'}")
        state.create(tmp_path / "state", source, NAMES, NOW)
        with state.opened(tmp_path / "state", source):
            pass
        with (
            pytest.raises(RejectedError, match="not the state key"),
            state.opened(tmp_path / "state", KeySource.parse(f"passphrase:{tmp_path / 'others'}")),
        ):
            pass

    def test_systemd(self, tmp_path: Path) -> None:
        (tmp_path / "kms").write_bytes(b"k" * 32)
        source = KeySource.parse("systemd:kms", credentials=tmp_path)
        state.create(tmp_path / "state", source, NAMES, NOW)
        with state.opened(tmp_path / "state", source):
            pass
        with pytest.raises(UnavailableError):
            KeySource.parse("systemd:kms")

    @pytest.mark.parametrize("text", ["", "passphrase", "systemd:", "vault:x", "systemd:../x"])
    def test_no_source(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(MalformedError):
            KeySource.parse(text, credentials=tmp_path)


class TestBackup:
    def test_there_and_back(self, folder: Path, tmp_path: Path) -> None:
        key_id = add_key(folder)
        with state.opened(folder, FILE) as opened:
            data, material = backup.export(opened.store), opened.store.material(key_id, 1)
        assert material is not None
        assert material not in data
        assert key_id.encode() not in data
        other = tmp_path / "other"
        other.mkdir()
        backup.restore(other, KeySource.parse(f"file:{folder / 'state.key'}"), data)
        with state.opened(other, KeySource.parse(f"file:{folder / 'state.key'}")) as opened:
            assert opened.store.material(key_id, 1) == material

    def test_refused(self, folder: Path, tmp_path: Path) -> None:
        with state.opened(folder, FILE) as opened:
            data = backup.export(opened.store)
        source = KeySource.parse(f"file:{folder / 'state.key'}")
        (tmp_path / "other.key").write_bytes(bytes(32))
        (tmp_path / "other.key").chmod(0o600)
        newer = data[:8] + (database.SCHEMA + 1).to_bytes(4, "big") + data[12:]
        changed = data[:-1] + bytes([data[-1] ^ 1])
        salted = data[:12] + bytes(16) + data[28:]
        for wrong, key, kind in (
            (newer, source, RejectedError),
            (changed, source, RejectedError),
            (salted, source, RejectedError),
            (data, KeySource.parse(f"file:{tmp_path / 'other.key'}"), RejectedError),
            (b"x" + data[1:], source, MalformedError),
            (data[:30], source, MalformedError),
        ):
            with pytest.raises(kind):
                backup.restore(tmp_path, key, wrong)
        assert not list(tmp_path.glob("*kms*"))
        with pytest.raises(UnavailableError):
            backup.restore(folder, source, data)


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".", "..", "../x", "arn:aws:iam::1:role/x", "ä", "x" * 65])
def test_names_that_are_none(folder: Path, name: str) -> None:
    with state.opened(folder, FILE) as opened, pytest.raises(MalformedError):
        principals.add(opened.store, NAMES, folder, name, now=NOW)


def test_a_name_twice(folder: Path) -> None:
    with state.opened(folder, FILE) as opened:
        for name in ("administrator", "arn:aws:iam::000000000000:role/administrator"):
            with pytest.raises(UnavailableError, match="already"):
                principals.add(opened.store, NAMES, folder, name, now=NOW)


@pytest.mark.parametrize(("account", "region"), [("1", "local"), ("000000000000", "Local"), ("000000000000", "")])
def test_accounts_and_regions(account: str, region: str) -> None:
    with pytest.raises(ValueError, match="is"):
        Names(account, region)


@pytest.mark.parametrize("asking", ["role/team/parent", "session"])
def test_the_grants_of_others_are_not_read(folder: Path, asking: str) -> None:
    role, session = "arn:aws:iam::000000000000:role/team/parent", "arn:aws:sts::000000000000:assumed-role/parent/i-1"
    key_id = add_key(folder)
    with state.opened(folder, FILE) as opened:
        store = opened.store
        for number, grantee in enumerate((role, session, "arn:aws:iam::000000000000:user/other")):
            store.add_grant(GrantRecord(f"{number}", key_id, f"t{number}", 0.0, grantee, ("Decrypt",), "issuer"))
        arn = session if asking == "session" else role
        found = {one.grantee for one in store.grants_naming(key_id, last_name(arn))}
        assert found >= {one.grantee for one in store.grants(key_id) if same(one.grantee, arn)}
        assert found == {role, session}
        assert store.count_grants(key_id) == 3
        assert store.grants_naming(key_id, last_name("arn:aws:iam::000000000000:user/parent")) == []
