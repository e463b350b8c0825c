"""A bench's result as one document, as a page and as a drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ephemeralml.bench.measure import Row, Section, Target

SCHEMA = "ephemeralml.bench/1"

_WIDTH = 860
_LINE = 26
_BAR_LEFT = 400
_BAR_WIDTH = 320


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run measured."""

    what: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]

    @classmethod
    def of(cls, what: str, machine: dict[str, Any], sections: Sequence[Section]) -> "Report":
        """Join *sections* in their order."""
        rows = tuple(row for section in sections for row in section.rows)
        targets = tuple(target for section in sections for target in section.targets)
        return cls(what, machine, rows, targets)

    def to_json(self) -> dict[str, Any]:
        """Return the document of the command line's contract."""
        return {
            "schema": SCHEMA,
            "what": self.what,
            "machine": self.machine,
            "rows": [row.to_json() for row in self.rows],
            "targets": [target.to_json() for target in self.targets],
        }

    def to_svg(self) -> str:
        """Draw each target as a bar: the full line is the target, shorter is better."""
        height = 60 + _LINE * len(self.targets)
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
                f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">'
            ),
            f"<title>ephemeralml bench {escape(self.what)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            (
                f'<text x="12" y="24" font-weight="600">ephemeralml bench {escape(self.what)}: '
                f"share of each target used, {escape(str(self.machine.get('cpu', '')))}</text>"
            ),
        ]
        for index, target in enumerate(self.targets):
            parts.extend(_bar(target, 44 + _LINE * index))
        line = _BAR_LEFT + _BAR_WIDTH
        parts.append(
            f'<line x1="{line}" x2="{line}" y1="38" y2="{height - 14}" stroke="#444" stroke-dasharray="4 3"/></svg>'
        )
        return "\n".join(parts) + "\n"

    def to_html(self) -> str:
        """Return one self-contained page: the drawing and every row."""
        body = "".join(
            f"<tr><td>{escape(row.name)}</td><td>{_figure(row.p50)}</td><td>{_figure(row.p95)}</td>"
            f"<td>{escape(row.unit)}</td><td>{row.n}</td><td>{escape(row.note)}</td></tr>"
            for row in self.rows
        )
        machine = ", ".join(f"{escape(str(name))}: {escape(str(value))}" for name, value in self.machine.items())
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ephemeralml bench {escape(self.what)}</title>'
            "<style>body{font:15px system-ui,sans-serif;margin:2rem;max-width:60rem}"
            "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}</style>"
            f"{self.to_svg()}<p>{machine}</p><table><thead><tr><th>what</th><th>p50</th><th>p95</th><th>unit</th>"
            f"<th>n</th><th>note</th></tr></thead><tbody>{body}</tbody></table></html>\n"
        )


def _bar(target: Target, y: int) -> list[str]:
    label = f'<text x="12" y="{y + 14}">{escape(target.name)}</text>'
    if target.value is None:
        return [label, f'<text x="{_BAR_LEFT}" y="{y + 14}">not measured</text>']
    share = target.value / target.target if target.at_most else target.target / max(target.value, 1e-12)
    width = max(1, round(min(share, 1.25) * _BAR_WIDTH))
    colour = "#2a7f62" if target.met else "#b3372f"
    sign = "≤" if target.at_most else "≥"
    return [
        label,
        f'<rect x="{_BAR_LEFT}" y="{y}" width="{width}" height="18" rx="2" fill="{colour}"/>',
        f'<text x="{_BAR_LEFT + 6}" y="{y + 14}" fill="#ffffff">{_figure(target.value)} {target.unit}</text>',
        f'<text x="{_BAR_LEFT + _BAR_WIDTH + 8}" y="{y + 14}">{sign} {target.target:g} {target.unit}</text>',
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
