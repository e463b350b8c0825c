"""What is GCS's own: sessions that outlive the process, and generations."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.gcs_faults import meaning
from ephemeralml.storage.gcs_upload import CHUNK, Note
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.pins import Version
from ephemeralml.storage.retry import TransientFault
from ephemeralml.storage.sources import BytesSource
from tests.fakes.faulty_proxy import Act, Proxy, faulty_proxy
from tests.fakes.gcs_server import BUCKET, GcsServer
from tests.storage.conftest import quick, sha256

LARGE = os.urandom(2 * CHUNK + 5)
ENDPOINT = "http://127.0.0.1:1"


@pytest.fixture
def proxy(gcs: GcsServer, into_environment: Callable[[dict[str, str]], None]) -> Iterator[Proxy]:
    with faulty_proxy(gcs.port) as proxy:
        into_environment(gcs.environment(proxy.endpoint))
        yield proxy


@pytest.fixture
def opened(proxy: Proxy, prefix: str, tmp_path: Path) -> Callable[[], Storage]:
    return lambda: open_storage(f"gs://{BUCKET}/{prefix}", retries=quick(), state=tmp_path / "state")


def put(store: Storage, key: str, data: bytes, *, force: bool = False) -> int | None:
    return store.put(key, BytesSource(data), sha256=sha256(data), force=force)


def interrupted(proxy: Proxy, opened: Callable[[], Storage], data: bytes = LARGE) -> None:
    """Upload until the second chunk fails for good."""
    fault = proxy.break_(Act.STATUS, method="PUT", part="upload_id", count=503, skip=1, times=99)
    with opened() as store, pytest.raises(UnavailableError, match="503"):
        put(store, "a", data)
    fault.times = 0
    proxy.forget()


def test_a_session_is_noted_privately_and_forgotten_when_done(
    proxy: Proxy, opened: Callable[[], Storage], tmp_path: Path
) -> None:
    interrupted(proxy, opened)
    (note,) = (tmp_path / "state").iterdir()
    assert note.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert note.read_text().startswith(proxy.endpoint)
    with opened() as store:
        assert put(store, "a", LARGE)
        assert store.read("a", 0, len(LARGE)) == LARGE
    assert proxy.uploaded < len(LARGE) - CHUNK + 1000
    assert list((tmp_path / "state").iterdir()) == []


def test_a_session_is_for_the_same_bytes_only(proxy: Proxy, opened: Callable[[], Storage]) -> None:
    interrupted(proxy, opened)
    other = os.urandom(len(LARGE))
    with opened() as store:
        assert put(store, "a", other)
        assert store.read("a", 0, len(other)) == other


@pytest.mark.parametrize("status", [404, 410])
def test_a_session_that_is_gone_is_begun_anew(proxy: Proxy, opened: Callable[[], Storage], status: int) -> None:
    interrupted(proxy, opened)
    proxy.break_(Act.STATUS, method="PUT", count=status)
    with opened() as store:
        assert put(store, "a", LARGE)
        assert store.digest("a") == sha256(LARGE)


def test_a_session_that_goes_under_our_hands_is_told(proxy: Proxy, opened: Callable[[], Storage]) -> None:
    proxy.break_(Act.STATUS, method="PUT", count=410, skip=1)
    with opened() as store, pytest.raises(UnavailableError, match="forgot the upload"):
        put(store, "a", LARGE)
    with opened() as store:
        assert put(store, "a", LARGE)


def test_a_session_of_another_server_is_not_used(tmp_path: Path) -> None:
    note = Note(tmp_path, "gs://b/k", bytes(32))
    note.save(f"{ENDPOINT}/upload?upload_id=x")
    assert note.load(ENDPOINT) == f"{ENDPOINT}/upload?upload_id=x"
    for other in ("http://127.0.0.1:2", "https://127.0.0.1:1", "http://127.0.0.1.example.org:1"):
        assert note.load(other) is None
    assert Note(tmp_path, "gs://b/other", bytes(32)).load(ENDPOINT) is None
    assert Note(tmp_path, "gs://b/k", bytes(31) + b"1").load(ENDPOINT) is None
    note.drop()
    note.drop()
    assert note.load(ENDPOINT) is None


@pytest.mark.parametrize("content", [b"", b"\xff", f"{ENDPOINT}/".encode() + b"x" * 9000])
def test_a_note_that_is_none_is_ignored(tmp_path: Path, content: bytes) -> None:
    note = Note(tmp_path, "gs://b/k", bytes(32))
    note.save(ENDPOINT)
    (written,) = tmp_path.iterdir()
    written.write_bytes(content)
    assert note.load(ENDPOINT) is None


def test_a_folder_that_cannot_be_written_costs_only_the_resumption(proxy: Proxy, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"a file")
    with open_storage(f"gs://{BUCKET}/{prefix}", retries=quick(), state=tmp_path / "state") as store:
        assert put(store, "a", LARGE)


def test_reads_name_the_generation(proxy: Proxy, opened: Callable[[], Storage]) -> None:
    with opened() as store:
        put(store, "a", b"0123456789")
        store.size("a")
        proxy.forget()
        assert store.read("a", 0, 10) == b"0123456789"
        (seen,) = proxy.seen
        assert "&generation=1" in seen.target


@pytest.mark.parametrize("status", [404, 412])
def test_a_generation_that_is_gone_is_a_change(proxy: Proxy, opened: Callable[[], Storage], status: int) -> None:
    with opened() as store:
        put(store, "a", b"0123456789")
        store.size("a")
        proxy.break_(Act.STATUS, method="GET", part="/download/", count=status)
        with pytest.raises(RejectedError) as caught:
            store.read("a", 0, 10)
        assert caught.value.code == "OBJECT_CHANGED"


def test_an_answer_that_ignores_the_range_is_refused(proxy: Proxy, opened: Callable[[], Storage]) -> None:
    with opened() as store:
        put(store, "a", b"0123456789")
        proxy.break_(Act.STATUS, method="GET", part="/download/", count=200)
        with pytest.raises(MalformedError, match="all it has"):
            store.read("a", 0, 5)


def test_bytes_damaged_on_the_way_are_not_stored(
    proxy: Proxy, opened: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GCS is told the CRC32C beforehand, and refuses others."""
    real = BytesSource.read
    reads = iter(range(100))

    def damaged(self: BytesSource, start: int, end: int) -> bytes:
        data = real(self, start, end)
        return data if next(reads) < 3 else bytes(len(data))  # right for the checksum, wrong for the upload

    monkeypatch.setattr(BytesSource, "read", damaged)
    with opened() as store:
        with pytest.raises(UnavailableError, match="cannot write"):
            put(store, "a", LARGE)
        assert not store.exists("a")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UnavailableError, "not allowed to read gs://b/k"),
        (403, UnavailableError, "not allowed to read gs://b/k"),
        (404, UnavailableError, "there is no object gs://b/k"),
        (412, UnavailableError, "it exists already"),
        (416, RejectedError, "ends before byte 9"),
        (400, UnavailableError, "answers 400"),
        (501, UnavailableError, "answers 501"),
        (408, TransientFault, "408"),
        (429, TransientFault, "429"),
        (503, TransientFault, "503"),
    ],
)
def test_what_the_store_answers_has_one_meaning(status: int, kind: type[Exception], message: str) -> None:
    error = meaning(status, "read", "gs://b/k", end=9)
    assert isinstance(error, kind)
    assert isinstance(error, EphemeralError | TransientFault)
    assert message in str(error)


def test_a_generation_that_is_pinned_changes_the_meaning() -> None:
    for status in (404, 412):
        error = meaning(status, "read", "gs://b/k", pinned=Version(1, "7"))
        assert isinstance(error, RejectedError)
