"""The bar on a terminal: sizes where there are any, and no question marks."""

import io

import pytest
from rich.console import Console

from ephemeralml.cli.progress_bar import live_progress


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def written(terminal: Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_a_step_without_a_size_says_no_number(terminal: Console) -> None:
    with live_progress(terminal) as shown:
        shown.step("manifest")
    assert "manifest" in written(terminal)
    assert "/?" not in written(terminal)
    assert "bytes" not in written(terminal)


def test_a_step_with_a_size_shows_its_total(terminal: Console) -> None:
    with live_progress(terminal) as shown:
        shown.step("download")
        shown.advance(0, 5_000_000)
    assert "0.0/5.0 MB" in written(terminal)
