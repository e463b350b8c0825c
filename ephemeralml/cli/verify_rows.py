"""How one check is told to people: its line, why it failed, and what to do about it."""

import textwrap
from collections.abc import Iterator, Sequence

from ephemeralml.attestation.verdict import Row, Status
from ephemeralml.receipt.codes import fix

MARKS = {Status.PASS: ("✓", "green"), Status.FAIL: ("✗", "red"), Status.SKIP: ("–", "dim")}
_PLAIN_MARKS = {"✓": "+", "✗": "x", "–": "-"}
"""For a stdout that cannot carry the others."""


def advice(row: Row) -> str | None:
    """Return what to do about a row: its own hint, else its code's."""
    return row.hint or (fix(row.code) if row.code else None)


def lines_of(rows: Sequence[Row], *, name_width: int, encoding: str) -> Iterator[tuple[Row, str, str | None]]:
    """Give the printed lines of *rows* with their row and style.

    Rows of one check that call for the same remedy are followed by it once.
    """
    for row, following in zip(rows, (*rows[1:], None), strict=True):
        mark, style = MARKS[row.status]
        if not encoding.lower().startswith("utf"):
            mark = _PLAIN_MARKS[mark]
        told_below = row.status is Status.FAIL and row.expected is None and row.actual is None
        said = [row.detail if not told_below else "", row.code or ""]
        yield row, f"  {mark} {row.id:<{name_width}} {'  '.join(filter(None, said))}".rstrip(), style
        if row.status is not Status.FAIL:
            continue
        for line in _why(row):
            yield row, line, None
        remedy = advice(row)
        if remedy is not None and not (following and following.id == row.id and advice(following) == remedy):
            for line in _block("fix: ", textwrap.wrap(remedy, 100)):
                yield row, line, None


def _why(row: Row) -> list[str]:
    """Return the compared values, and where there are none what is wrong: never what the line above says already."""
    compared = [
        f"{name} {value}" for name, value in (("wanted", row.expected), ("found ", row.actual)) if value is not None
    ]
    return _block("why: ", compared or ([row.detail] if row.detail else []))


def _block(label: str, lines: Sequence[str]) -> list[str]:
    return [f"      {label if index == 0 else ' ' * len(label)}{line}" for index, line in enumerate(lines)]
