"""Progress on a terminal: bytes, rate and time left, where there is a size to measure by."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text


class _Size(DownloadColumn):
    """Bytes done and in all; nothing for a step that has none."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Rate(TransferSpeedColumn):
    """Bytes in a second; nothing for a step that has none."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Left(TimeRemainingColumn):
    """The time that remains; nothing for a step without a size."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Live:
    """A `Progress` with one line per step; a finished step keeps its line."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def step(self, name: str) -> None:
        self._finish()
        self._task = self._bars.add_task(name, total=None)

    def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
        del unit
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1, visible=False)


@contextmanager
def live_progress(console: Console) -> Iterator[_Live]:
    """Draw bars on *console* until the block ends."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        _Size(),
        _Rate(),
        _Left(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Live(bars)
