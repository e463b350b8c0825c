"""How `ephemeralml verify` shows a result to people."""

from typing import TYPE_CHECKING

from ephemeralml import clock
from ephemeralml.attestation.verdict import Row, Status, printable
from ephemeralml.cli.console import visible
from ephemeralml.cli.verify_rows import lines_of
from ephemeralml.cli.verify_run import Outcome
from ephemeralml.receipt.policy import show_time
from ephemeralml.receipt.result import EVIDENCE_LAYERS, ReceiptResult

if TYPE_CHECKING:
    import rich.console

_LAYERS = {
    "parse": "receipt: form",
    "crypto": "receipt: signature",
    "claim": "receipt: claims",
    "policy": "your demands",
}
_PLATFORM = "evidence"
_STYLES = {"verified": "bold green", "incomplete": "bold yellow"}
_SHOWN_CHARACTERS = 256


def render(out: "rich.console.Console", outcomes: list[Outcome]) -> None:
    """Print every receipt's checks and verdict, and with several receipts their count."""
    for index, outcome in enumerate(outcomes):
        if index:
            _line(out, "")
        past = past_instant(outcome.result) if outcome.result is not None else None
        _line(out, f"receipt {shown(outcome.path)}{f', {past}' if past is not None else ''}", "bold")
        if outcome.result is None:
            assert outcome.error is not None
            _line(out, f"  error: {outcome.error.message}", "red")
            if outcome.error.hint:
                _line(out, f"  hint: {outcome.error.hint}")
        else:
            _render_result(out, outcome, outcome.result)
    if len(outcomes) > 1:
        good = sum(outcome.code == 0 for outcome in outcomes)
        _line(out, "")
        _line(out, f"{good} of {len(outcomes)} receipts verified", "bold" if good == len(outcomes) else "bold red")


def render_quiet(out: "rich.console.Console", outcomes: list[Outcome]) -> None:
    """Print one line per receipt: file, verdict, assurance and codes."""
    for outcome in outcomes:
        if outcome.result is not None:
            _line(out, f"{shown(outcome.path)}: {conclusion(outcome.result)}")
        else:
            assert outcome.error is not None
            code = getattr(outcome.error, "code", None)
            _line(out, f"{shown(outcome.path)}: not read, assurance none: {code or visible(outcome.error.message)}")


def by_title(result: ReceiptResult) -> list[Row]:
    """Return the rows so that those of one heading stand together, headings in the order of their first rows."""
    titles = list(dict.fromkeys(map(layer_title, result.rows)))
    return sorted(result.rows, key=lambda row: titles.index(layer_title(row)))


def past_instant(result: ReceiptResult) -> str | None:
    """Return what a verdict at another time than now must say first."""
    at = result.appraisal.at if result.appraisal is not None else None
    if at is not None and at.instant is not None and at.basis.value != "now":
        whose = "the evidence's own time" if at.basis.value == "document" else "the time given"
        return f"judged at {clock.format_rfc3339(at.instant)}, {whose}: it shows what held then"
    if result.time_basis == "given" and result.now is not None:
        return f"judged at {show_time(result.now)}, the time given: it shows what held then"
    return None


def shown(path: object) -> str:
    """Return a file's name for people; control and direction characters in it are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def layer_title(row: Row) -> str:
    """Return the heading under which a row stands."""
    return _PLATFORM if row.layer in EVIDENCE_LAYERS else _LAYERS.get(row.layer, _PLATFORM)


def software(outcome: Outcome) -> str:
    """Return what evidence this is, in a few words."""
    appraisal = outcome.result.appraisal if outcome.result is not None else None
    if appraisal is None:
        if not outcome.evidence_format:
            return "of no known format"
        parsed = outcome.result is not None and outcome.result.claims is not None
        return f"of {outcome.evidence_format} format, not judged{'' if parsed else ': the receipt does not parse'}"
    extra = ": not protected from the machine it ran on" if appraisal.software else ""
    return f"{appraisal.kind}{extra}{', debug mode' if appraisal.debug else ''}"


def _render_result(out: "rich.console.Console", outcome: Outcome, result: ReceiptResult) -> None:
    if result.public_key is not None:
        _line(out, f"  key       {result.public_key.hex()} (from {shown(outcome.key_source)})")
    if outcome.evidence_source:
        _line(out, f"  evidence  {shown(outcome.evidence_source)}: {software(outcome)}")
    if outcome.manifest_source:
        _line(out, f"  manifest  {shown(outcome.manifest_source)}")
    _render_claims(out, result)
    title = ""
    for row, line, style in lines_of(by_title(result), name_width=20, encoding=out.encoding):
        if layer_title(row) != title:
            title = layer_title(row)
            _line(out, f"  {title}", "bold")
        _line(out, line, style)
    _line(out, conclusion(result), _STYLES.get(result.verdict.value, "bold red"))


def conclusion(result: ReceiptResult) -> str:
    """Return the verdict line: verdict, assurance, and the codes or gaps behind it."""
    codes = ", ".join(dict.fromkeys(row.code or row.id for row in result.failed))
    gaps = ", ".join(row.id for row in result.rows if row.status is Status.SKIP and row.required)
    why = f": {codes}" if codes else f": not checked {gaps}" if result.verdict.value == "incomplete" else ""
    return f"{result.verdict.value}, assurance {result.assurance.label}{why}"


def _render_claims(out: "rich.console.Console", result: ReceiptResult) -> None:
    claims = result.claims
    if claims is None:
        return
    state = "claims" if result.verdict.value == "verified" else "claims (unverified)"
    _line(out, f"  {state}", "bold")
    for name, value in (
        ("id", claims.receipt_id),
        ("issued", f"{show_time(claims.iat)} by {printable(claims.iss, _SHOWN_CHARACTERS)}"),
        ("model", printable(f"{claims.model_id} {claims.model_version}", _SHOWN_CHARACTERS)),
        ("hash", f"{claims.model_hash.hex()} {printable(claims.model_hash_scheme or 'without a scheme')}"),
        ("mode", printable(claims.security_mode)),
    ):
        _line(out, f"    {name:<8}{value}")


def _line(out: "rich.console.Console", text: str, style: str | None = None) -> None:
    """Print one line as it is; what a receipt says is never markup."""
    out.print(text, style=style, markup=False, emoji=False, highlight=False)
