"""Packages on their way to object storage."""

import json
from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope, transfer
from ephemeralml.model.package import Package
from ephemeralml.model.transfer import Upload, upload_package
from ephemeralml.model.verify import check_blobs
from ephemeralml.storage.file import FileStorage
from tests.fakes.key_source import OneKey
from tests.fakes.object_store import ObjectStore
from tests.fakes.packages import PUBLISHER, STRANGER, encrypted_package, signed_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return encrypted_package(tmp_path, keys=OneKey())


def upload(folder: Path, store: ObjectStore | FileStorage, *, force: bool = False) -> Upload:
    with Package.open(folder) as package:
        return upload_package(package, store, force=force)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Watcher:
    """Notes progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None]] = []

    def step(self, name: str) -> None:
        self.seen.clear()

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        self.seen.append((done, total))


def test_every_object_is_stored_and_the_manifest_last(package: Path) -> None:
    store = ObjectStore()
    done = upload(package, store)
    assert store.objects == files(package)
    assert store.puts[-2:] == ["keys.json", "manifest.json"]
    assert (done.stored, done.skipped) == (tuple(store.puts), ())
    assert done.size == sum(map(len, store.objects.values()))


def test_a_package_that_is_not_encrypted_has_no_keys(tmp_path: Path) -> None:
    store = ObjectStore()
    upload(signed_package(tmp_path), store)
    assert "keys.json" not in store.objects
    assert store.puts[-1] == "manifest.json"


def test_progress_adds_up(package: Path) -> None:
    watcher = Watcher()
    with Package.open(package) as opened:
        done = upload_package(opened, ObjectStore(), progress=watcher)
    assert [count for count, _ in watcher.seen] == sorted(count for count, _ in watcher.seen)
    assert watcher.seen[-1] == (done.size, done.size)


def test_what_lies_there_already_is_skipped(package: Path) -> None:
    store = ObjectStore()
    upload(package, store)
    store.puts.clear()
    again = upload(package, store)
    assert (store.puts, again.stored, again.size) == ([], (), 0)
    assert len(again.skipped) == len(store.objects)


def test_an_object_that_was_stored_without_a_digest_is_read(package: Path) -> None:
    store = ObjectStore(package)
    assert upload(package, store).stored == ()
    store.objects["manifest.json"] = store.objects["manifest.json"][:-1] + b" "
    with pytest.raises(RejectedError):
        upload(package, store)


@pytest.mark.parametrize("key", ["manifest.json", "keys.json", "blobs/"])
def test_differing_objects_stay_unless_forced(package: Path, key: str) -> None:
    store = ObjectStore()
    upload(package, store)
    name = next(name for name in sorted(store.objects) if name.startswith(key))
    store.objects[name] = b"something else"
    before = dict(store.objects)
    with pytest.raises(RejectedError, match="differing object") as caught:
        upload(package, store)
    assert caught.value.code == "OBJECT_EXISTS"
    assert store.objects == before
    assert upload(package, store, force=True).stored == (name,)
    assert store.objects == files(package)


def test_what_a_package_before_left_is_named(package: Path, tmp_path: Path) -> None:
    store = ObjectStore()
    upload(package, store)
    assert upload(package, store, force=True).left == ()
    store.objects["blobs/older.eml"] = b""
    other = encrypted_package(tmp_path / "other", keys=OneKey(), version="2.0.0")
    assert upload(other, store, force=True).left == ("blobs/older.eml",)


def test_an_interrupted_upload_goes_on(package: Path) -> None:
    store = ObjectStore()

    def fail_at_the_manifest(key: str) -> None:
        if key == "manifest.json":
            raise UnavailableError("the connection broke")

    store.before_put = fail_at_the_manifest
    with pytest.raises(UnavailableError):
        upload(package, store)
    store.before_put = lambda _key: None
    assert upload(package, store).stored == ("manifest.json",)


def test_a_folder_is_a_destination(package: Path, tmp_path: Path) -> None:
    with FileStorage(tmp_path / "stored") as store:
        upload(package, store)
    assert files(tmp_path / "stored") == files(package)


def test_what_was_checked_is_what_is_stored(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = check_blobs

    def swapped(opened: Package, *rest: object, **more: object) -> None:
        held(opened, *rest, **more)  # type: ignore[arg-type]
        envelope_of_another = encrypted_package(tmp_path / "other", keys=OneKey(), key=STRANGER) / "manifest.json"
        (package / "manifest.json").write_bytes(envelope_of_another.read_bytes())

    monkeypatch.setattr(transfer, "check_blobs", swapped)
    with FileStorage(tmp_path / "stored") as store, pytest.raises(RejectedError) as caught:
        upload(package, store)
    assert caught.value.code == "DIGEST_MISMATCH"
    assert "manifest.json" not in files(tmp_path / "stored")


def test_another_publishers_package_is_not_stored_where_one_is_named(package: Path) -> None:
    store = ObjectStore()
    with Package.open(package) as opened, pytest.raises(RejectedError) as caught:
        upload_package(opened, store, publisher_keys=(STRANGER.public,))
    assert caught.value.code == "SIGNER_UNKNOWN"
    assert store.objects == {}
    with Package.open(package) as opened:
        upload_package(opened, store, publisher_keys=(STRANGER.public, PUBLISHER.public))


def flip_blob(folder: Path) -> None:
    blob = max((folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


def truncate_blob(folder: Path) -> None:
    blob = max((folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])


def unsign(folder: Path) -> None:
    payload = envelope.parse((folder / "manifest.json").read_bytes()).payload
    (folder / "manifest.json").write_bytes(envelope.unsigned(payload))


FAULTS = {
    "unsigned": (unsign, RejectedError, "UNSIGNED"),
    "flipped": (flip_blob, RejectedError, "BLOB_DIGEST_MISMATCH"),
    "truncated": (truncate_blob, RejectedError, "SIZE_MISMATCH"),
    "no keys": (lambda folder: (folder / "keys.json").unlink(), UnavailableError, None),
    "broken keys": (lambda folder: (folder / "keys.json").write_text("[]"), MalformedError, None),
    "keys of another version": (
        lambda folder: (folder / "keys.json").write_text((folder / "keys.json").read_text().replace("1.0.0", "1.0.1")),
        RejectedError,
        "CONTEXT_MISMATCH",
    ),
    "large keys": (lambda folder: (folder / "keys.json").write_text(json.dumps(["x" * 70_000])), MalformedError, None),
    "extra file": (lambda folder: (folder / "extra").write_text(""), MalformedError, None),
    "no blob": (lambda folder: next((folder / "blobs").iterdir()).unlink(), UnavailableError, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_package_that_does_not_hold_is_not_uploaded(package: Path, fault: str) -> None:
    change, kind, code = FAULTS[fault]
    change(package)
    store = ObjectStore()
    with pytest.raises(kind) as caught:
        upload(package, store)
    assert getattr(caught.value, "code", None) == code
    assert store.objects == {}
