"""How `ephemeralml infer` shows what came back."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ephemeralml.attestation.verdict import printable
from ephemeralml.client.attested import Attested
from ephemeralml.client.load import LoadReport
from ephemeralml.client.reply import Receipted, Reply
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.codes import explain_warning
from ephemeralml.receipt.result import claims_to_json

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "ephemeralml.infer/1"
LOAD_SCHEMA = "ephemeralml.infer-load/1"
SHOWN_VALUES = 8
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
SOFTWARE_NOTE = "software TEE: not protected from this machine"


def warnings_of(attested: Attested) -> list[str]:
    """Return what the session's warnings mean, for people."""
    found = [SOFTWARE_NOTE] if attested.verified.software else []
    found += [f"{code}: {explain_warning(code)}" for code in attested.warnings if code != "WARN_SOFTWARE_TEE"]
    return [text.removesuffix(f": {text.partition(': ')[0]}") for text in found]


def verdict_line(receipted: Receipted | None) -> str:
    """Return the one line that says what was established."""
    if receipted is None:
        return "no receipt: no model had been selected"
    claims, verified = receipted.receipt.claims, receipted.attested.verified
    return (
        f"verified: receipt {claims.receipt_id}, assurance {receipted.receipt.assurance.label}, "
        f"{verified.format.value} evidence, model {printable(claims.model_id)}@{printable(claims.model_version)}"
    )


def session_document(attested: Attested) -> dict[str, Any]:
    """Return what was verified about the runtime."""
    return {
        "format": attested.verified.format.value,
        "software": attested.verified.software,
        "assurance": attested.verified.assurance.label,
        "security_mode": attested.identity.security_mode,
        "document_sha256": attested.verified.digest.hex(),
        "receipt_public_key": attested.receipt_key.hex(),
        "policy": attested.policy.policy_id,
        "models": [f"{entry.id}@{entry.version}" for entry in attested.identity.models],
    }


def reply_document(reply: Reply, attested: Attested, files: list[str]) -> dict[str, Any]:
    """Return the one document of ``--json``."""
    receipted = reply.receipted
    return {
        "schema": SCHEMA,
        "status": reply.status,
        "verdict": "verified" if receipted is not None else None,
        "assurance": receipted.receipt.assurance.label if receipted is not None else "none",
        "response": reply_json(reply),
        "receipt": claims_to_json(receipted.receipt.claims) if receipted is not None else None,
        "usage": dict(reply.usage),
        "session": session_document(attested),
        "files": files,
        "warnings": warnings_of(attested),
    }


def load_document(report: LoadReport, attested: Attested) -> dict[str, Any]:
    """Return the document of a load test."""
    return {"schema": LOAD_SCHEMA, **report.to_json(), "session": session_document(attested)}


def reply_json(reply: Reply) -> Any:
    """Return the reply's JSON, or its text where it is none.

    Raises:
        MalformedError: It is neither.
    """
    try:
        return reply.json()
    except (ValueError, RecursionError):
        try:
            return reply.body.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("the reply is neither JSON nor text") from error


def show_reply(out: "Console", reply: Reply) -> None:
    """Print an embedding's shape or a chat's text."""
    document = reply_json(reply)
    text = _embedding_text(document) or _chat_text(document)
    if text is None:
        text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    out.print(tame(text), markup=False, soft_wrap=True)


def tame(text: str) -> str:
    """Return *text* with nothing in it that a terminal would obey; line breaks and tabs stay."""
    return text.translate(_CONTROL)


def show_load(out: "Console", report: LoadReport) -> None:
    """Print what a load test measured."""
    figures = report.to_json()
    latency = figures["latency_ms"]
    out.print(f"{figures['requests']} replies in {figures['seconds']} s, {report.concurrency} at once", markup=False)
    out.print(f"latency     p50 {latency['p50']} ms   p95 {latency['p95']} ms   p99 {latency['p99']} ms", markup=False)
    out.print(f"throughput  {figures['throughput_per_second']} replies/s", markup=False)
    out.print(f"receipts    {report.receipts} verified", markup=False)
    if report.errors:
        out.print(f"errors      {report.errors}: {figures['statuses']}", markup=False)


def error_text(reply: Reply) -> str:
    """Return what an error reply says, cut and escaped: it is the runtime's text, not ours."""
    try:
        document = reply.json()
    except (ValueError, RecursionError):
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    said = message if isinstance(message, str) and message else reply.body[:300].decode(errors="replace")
    return f"the runtime answered {reply.status}: {printable(said, 300).rstrip('.')}"


def chat_delta(event: str) -> str | None:
    """Return the text that one line of an event stream adds, or None."""
    if not event.startswith("data: ") or event == "data: [DONE]":
        return None
    try:
        document = json.loads(event.removeprefix("data: "))
    except (ValueError, RecursionError):
        return None
    choice = _first(document, "choices")
    delta = choice.get("delta") if choice is not None else None
    content = delta.get("content") if isinstance(delta, Mapping) else None
    return content if isinstance(content, str) else None


def _embedding_text(document: Any) -> str | None:
    item = _first(document, "data")
    values = item.get("embedding") if item is not None else None
    if not isinstance(values, list) or not values or not all(isinstance(value, (int, float)) for value in values):
        return None
    shown = ", ".join(f"{value:.6f}" for value in values[:SHOWN_VALUES])
    more = ", …" if len(values) > SHOWN_VALUES else ""
    norm = math.sqrt(math.fsum(value * value for value in values))
    return f"embedding of {len(values)} values, norm {norm:.6f}\n[{shown}{more}]"


def _chat_text(document: Any) -> str | None:
    choice = _first(document, "choices")
    message = choice.get("message") if choice is not None else None
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, str) else None


def _first(document: Any, name: str) -> Mapping[str, Any] | None:
    items = document.get(name) if isinstance(document, Mapping) else None
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, Mapping) else None
