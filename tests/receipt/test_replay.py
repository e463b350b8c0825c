"""REPLAY: one receipt counts once, and a refused one burns nothing."""

import multiprocessing
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from ephemeralml.attestation.verdict import Status, Verdict
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.receipt import (
    MemoryReplayStore,
    ReceiptPolicy,
    ReceiptResult,
    ReplayStore,
    SqliteReplayStore,
    verify_receipt,
)
from tests.vectors.receipt.lab import IAT, OTHER_KEY, PUBLIC, claims, pairs, seal

CTI = bytes(range(1, 17))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ReplayStore:
    return MemoryReplayStore() if request.param == "memory" else SqliteReplayStore(tmp_path / "replay.db")


def judge(receipt: bytes, store: ReplayStore, key: bytes = PUBLIC, **demands: object) -> ReceiptResult:
    return verify_receipt(receipt, key, policy=ReceiptPolicy(**demands), now=IAT, replay=store)  # type: ignore[arg-type]


def failing(result: ReceiptResult) -> list[tuple[str, str | None]]:
    return [(row.id, row.code) for row in result.rows if row.status is Status.FAIL]


def test_the_second_time_is_a_replay(store: ReplayStore) -> None:
    receipt = seal(pairs())
    assert judge(receipt, store).verdict is Verdict.VERIFIED
    assert failing(judge(receipt, store)) == [("REPLAY", "REPLAY_CTI")]
    assert failing(judge(receipt, store)) == [("REPLAY", "REPLAY_CTI")]


def test_the_pair_counts_and_not_the_id_alone(store: ReplayStore) -> None:
    assert judge(seal(pairs()), store).verdict is Verdict.VERIFIED
    assert judge(seal(pairs(), key=OTHER_KEY), store, OTHER_KEY.public.raw).verdict is Verdict.VERIFIED
    assert judge(seal(claims(cti=b"\x09" * 16).encode()), store).verdict is Verdict.VERIFIED
    other_bytes_same_id = seal(claims(sequence_number=8).encode())
    assert failing(judge(other_bytes_same_id, store)) == [("REPLAY", "REPLAY_CTI")]


def test_a_forged_receipt_is_not_even_looked_up(store: ReplayStore) -> None:
    forged = seal(pairs(), signature=bytes(64))
    result = judge(forged, store)
    assert failing(result) == [("SIG", "SIG_FAILED")]
    assert result.rows[-1].status is Status.SKIP
    assert judge(seal(pairs()), store).verdict is Verdict.VERIFIED
    assert failing(judge(forged, store)) == [("SIG", "SIG_FAILED")]


def test_a_refused_receipt_burns_no_id(store: ReplayStore) -> None:
    assert failing(judge(seal(pairs()), store, model_id="other")) == [("MODEL", "MODEL_ID_MISMATCH")]
    assert not store.seen(PUBLIC, CTI)
    assert judge(seal(pairs()), store).verdict is Verdict.VERIFIED
    assert failing(judge(seal(pairs()), store, model_id="other")) == [
        ("MODEL", "MODEL_ID_MISMATCH"),
        ("REPLAY", "REPLAY_CTI"),
    ]


def test_threads_race_and_one_wins(store: ReplayStore) -> None:
    barrier = threading.Barrier(4)
    wins: list[bool] = []

    def race() -> None:
        barrier.wait()
        wins.append(store.record(PUBLIC, CTI))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == [False, False, False, True]


def _race(path: str, start: object, results: object) -> None:
    store = SqliteReplayStore(Path(path))
    start.wait()  # type: ignore[attr-defined]
    won = [number for number in range(10) if store.record(PUBLIC, bytes([number]) * 16)]
    results.put(won)  # type: ignore[attr-defined]


def test_processes_race_and_one_wins_each_id(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    path = str(tmp_path / "replay.db")
    racers = [context.Process(target=_race, args=(path, start, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    start.wait(timeout=60)
    first, second = results.get(timeout=60), results.get(timeout=60)
    for racer in racers:
        racer.join(timeout=60)
        racer.close()
    results.close()
    results.join_thread()
    assert sorted(first + second) == list(range(10))


class TestFile:
    def test_mode_is_0600(self, tmp_path: Path) -> None:
        path = tmp_path / "replay.db"
        SqliteReplayStore(path).record(PUBLIC, CTI)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o666)
        assert SqliteReplayStore(path).seen(PUBLIC, CTI)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == ["replay.db"]

    def test_it_outlives_the_store(self, tmp_path: Path) -> None:
        assert SqliteReplayStore(tmp_path / "r").record(PUBLIC, CTI)
        assert not SqliteReplayStore(tmp_path / "r").record(PUBLIC, CTI)

    @pytest.mark.parametrize(
        "content", [b"no database at all, but long enough to look", b"x", b"SQLite format 3\x00" + b"\xff" * 4_080]
    )
    def test_a_corrupt_file_is_refused_and_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "replay.db"
        path.write_bytes(content)
        with pytest.raises((MalformedError, UnavailableError)) as caught:
            judge(seal(pairs()), SqliteReplayStore(path))
        assert caught.value.hint
        assert path.read_bytes() == content

    def test_a_damaged_store_is_no_empty_store(self, tmp_path: Path) -> None:
        path = tmp_path / "replay.db"
        store = SqliteReplayStore(path)
        for number in range(64):
            store.record(PUBLIC, bytes([number]) * 16)
        data = bytearray(path.read_bytes())
        data[4096:8192] = b"\xee" * 4096
        path.write_bytes(data)
        with pytest.raises(MalformedError):
            store.record(PUBLIC, bytes([5]) * 16)

    def test_another_programs_database_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "other.db"
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE accepted (public_key, cti)")
        database.commit()
        database.close()
        before = path.read_bytes()
        with pytest.raises(MalformedError, match="another program"):
            SqliteReplayStore(path).record(PUBLIC, CTI)
        assert path.read_bytes() == before

    def test_a_folder_or_a_missing_folder_is_unavailable(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none" / "replay.db"):
            with pytest.raises(UnavailableError):
                SqliteReplayStore(path).record(PUBLIC, CTI)

    def test_a_locked_store_is_unavailable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ephemeralml.receipt.replay._BUSY_SECONDS", 0.05)
        path = tmp_path / "replay.db"
        store = SqliteReplayStore(path)
        store.record(PUBLIC, CTI)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError):
            store.seen(PUBLIC, CTI)
        holder.close()
        assert store.seen(PUBLIC, CTI)


def test_a_name_that_sqlite_takes_for_no_file_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SqliteReplayStore(Path(":memory:")).record(PUBLIC, CTI)
    assert not SqliteReplayStore(Path(":memory:")).record(PUBLIC, CTI)
