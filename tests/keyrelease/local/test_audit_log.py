"""The audit log: chained, verified, cut off where a line was left half."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.keyrelease.local.audit_log import AuditLog, Head, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    log = AuditLog.open(path)
    for index in range(4):
        log.append({"operation": "Decrypt", "index": index, "context": {"a": "ü"}})
    log.close()
    return path


def broken(path: Path, known: Head | None = None) -> str:
    with pytest.raises(RejectedError) as caught:
        verify(path, known)
    assert caught.value.code == "KMS_AUDIT_BROKEN"
    return caught.value.message


def test_whole(path: Path) -> None:
    head = verify(path)
    assert head.count == 4
    assert verify(path, head) == head
    assert Head.decode(head.encode()) == head
    assert path.stat().st_mode & 0o077 == 0


def test_it_goes_on(path: Path) -> None:
    log = AuditLog.open(path, verify(path))
    log.append({"more": 1})
    log.close()
    assert verify(path).count == 5


def test_every_changed_byte(path: Path) -> None:
    data = path.read_bytes()
    for place in range(len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        broken(path)


def test_lines_removed_swapped_repeated(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for order in ([0, 2, 3], [1, 2, 3], [0, 2, 1, 3], [0, 0, 1, 2, 3]):
        path.write_bytes(b"".join(lines[index] for index in order))
        assert "line" in broken(path)


def test_cut_short_of_what_the_state_remembers(path: Path) -> None:
    head = verify(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert verify(path).count == 3
    assert "remembers 4" in broken(path, head)


def test_replaced(path: Path, tmp_path: Path) -> None:
    head = verify(path)
    path.unlink()
    log = AuditLog.open(path)
    for _ in range(5):
        log.append({"operation": "other"})
    log.close()
    assert "replaced" in broken(path, head)


def test_half_a_line_at_the_end_is_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number":5,"op')
    log = AuditLog.open(path, verify(path))
    assert path.read_bytes() == whole
    log.append({"more": 1})
    log.close()
    assert verify(path).count == 5


def test_a_line_without_end_is_no_half_one(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 300_000)
    broken(path)
    with pytest.raises(RejectedError):
        AuditLog.open(path)
    assert path.stat().st_size == len(whole) + 300_000


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        verify(tmp_path / "nothing")


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_only_our_errors_leave(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with suppress(RejectedError):
            verify(Path(file.name))


def test_the_longest_entry_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog.open(path)
    log.append({"context": {"a": "\U0001f600" * 8_191}, "statement": "ü" * 512, "reason": "ü" * 512})
    with pytest.raises(OSError, match="longer"):
        log.append({"context": "x" * 300_000})
    log.append({"more": 1})
    log.close()
    assert verify(path).count == 2
