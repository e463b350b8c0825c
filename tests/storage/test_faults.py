"""Broken connections and refusals between us and the clouds, and what becomes of them."""

import os
import time
from collections.abc import Callable

import pytest

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.retry import Retries, RetryPolicy
from ephemeralml.storage.sources import BytesSource
from tests.fakes.faulty_proxy import Act, Proxy
from tests.storage.conftest import quick, sha256

DATA = os.urandom(3 << 20)
LARGE = os.urandom((50 << 20) + 5)
PART = 16 << 20

Proxied = tuple[Proxy, Callable[[Retries], Storage]]


def put(store: Storage, key: str, data: bytes, *, force: bool = False) -> int | None:
    return store.put(key, BytesSource(data), sha256=sha256(data), force=force)


class Dying(BytesSource):
    """A source whose process ends when it is read at *at*, the *passes* first times excepted."""

    def __init__(self, data: bytes, at: int, passes: int) -> None:
        super().__init__(data)
        self._at = at
        self._passes = passes

    def read(self, start: int, end: int) -> bytes:
        if start >= self._at:
            self._passes -= 1
            if self._passes < 0:
                raise KeyboardInterrupt
        return super().read(start, end)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_server_that_is_busy_is_asked_again(proxied: Proxied, status: int) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        for method in ("HEAD", "GET"):
            proxy.break_(Act.STATUS, method=method, count=status, times=2)
        assert store.size("a") == len(DATA)
        assert store.read("a", 0, len(DATA)) == DATA
        assert all(fault.times == 0 for fault in proxy.faults if fault.method == "GET")


@pytest.mark.parametrize("act", [Act.RESET, Act.CLOSE, Act.STALL])
def test_a_connection_that_fails_is_made_anew(proxied: Proxied, act: Act) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        proxy.break_(act, method="GET", times=1)
        assert store.read("a", 7, len(DATA)) == DATA[7:]


def test_a_server_that_stays_busy_is_given_up_on(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.forget()
        proxy.break_(Act.STATUS, count=503, times=99)
        with pytest.raises(UnavailableError, match=r"cannot read (s3|gs)://models/.*/a: the store answers .*4 times"):
            store.read_into("a", 0, memoryview(bytearray(10)))
        assert len(proxy.seen) == 4


@pytest.mark.parametrize("action", ["read", "write", "list"])
def test_a_refusal_names_bucket_key_and_action(proxied: Proxied, action: str) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "there", b"x")
        proxy.forget()
        ask: dict[str, Callable[[], object]] = {
            "read": lambda: store.read("there", 0, 1),
            "write": lambda: put(store, "new", b"x"),
            "list": lambda: list(store.list("")),
        }
        methods = {"read": ["GET", "HEAD"], "write": ["PUT", "POST"], "list": ["GET"]}[action]
        for method in methods:
            proxy.break_(Act.STATUS, method=method, count=403, times=9)
        name = {"read": "there", "write": "new", "list": ""}[action]
        with pytest.raises(UnavailableError, match=rf"not allowed to {action} (s3|gs)://models/test-\d+/{name}"):
            ask[action]()
        assert sum(seen.method in methods for seen in proxy.seen) == 1, "a refusal is final"


def test_an_interrupted_download_goes_on_where_it_broke(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.forget()
        for _ in range(5):  # more breaks than tries: each brought something
            proxy.break_(Act.TRUNCATE, method="GET", count=500_000)
        buffer = bytearray(len(DATA))
        store.read_into("a", 0, memoryview(buffer))
        assert buffer == DATA
        assert proxy.downloaded == len(DATA), "no byte comes twice"
        starts = [int(str(seen.headers["Range"]).removeprefix("bytes=").split("-")[0]) for seen in proxy.seen]
        assert starts == [500_000 * number for number in range(6)]


def test_connections_that_bring_nothing_are_given_up_on(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.forget()
        proxy.break_(Act.TRUNCATE, method="GET", count=10, times=99)
        with pytest.raises(UnavailableError, match="broke off"):
            store.read_into("a", 0, memoryview(bytearray(len(DATA))))
        assert len(proxy.seen) == 4


@pytest.mark.parametrize("act", [Act.STALL, Act.TRICKLE])
def test_the_deadline_holds_whatever_the_server_does(proxied: Proxied, act: Act) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
    # Time enough for a first answer on a busy machine: it counts too.
    with opened(quick(4)) as store:
        store.size("a")
        proxy.break_(act, method="GET", times=99)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="in time"):
            store.read_into("a", 0, memoryview(bytearray(len(DATA))))
        assert time.monotonic() - began < 8
        with pytest.raises(UnavailableError, match="deadline"):
            store.size("a")


def test_an_interrupted_upload_goes_on_where_it_stopped(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        passes = 1 if type(store).__name__ == "GcsStorage" else 0  # that one makes a checksum first
        with pytest.raises(KeyboardInterrupt):
            store.put("a", Dying(LARGE, 3 * PART, passes), sha256=sha256(LARGE))
    with opened(quick()) as store:
        assert not store.exists("a"), "nothing half is seen"
        proxy.forget()
        assert put(store, "a", LARGE)
        assert store.read("a", 0, len(LARGE)) == LARGE
        assert store.digest("a") == sha256(LARGE)
    # Several parts were on their way to S3; nobody waits for them.
    held = 3 * PART if passes else PART // 2
    assert proxy.uploaded < len(LARGE) - held + 10_000, "what is there is not sent again"


def test_an_upload_whose_connections_break_is_stored(proxied: Proxied) -> None:
    proxy, opened = proxied
    proxy.break_(Act.RESET_UPLOAD, method="PUT", count=5_000_000, times=2)
    proxy.break_(Act.STATUS, method="PUT", count=503, times=1)
    with opened(quick()) as store:
        assert put(store, "a", LARGE)
        assert store.read("a", 0, len(LARGE)) == LARGE


@pytest.mark.parametrize("size", [1000, len(LARGE)], ids=["small", "large"])
def test_an_upload_whose_answers_are_lost_is_stored_once(proxied: Proxied, size: int) -> None:
    proxy, opened = proxied
    proxy.break_(Act.LOSE_ANSWER, method="PUT")
    proxy.break_(Act.LOSE_ANSWER, method="POST", part="uploadId=")
    with opened(quick()) as store:
        assert put(store, "a", LARGE[:size])
        assert store.read("a", 0, size) == LARGE[:size]


def test_an_answer_with_another_range_is_rejected(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        for value in ("bytes 0-9/3145728", "bytes 11-20/3145728", "bytes 10-19/*", "bytes 10-19/19", "nonsense", None):
            proxy.break_(Act.EDIT, method="GET", headers={"Content-Range": value})
            with pytest.raises(RejectedError) as caught:
                store.read_into("a", 10, memoryview(bytearray(10)))
            assert caught.value.code == "RANGE_MISMATCH", value


def test_an_answer_from_an_object_of_another_length_is_rejected(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.break_(Act.EDIT, method="GET", headers={"Content-Range": "bytes 10-19/3145729"})
        with pytest.raises(RejectedError) as caught:
            store.read_into("a", 10, memoryview(bytearray(10)))
        assert caught.value.code == "OBJECT_CHANGED"


def test_an_answer_from_another_version_is_rejected(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.break_(Act.EDIT, method="GET", headers={"ETag": '"other"', "x-goog-generation": "7"})
        with pytest.raises(RejectedError) as caught:
            store.read_into("a", 10, memoryview(bytearray(10)))
        assert caught.value.code == "OBJECT_CHANGED"


def test_a_version_that_is_gone_is_a_change(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        proxy.break_(Act.STATUS, method="GET", count=412)
        with pytest.raises(RejectedError) as caught:
            store.read_into("a", 10, memoryview(bytearray(10)))
        assert caught.value.code == "OBJECT_CHANGED"


def test_no_server_is_unavailable(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    _, opened = proxied
    for name in ("AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with (
        opened(quick()) as store,
        pytest.raises(UnavailableError, match=r"the connection to http://127\.0\.0\.1:9 failed"),
    ):
        store.size("a")


def test_connections_are_kept(proxied: Proxied) -> None:
    proxy, opened = proxied
    with opened(quick()) as store:
        put(store, "a", DATA)
        store.size("a")
        before = proxy.connections
        for start in range(10):
            assert store.read("a", start, start + 1000) == DATA[start : start + 1000]
        assert proxy.connections - before <= 1


def test_a_slow_line_is_no_stall(proxied: Proxied) -> None:
    """A part takes longer than any silence may; its bytes keep moving."""
    proxy, opened = proxied
    slow = proxy.break_(Act.SLOW_UPLOAD, method="PUT", part="", count=250_000, times=1)
    with opened(Retries(RetryPolicy(stall=2))) as store:
        began = time.monotonic()
        assert put(store, "a", LARGE[: PART // 2])
        assert slow.times == 0
        assert time.monotonic() - began > 4
    assert proxy.uploaded < PART // 2 + 10_000, "nothing was sent twice"
