"""`ephemeralml verify --html`: the result as one page that needs nothing else."""

from typing import Any

import jinja2

from ephemeralml import __version__
from ephemeralml.attestation.verdict import Assurance, Row, printable
from ephemeralml.cli.exit_codes import ExitCode, worst
from ephemeralml.cli.verify_rows import MARKS, advice
from ephemeralml.cli.verify_run import Outcome
from ephemeralml.cli.verify_text import by_title, layer_title, past_instant, shown, software
from ephemeralml.receipt.codes import explain_warning
from ephemeralml.receipt.policy import show_time
from ephemeralml.receipt.result import ReceiptResult, claims_to_json
from ephemeralml.resources import bundled

_LADDER = (
    (Assurance.RECEIPT, "The receipt is well-formed and signed by the given key."),
    (Assurance.DOCUMENT, "The receipt names the given evidence document, and that document binds the key."),
    (Assurance.PLATFORM, "The document is authentic: its signature chain ends at a pinned vendor root."),
    (Assurance.TEE, "The measurements satisfy the policy and equal the receipt's."),
)
_SHOWN_CHARACTERS = 512


def page(outcomes: list[Outcome]) -> bytes:
    """Return the page, UTF-8; everything that comes from a receipt is escaped."""
    folder = bundled("templates", "verify.html.j2").parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["sentence"] = _sentence
    template = environment.get_template("verify.html.j2")
    receipts = [_receipt(outcome, f"receipt-{number}") for number, outcome in enumerate(outcomes, 1)]
    return template.render(receipts=receipts, summary=_summary(outcomes, receipts), version=__version__).encode()


def _sentence(text: str) -> str:
    """Return *text* with a capital first letter, all others as they are."""
    return text[:1].upper() + text[1:]


def _summary(outcomes: list[Outcome], receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what stands above several receipts; the worst of them decides its colour, as it does the exit code."""
    code = worst(outcome.code for outcome in outcomes)
    verdict = next(
        receipt["verdict"] for outcome, receipt in zip(outcomes, receipts, strict=True) if outcome.code is code
    )
    return {"good": sum(outcome.code is ExitCode.OK for outcome in outcomes), "verdict": verdict}


def _receipt(outcome: Outcome, anchor: str) -> dict[str, Any]:
    result = outcome.result
    shared = {
        "anchor": anchor,
        "name": shown(outcome.path),
        "evidence_source": shown(outcome.evidence_source),
        "key_source": shown(outcome.key_source),
        "manifest_source": shown(outcome.manifest_source),
    }
    if result is None:
        assert outcome.error is not None
        code = getattr(outcome.error, "code", None)
        return {
            **shared,
            "verdict": "unread",
            "label": "Not read",
            "assurance": "none",
            "codes": [code] if code is not None else [],
            "error": outcome.error.message,
            "hint": outcome.error.hint,
        }
    return {
        **shared,
        "error": None,
        "verdict": result.verdict.value,
        "label": _sentence(result.verdict.value),
        "assurance": result.assurance.label,
        "past": past_instant(result),
        "verified_at": show_time(result.now) if result.now is not None else "without a clock",
        "time_basis": result.time_basis,
        "public_key": result.public_key.hex() if result.public_key is not None else None,
        "codes": list(dict.fromkeys(row.code or row.id for row in result.failed)),
        "ladder": [
            {"level": level.label, "means": means, "reached": result.assurance >= level} for level, means in _LADDER
        ],
        "layers": _layers(result),
        "warnings": [{"code": code, "means": explain_warning(code)} for code in result.warnings],
        "claims": _claims(result),
        "evidence": _evidence(outcome, result),
    }


def _layers(result: ReceiptResult) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    for row in by_title(result):
        title = layer_title(row)
        if not layers or layers[-1]["title"] != title:
            layers.append({"title": title, "rows": []})
        layers[-1]["rows"].append(_row(row))
    return layers


def _row(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "status": row.status.value,
        "mark": MARKS[row.status][0],
        "code": row.code,
        "detail": row.detail,
        "expected": row.expected,
        "actual": row.actual,
        "fix": advice(row),
    }


def _claims(result: ReceiptResult) -> list[tuple[str, str]] | None:
    if result.claims is None:
        return None
    values = claims_to_json(result.claims)
    values["issued_at"] = f"{show_time(result.claims.iat)} ({result.claims.iat})"
    values.update(values.pop("measurements"))
    return [
        (name.replace("_", " "), "absent" if value is None else printable(str(value), _SHOWN_CHARACTERS))
        for name, value in values.items()
    ]


def _evidence(outcome: Outcome, result: ReceiptResult) -> dict[str, Any] | None:
    if not outcome.evidence_source:
        return None
    facts: list[tuple[str, str]] = [("file", shown(outcome.evidence_source)), ("format", software(outcome))]
    appraisal = result.appraisal
    if appraisal is not None:
        facts.append(("sha-256", appraisal.digest.hex()))
        facts.append(("key binding", appraisal.binding_form or "none"))
        facts.extend((name.replace("_", " "), value) for name, value in appraisal.facts.items())
        facts.extend((slot, value.hex()) for slot, value in appraisal.registers.items())
    software_tee = appraisal is not None and appraisal.software
    facts = [(name, printable(value, _SHOWN_CHARACTERS)) for name, value in facts]
    return {"facts": facts, "kind": software(outcome), "software": software_tee}
