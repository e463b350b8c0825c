"""One request on its way through the key server, and what the audit log will say of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.nitro.authentic import AuthenticDocument
from ephemeralml.keyrelease.local.records import Principal

MAX_TEXT = 512
"""Characters of a statement's name, or of a reason, in the audit log."""


@dataclass(slots=True)
class Trail:
    """What is known of a request so far, for the audit log."""

    time: datetime
    request_id: str
    operation: str = ""
    principal: str | None = None
    key: str | None = None
    context: Mapping[str, str] | None = None
    module_id: str | None = None
    pcr0: str | None = None
    decision: str = "none"
    """``allow`` or ``deny`` of the policy; ``none`` where it was not asked."""
    statement: str | None = None
    """What decided."""
    reason: str | None = None
    error: str | None = None
    """AWS's name of what was answered instead of a result."""
    notes: dict[str, str] = field(default_factory=dict)

    def attested(self, document: AuthenticDocument) -> None:
        """Take up what an authentic document says."""
        self.module_id, self.pcr0 = document.module_id, document.pcrs[0].hex()

    def to_json(self) -> dict[str, Any]:
        """Return the audit log's entry."""
        return {
            "time": clock.format_rfc3339(self.time),
            "request_id": self.request_id,
            "principal": self.principal,
            "operation": self.operation,
            "key": self.key,
            "context": None if self.context is None else dict(self.context),
            "module_id": self.module_id,
            "pcr0": self.pcr0,
            "decision": self.decision,
            "statement": _cut(self.statement),
            "reason": _cut(self.reason),
            "error": self.error,
            **self.notes,
        }


def _cut(text: str | None) -> str | None:
    """Return *text* bounded: a policy's author names its statements."""
    return text if text is None or len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request for one operation."""

    principal: Principal
    fields: Mapping[str, Any]
    """As `shapes` read them."""
    now: datetime
    trail: Trail
    source_ip: str | None = None
    tls: bool = False

    @property
    def timestamp(self) -> float:
        """The present in seconds since 1970."""
        return self.now.timestamp()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or *default* where the request leaves it out."""
        return self.fields.get(name, default)
