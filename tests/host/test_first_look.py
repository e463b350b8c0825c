"""What a host offers is looked at once, before anything listens."""

import time
from pathlib import Path
from threading import Event

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.host.first_look import all_within, look_at_package
from ephemeralml.host.package_source import FolderSource, MissingError


def nothing() -> None: ...


def test_a_package_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}" * 100_000)
    look_at_package(FolderSource(tmp_path))


def test_a_package_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"has no manifest\.json"):
        look_at_package(FolderSource(tmp_path))
    (tmp_path / "manifest.json").touch()
    with pytest.raises(UnavailableError, match="is empty"):
        look_at_package(FolderSource(tmp_path))


def test_nothing_that_hangs_is_waited_for() -> None:
    release = Event()
    begun = time.monotonic()

    def slow() -> None:
        release.wait(30)

    with pytest.raises(UnavailableError, match=r"cannot look at slow: no answer within 0\.2 s"):
        all_within(0.2, {"well": nothing, "slow": slow})
    assert time.monotonic() - begun < 5
    release.set()


def test_the_first_failure_in_the_options_order_is_told() -> None:
    def failing(message: str, after: float) -> None:
        time.sleep(after)
        raise UnavailableError(message)

    with pytest.raises(UnavailableError, match="one"):
        all_within(5, {"a": lambda: failing("one", 0.1), "b": lambda: failing("two", 0)})


def test_a_bug_is_no_verdict() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        all_within(5, {"a": broken})
    all_within(5, {})
