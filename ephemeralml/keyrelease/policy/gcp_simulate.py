"""Predict whether a workload's token opens the key at Google Cloud (key-release.md section 7)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ephemeralml.errors import IncompleteError
from ephemeralml.keyrelease.policy import cel
from ephemeralml.keyrelease.policy.gcp_export import Export


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a token."""

    steps: tuple[tuple[str, bool | None, str], ...]
    """What was asked, the answer (None: cannot be decided), and why."""

    @property
    def allowed(self) -> bool | None:
        """Whether the key is released; None if that cannot be decided."""
        answers = [answer for _, answer, _ in self.steps]
        return False if False in answers else None if None in answers else True

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        verdict = {True: "allow", False: "deny", None: "unproven"}[self.allowed]
        return {
            "verdict": verdict,
            "checks": [{"check": name, "holds": answer, "detail": detail} for name, answer, detail in self.steps],
        }

    def lines(self) -> list[str]:
        """Return the result for people."""
        marks = {True: "✓", False: "✗", None: "–"}
        verdict = {True: "the key is released", False: "the key is not released", None: "not proven"}[self.allowed]
        return [*(f"{marks[answer]} {name}: {detail}" for name, answer, detail in self.steps), verdict]


def judge(export: Export, claims: Mapping[str, Any]) -> Judged:
    """Ask of a token what the token service and Cloud KMS ask, its signature apart."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    digest = cel.evaluate(cel.parse("assertion.submods.container.image_digest"), {"assertion": dict(claims)})
    members = [member for _, member in export.decrypting() if member.startswith(export.principals)]
    wanted = f"/attribute.image_digest/{digest}"
    return Judged(
        (
            ("issuer", claims.get("iss") == export.issuer, f"{str(claims.get('iss'))[:120]}"),
            ("audience", bool(set(map(str, named)) & set(export.audiences)), f"{str(audience)[:200]}"),
            ("condition", *_condition(export, claims)),
            ("member", any(member.endswith(wanted) for member in members), f"image {str(digest)[:80]}"),
        )
    )


def _condition(export: Export, claims: Mapping[str, Any]) -> tuple[bool | None, str]:
    if not export.condition:
        return True, "there is none"
    try:
        value = cel.evaluate(cel.parse(export.condition), {"assertion": dict(claims)})
    except IncompleteError as error:
        return None, error.message
    if value is cel.UNKNOWN:
        return False, "a claim it asks for is not there"
    return value is True, "it holds" if value is True else "it does not hold"
