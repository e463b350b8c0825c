"""The recipient's key is made beside other steps, and is gone when it is dropped."""

import threading

import pytest

from ephemeralml.enclave.pending_recipient import PendingRecipient
from ephemeralml.keyrelease.recipient import RecipientKey


def test_nothing_waits_for_the_key_but_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    made, go = RecipientKey.generate(), threading.Event()

    def slow() -> RecipientKey:
        go.wait(10)
        return made

    monkeypatch.setattr(RecipientKey, "generate", slow)
    pending = PendingRecipient()
    go.set()
    assert pending.key() is made
    assert pending.key() is made
    pending.drop()
    pending.drop()
    with pytest.raises(RuntimeError, match="dropped"):
        made.open(b"")


def test_a_key_that_is_not_asked_for_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = RecipientKey.generate()
    monkeypatch.setattr(RecipientKey, "generate", lambda: made)
    PendingRecipient().drop()
    with pytest.raises(RuntimeError, match="dropped"):
        made.open(b"")


def test_a_failure_comes_where_the_key_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> RecipientKey:
        raise MemoryError

    monkeypatch.setattr(RecipientKey, "generate", failing)
    pending = PendingRecipient()
    with pytest.raises(MemoryError):
        pending.key()
    pending.drop()
