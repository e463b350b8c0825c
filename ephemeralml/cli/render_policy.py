"""How policies and appraisals are shown."""

from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.attestation.appraisal import Appraisal
from ephemeralml.attestation.policy import Policy, section_name
from ephemeralml.attestation.verdict import printable
from ephemeralml.cli.verify_rows import lines_of

if TYPE_CHECKING:
    import rich.console

_LAYERS = {
    "T1": "shape",
    "T2": "signature",
    "T3": "chain of trust",
    "T4": "binding and policy",
}


def policy_document(policy: Policy) -> dict[str, Any]:
    """Return what a policy says, defaults filled in."""
    sections = {}
    for name, section in policy.sections.items():
        roots = sorted(f"sha256:{digest.hex()}" for digest in section.roots.digests)
        sections[section_name(name)] = {
            "roots": roots,
            "revocation": section.revocation.value,
            "allow": [
                {
                    "name": entry.name,
                    "until": clock.format_rfc3339(entry.until) if entry.until is not None else None,
                    "registers": {register: value.hex() for register, value in entry.registers.items()},
                }
                for entry in section.allow
            ],
        }
    models = [
        {
            "model_id": entry.model_id,
            "min_version": str(entry.min_version) if entry.min_version is not None else None,
            "model_hash": entry.model_hash.hex() if entry.model_hash is not None else None,
            "scheme": entry.scheme,
        }
        for entry in policy.models.allow
    ]
    return {
        "schema": "ephemeralml.policy-summary/1",
        "policy_id": policy.policy_id,
        "version": policy.version,
        "digest": policy.digest.hex(),
        "signed_by": str(policy.signer) if policy.signer is not None else None,
        "created_at": clock.format_rfc3339(policy.created_at) if policy.created_at is not None else None,
        "expires_at": clock.format_rfc3339(policy.expires_at) if policy.expires_at is not None else None,
        "expired": policy.expired(),
        "formats": [item.value for item in policy.formats],
        "min_assurance": policy.min_assurance.label,
        "security_modes": list(policy.security_modes),
        "debug": policy.debug.value,
        "nonce": policy.nonce.value,
        "max_age_seconds": policy.max_age_seconds,
        "max_skew_seconds": policy.max_skew_seconds,
        "allow_local": policy.allow_local,
        "sections": sections,
        "models": {"publisher_keys": [str(key) for key in policy.models.publisher_keys], "allow": models},
        "warnings": list(policy.warnings),
    }


def print_policy(out: "rich.console.Console", document: dict[str, Any]) -> None:
    """Print what a policy says, for people."""
    expired = ", EXPIRED" if document["expired"] else ""
    for name, value in (
        ("policy", f"{printable(document['policy_id'])} version {document['version']}"),
        ("digest", document["digest"]),
        ("signed by", document["signed_by"] or "nobody"),
        ("created", document["created_at"] or "not stated"),
        ("expires", f"{document['expires_at']}{expired}"),
        ("accepts", f"{', '.join(document['formats'])}, assurance {document['min_assurance']} or better"),
        ("modes", ", ".join(document["security_modes"])),
        ("debug", document["debug"]),
        ("nonce", document["nonce"]),
        ("freshness", f"{document['max_age_seconds']} s old, {document['max_skew_seconds']} s ahead at most"),
    ):
        _line(out, f"{name:<12}{value}")
    for name, section in document["sections"].items():
        _line(out, f"{name}: roots {', '.join(section['roots']) or 'any software root'}", "bold")
        for entry in section["allow"]:
            until = f", until {entry['until']}" if entry["until"] else ""
            _line(out, f"  {printable(entry['name'])}{until}")
            for register, value in entry["registers"].items():
                _line(out, f"    {register:<6}{value}")
        if not section["allow"]:
            _line(out, "  registers are reported, not pinned")
    _line(out, "models", "bold")
    for key in document["models"]["publisher_keys"]:
        _line(out, f"  published by {key}")
    for entry in document["models"]["allow"]:
        version = f" >= {entry['min_version']}" if entry["min_version"] else ""
        digest = f" {entry['model_hash']}" if entry["model_hash"] else ""
        _line(out, f"  {printable(entry['model_id'])}{version}{digest}")


def print_appraisal(out: "rich.console.Console", appraisal: Appraisal, conclusion: str, style: str) -> None:
    """Print every row under its layer, what the document says, and one line of conclusion."""
    at = appraisal.at
    if at.instant is not None and at.basis.value != "now":
        whose = "the document's own time" if at.basis.value == "document" else "the time given"
        _line(out, f"judged at {clock.format_rfc3339(at.instant)}, {whose}: it shows what held then")
    kind = f"{appraisal.kind}{': not protected from this machine' if appraisal.software else ''}"
    values = {
        "format": f"{kind}{', debug mode' if appraisal.debug else ''}",
        "sha256": appraisal.digest.hex(),
        "receipt key": appraisal.receipt_key.hex() if appraisal.receipt_key is not None else "none",
        **appraisal.facts,
        **{register: data.hex() for register, data in appraisal.registers.items()},
    }
    for name, value in values.items():
        _line(out, f"{name.replace('_', ' '):<24}{value}")
    title = ""
    for row, line, row_style in lines_of(appraisal.rows, name_width=15, encoding=out.encoding):
        if _LAYERS.get(row.layer, row.layer) != title:
            title = _LAYERS.get(row.layer, row.layer)
            _line(out, title, "bold")
        _line(out, line, row_style)
    _line(out, conclusion, style)


def _line(out: "rich.console.Console", text: str, style: str | None = None) -> None:
    """Print one line as it is; what evidence says is never markup."""
    out.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
