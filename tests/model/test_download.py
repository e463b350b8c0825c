"""Packages as they arrive: verified, resumed, or nothing."""

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model import arrival, envelope
from ephemeralml.model.package import Package
from ephemeralml.model.transfer import download_package
from ephemeralml.model.verify import VerifiedManifest, verify_package
from ephemeralml.semver import SemVer
from tests.fakes.key_source import OneKey
from tests.fakes.object_store import ObjectStore
from tests.fakes.packages import PUBLISHER, STRANGER, encrypted_package, signed_package

KEYS = (PUBLISHER.public,)
RANGE = 10_000


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return encrypted_package(tmp_path / "made", keys=OneKey())


@pytest.fixture
def store(package: Path) -> ObjectStore:
    return ObjectStore(package)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "package"


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "RANGE_BYTES", RANGE)


def download(store: ObjectStore, out: Path, **options: object) -> VerifiedManifest:
    return download_package(store, out, **{"publisher_keys": KEYS, **options})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest(store: ObjectStore) -> str:
    return max((key for key in store.objects if key.startswith("blobs/")), key=lambda key: len(store.objects[key]))


def edit(store: ObjectStore, key: str, change: Callable[[bytearray], object]) -> None:
    data = bytearray(store.objects[key])
    change(data)
    store.objects[key] = bytes(data)


def test_what_arrives_is_what_was_stored(store: ObjectStore, out: Path) -> None:
    verified = download(store, out)
    assert files(out) == store.objects
    assert [path.name for path in out.parent.iterdir()] == ["package"]
    with Package.open(out) as package:
        assert verify_package(package, publisher_keys=KEYS).model_hash == verified.model_hash


def test_ranges_of_several_files_are_in_flight(store: ObjectStore, out: Path) -> None:
    download(store, out)
    lengths = [length for key, _, length in store.reads if key == largest(store)]
    assert len(lengths) > 2
    assert max(lengths) == RANGE
    assert store.bytes_read == sum(map(len, store.objects.values()))


def test_a_plaintext_package_needs_permission(tmp_path: Path, out: Path) -> None:
    store = ObjectStore(signed_package(tmp_path / "made"))
    refuse(store, out, "PLAINTEXT_NOT_ALLOWED")
    download(store, out, allow_plaintext=True)
    assert files(out) == store.objects


def refuse(store: ObjectStore, out: Path, code: str | None, **options: object) -> EphemeralError:
    with pytest.raises(EphemeralError) as caught:
        download(store, out, **options)
    assert getattr(caught.value, "code", None) == code
    assert list(out.parent.iterdir()) == []
    return caught.value


def test_a_stranger_and_an_older_version_are_refused(store: ObjectStore, out: Path) -> None:
    refuse(store, out, "SIGNER_UNKNOWN", publisher_keys=(STRANGER.public,))
    refuse(store, out, "VERSION_ROLLBACK", min_version=SemVer.parse("1.0.1"))


def payload_edited(store: ObjectStore) -> None:
    document = json.loads(store.objects["manifest.json"])
    document["payload"] = "A" + document["payload"][1:] if document["payload"][0] != "A" else "B"
    store.objects["manifest.json"] = json.dumps(document).encode()


def unsigned(store: ObjectStore) -> None:
    store.objects["manifest.json"] = envelope.unsigned(envelope.parse(store.objects["manifest.json"]).payload)


def context_edited(store: ObjectStore) -> None:
    entries = json.loads(store.objects["keys.json"])
    entries[0]["context"]["version"] = "9.9.9"
    store.objects["keys.json"] = json.dumps(entries).encode()


def swapped(store: ObjectStore) -> None:
    by_size: dict[int, str] = {}
    for key, data in list(store.objects.items()):
        if key.startswith("blobs/") and len(data) in by_size:
            other = by_size[len(data)]
            store.objects[key], store.objects[other] = store.objects[other], data
            return
        by_size[len(data)] = key
    keys = sorted(key for key in store.objects if key.startswith("blobs/"))
    store.objects[keys[0]], store.objects[keys[1]] = store.objects[keys[1]], store.objects[keys[0]]


FAULTS: dict[str, tuple[Callable[[ObjectStore], object], str | None]] = {
    "unsigned": (unsigned, "UNSIGNED"),
    "payload edited": (payload_edited, "SIGNATURE_INVALID"),
    "no manifest": (lambda store: store.objects.pop("manifest.json"), None),
    "garbage for a manifest": (lambda store: store.objects.update({"manifest.json": b"garbage"}), None),
    "a manifest too large": (lambda store: store.objects.update({"manifest.json": bytes(7 << 20)}), None),
    "no keys": (lambda store: store.objects.pop("keys.json"), None),
    "garbage for keys": (lambda store: store.objects.update({"keys.json": b"garbage"}), None),
    "keys too large": (lambda store: store.objects.update({"keys.json": bytes(70_000)}), None),
    "keys of another version": (context_edited, "CONTEXT_MISMATCH"),
    "no blob": (lambda store: store.objects.pop(largest(store)), None),
    "header edited": (
        lambda store: edit(store, largest(store), lambda d: d.__setitem__(20, 1)),
        "BLOB_DIGEST_MISMATCH",
    ),
    "first byte": (lambda store: edit(store, largest(store), lambda d: d.__setitem__(0, 1)), "BLOB_DIGEST_MISMATCH"),
    "last byte": (
        lambda store: edit(store, largest(store), lambda d: d.__setitem__(-1, d[-1] ^ 1)),
        "BLOB_DIGEST_MISMATCH",
    ),
    "truncated": (lambda store: edit(store, largest(store), lambda d: d.pop()), "SIZE_MISMATCH"),
    "extended": (lambda store: edit(store, largest(store), lambda d: d.append(0)), "SIZE_MISMATCH"),
    "swapped": (swapped, "SIZE_MISMATCH"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left_of_what_does_not_hold(store: ObjectStore, out: Path, fault: str) -> None:
    change, code = FAULTS[fault]
    change(store)
    refuse(store, out, code)


def test_an_object_that_shrinks_meanwhile_is_refused(store: ObjectStore, out: Path) -> None:
    name = largest(store)

    def shrink(key: str, start: int) -> None:
        if key == name and start == RANGE:
            store.objects[key] = store.objects[key][:RANGE]

    store.before_read = shrink
    refuse(store, out, "BLOB_TRUNCATED")


def test_an_object_that_changes_meanwhile_is_refused(store: ObjectStore, out: Path) -> None:
    name = largest(store)

    def change(key: str, start: int) -> None:
        if key == name and start == RANGE:
            raise RejectedError(f"{key} changed", code="OBJECT_CHANGED")

    store.before_read = change
    refuse(store, out, "OBJECT_CHANGED")


def interrupted(store: ObjectStore, out: Path) -> Path:
    """Download until the third range of the largest blob, where the connection breaks."""
    name = largest(store)

    def fail(key: str, start: int) -> None:
        if key == name and start >= 2 * RANGE:
            raise UnavailableError("the connection broke")

    store.before_read = fail
    with pytest.raises(UnavailableError, match="connection broke"):
        download(store, out)
    store.before_read = lambda _key, _start: None
    assert not out.exists()
    part = out.with_name("package.part")
    assert (part / name).stat().st_size == 2 * RANGE
    return part


def test_an_interrupted_download_goes_on_where_it_stopped(store: ObjectStore, out: Path) -> None:
    part = interrupted(store, out)
    kept = sum(path.stat().st_size for path in (part / "blobs").iterdir())
    store.reads.clear()
    download(store, out)
    assert files(out) == store.objects
    assert not part.exists()
    small = len(store.objects["manifest.json"]) + len(store.objects["keys.json"])
    blobs = sum(len(data) for key, data in store.objects.items() if key.startswith("blobs/"))
    assert store.bytes_read == small + blobs - kept
    assert min(start for key, start, _ in store.reads if key == largest(store)) == 2 * RANGE


@pytest.mark.parametrize("place", [0, RANGE])
def test_what_was_changed_in_a_part_is_found_and_thrown_away(store: ObjectStore, out: Path, place: int) -> None:
    part = interrupted(store, out)
    data = bytearray((part / largest(store)).read_bytes())
    data[place] ^= 1
    (part / largest(store)).write_bytes(data)
    refuse(store, out, "BLOB_DIGEST_MISMATCH")
    download(store, out)
    assert files(out) == store.objects


def test_a_part_that_is_too_long_is_begun_again(store: ObjectStore, out: Path) -> None:
    part = interrupted(store, out)
    (part / largest(store)).write_bytes(bytes(len(store.objects[largest(store)]) + 1))
    download(store, out)
    assert files(out) == store.objects


def test_a_part_of_another_package_is_begun_again(store: ObjectStore, out: Path, tmp_path: Path) -> None:
    interrupted(store, out)
    other = ObjectStore(encrypted_package(tmp_path / "other", keys=OneKey(), version="2.0.0"))
    download(other, out)
    assert files(out) == other.objects


def test_a_complete_part_is_checked_again_and_named(store: ObjectStore, out: Path) -> None:
    download(store, out)
    out.rename(out.with_name("package.part"))
    store.reads.clear()
    download(store, out)
    assert files(out) == store.objects
    assert {key for key, _, _ in store.reads} == {"manifest.json", "keys.json"}


def test_links_in_a_part_are_not_followed(store: ObjectStore, out: Path, tmp_path: Path) -> None:
    part = interrupted(store, out)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (part / largest(store)).unlink()
    (part / largest(store)).symlink_to(precious)
    with pytest.raises(UnavailableError):
        download(store, out)
    assert precious.read_bytes() == b"precious"


def test_a_folder_that_is_no_part_stays(store: ObjectStore, out: Path) -> None:
    folder = out.with_name("package.part")
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(UnavailableError, match="is no download"):
        download(store, out)
    assert files(folder) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(("mode", "owner"), [(0o757, 0), (0o755, 1)])
def test_a_part_that_others_may_write_to_is_refused(
    store: ObjectStore, out: Path, mode: int, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = out.with_name("package.part")
    part.mkdir()
    part.chmod(mode)
    myself = os.geteuid() + owner
    monkeypatch.setattr(os, "geteuid", lambda: myself)
    with pytest.raises(UnavailableError, match="other users"):
        download(store, out)
    assert files(part) == {}


def test_a_link_for_a_part_is_refused(store: ObjectStore, out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    out.with_name("package.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError):
        download(store, out)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_downloads_do_not_share_a_part(store: ObjectStore, out: Path) -> None:
    part = interrupted(store, out)
    fd = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="another download"):
            download(store, out)
    finally:
        os.close(fd)


@pytest.mark.parametrize("again", [False, True])
def test_a_part_that_becomes_a_package_just_then_is_left_alone(
    store: ObjectStore, out: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    part, lock = interrupted(store, out), fcntl.flock
    (part / "manifest.json").write_text("another download's")

    def finished(fd: int, operation: int) -> None:
        part.rename(out)
        if again:
            part.mkdir()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", finished)
    with pytest.raises(UnavailableError):
        download(store, out)
    assert files(out)["manifest.json"] == b"another download's"


def test_a_full_disk_is_unavailable_and_what_arrived_is_kept(
    store: ObjectStore, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UnavailableError, match="No space left on device"):
            download(store, out)
    assert not out.exists()
    download(store, out)
    assert files(out) == store.objects


def test_a_destination_that_exists_stays_unless_it_is_to_be_replaced(store: ObjectStore, out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_text("an older package")
    with pytest.raises(UnavailableError, match="exists"):
        download(store, out)
    assert store.reads == []
    download(store, out, replace=True)
    assert files(out) == store.objects
    assert [path.name for path in out.parent.iterdir()] == ["package"]


def test_what_is_no_package_is_never_replaced(store: ObjectStore, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(UnavailableError, match="no package"):
        download(store, out, replace=True)
    assert files(out) == {"thesis.tex": b"precious"}


def test_a_destination_needs_its_folder(store: ObjectStore, out: Path) -> None:
    with pytest.raises(UnavailableError, match="does not exist"):
        download(store, out / "deeper" / "package")


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_destination_needs_a_name(store: ObjectStore, name: str) -> None:
    with pytest.raises(UnavailableError, match="no name"):
        download(store, Path(name), replace=True)


def test_malformed_is_not_unavailable(store: ObjectStore, out: Path) -> None:
    store.objects["manifest.json"] = b"{}"
    with pytest.raises(MalformedError):
        download(store, out)


def test_the_total_is_told_before_anything_arrives(store: ObjectStore, out: Path) -> None:
    class Watching:
        def __init__(self) -> None:
            self.told: list[tuple[int, int | None]] = []

        def step(self, name: str) -> None:
            self.told.clear()

        def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
            self.told.append((done, total))

    watching = Watching()
    download(store, out, progress=watching)
    total = sum(len(data) for key, data in store.objects.items() if key.startswith("blobs/"))
    assert watching.told[0] == (0, total)
    assert watching.told[-1] == (total, total)
