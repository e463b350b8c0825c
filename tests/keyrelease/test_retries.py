"""Bounds of trying again: key-release.md section 1."""

import pytest

from ephemeralml.keyrelease.retries import RetryRules, TransientError


class Service:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def transient(number: int) -> TransientError:
    return TransientError(OSError(f"failure {number}"))


def test_four_failures_are_survived_and_the_fifth_is_not() -> None:
    waits: list[float] = []
    rules = RetryRules(sleep=waits.append)
    service = Service(*map(transient, range(4)))
    assert rules.run(service) == "answer"
    assert service.calls == 5
    assert len(waits) == 4
    service = Service(*map(transient, range(9)))
    with pytest.raises(OSError, match="failure 4"):
        rules.run(service)
    assert service.calls == 5


def test_other_errors_end_it_at_once() -> None:
    service = Service(ValueError("no"), ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        RetryRules(sleep=lambda _: None).run(service)
    assert service.calls == 1


def test_waits_are_random_and_within_their_bounds() -> None:
    waits: list[float] = []
    rules = RetryRules(tries=12, total=1e9, sleep=waits.append)
    for _ in range(5):
        with pytest.raises(OSError, match="failure"):
            rules.run(Service(*map(transient, range(12))))
    assert all(0.2 <= wait <= 5.0 for wait in waits)
    assert len(set(waits)) > 40
    assert max(waits) > 2.0


def test_a_minute_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow() -> str:
        now[0] += 25.0
        raise transient(0)

    with pytest.raises(OSError, match="failure 0"):
        RetryRules(sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)).run(slow)
    assert 50.0 <= now[0] <= 80.0
