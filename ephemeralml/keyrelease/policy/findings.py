"""What lint can find, and how bad it is (key-release.md sections 5 and 7)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Severity(Enum):
    """What a finding means for the verdict."""

    ERROR = "error"
    UNPROVEN = "unproven"
    WARNING = "warning"
    INFO = "info"


class Rule(Enum):
    """The rows of the table; the value is the row in a few words."""

    K01 = "Decrypt without an attestation condition"
    K02 = "the account's identity policies open the key"
    K03 = "anyone is allowed"
    K04 = "a condition key that does not exist or means something else"
    K05 = "an operator that lets an absent document pass"
    K06 = "a register value that is not 96 hex digits"
    K07 = "a register value that every debug enclave or many images have"
    K08 = "an incomplete Deny"
    K09 = "Deny and Release name different images"
    K10 = "a grant reaches the key"
    K11 = "no encryption-context condition"
    K12 = "no Deny"
    K13 = "lists of registers that accept their cross product"
    K14 = "registers that do not fix the application"
    K15 = "a working role may change the policy"
    K16 = "the key is not of the right kind"
    K17 = "who can change the policy, and what expires"
    K18 = "cannot be proven"
    K19 = "a condition that the action never meets"
    G01 = "no attribute condition"
    G02 = "the attribute condition leaves something open"
    G03 = "a member that is not one image"
    G04 = "decrypt is given too widely"
    G05 = "the audience is not one of its own"
    G06 = "another issuer"
    G07 = "debug or unsupported images are admitted"
    G08 = "service accounts reach the key"
    G09 = "the key is in software"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lint found."""

    rule: Rule
    severity: Severity
    statement: str
    """Name of the statement, grant or field; empty for the policy as a whole."""
    path: str
    """The path to plaintext, or what else follows, in one sentence."""
    fix: str
    """What to do about it."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding for `--json`."""
        return {
            "id": self.rule.name,
            "severity": self.severity.value,
            "title": self.rule.value,
            "statement": self.statement,
            "path": self.path,
            "fix": self.fix,
        }
