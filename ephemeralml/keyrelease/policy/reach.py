"""What a statement surely stops and what it may let through: the ground lint stands on.

Where a statement says more than can be decided here, an Allow counts as wide as
it could be, and a Deny as narrow.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.conditions import ATTESTATION, ATTESTED_ACTIONS, CONTEXT, IMAGE
from ephemeralml.keyrelease.policy.document import Clause, Effect, KeyPolicy, Statement
from ephemeralml.keyrelease.policy.operators import Quantifier
from ephemeralml.keyrelease.policy.principals import account_of, identity, same

DECRYPT: Final = "kms:Decrypt"
PUT_POLICY: Final = "kms:PutKeyPolicy"
REWRAP: Final = "kms:ReEncryptFrom"
"""The one way out that a policy may leave to one role."""
WAYS_OUT: Final = (
    REWRAP,
    "kms:CreateGrant",
    "kms:ReplicateKey",
    "kms:ImportKeyMaterial",
    "kms:DeriveSharedSecret",
)
"""What `NoOtherWayOut` denies: each moves or opens a data key without a document."""

_REGISTER = re.compile(r"PCR([0-9]|[12][0-9]|3[01])", re.ASCII | re.IGNORECASE)


def register_of(key: str) -> int | None:
    """Return which register a condition key compares, None if it is no such key."""
    if key.lower() == IMAGE.lower():
        return 0
    if not key.lower().startswith(ATTESTATION.lower()):
        return None
    found = _REGISTER.fullmatch(key[len(ATTESTATION) :])
    return int(found[1]) if found is not None else None


def is_attestation(key: str) -> bool:
    """Return whether a condition key speaks of the recipient, or tries to."""
    return key.lower().startswith(ATTESTATION.lower().rstrip(":"))


def is_context(key: str) -> bool:
    """Return whether a condition key is one pair of the encryption context."""
    return key.lower().startswith(CONTEXT.lower()) and len(key) > len(CONTEXT)


def fixes(clause: Clause) -> bool:
    """Return whether the clause holds for nothing but its values, and never for an absent key."""
    operator = clause.operator
    return (
        operator.fixes_text
        and not operator.if_exists
        and operator.quantifier is not Quantifier.ALL
        and bool(clause.values)
        and not any("${" in value for value in clause.values)
        and not (operator.name == "StringLike" and any(map(globs.has_wildcard, clause.values)))
    )


def gates(clause: Clause) -> bool:
    """Return whether the clause demands a document with a listed register."""
    return register_of(clause.key) is not None and fixes(clause)


def gated(statement: Statement) -> bool:
    """Return whether the statement demands a document."""
    return any(map(gates, statement.clauses))


def registers(statement: Statement) -> dict[int, set[str]]:
    """Return the values that a statement's positive comparisons list for each register, in lower case."""
    found: dict[int, set[str]] = {}
    for clause in statement.clauses:
        index = register_of(clause.key)
        if index is not None and clause.operator.fixes_text:
            values = {value.lower() for value in clause.values}
            found[index] = found[index] & values if index in found else values
    return found


def reaching(policy: KeyPolicy, action: str) -> list[Statement]:
    """Return the Allows that speak of *action*, whatever their resource says."""
    return [statement for statement in policy.of(Effect.ALLOW) if statement.covers_action(action)]


def accounts(statement: Statement) -> list[str]:
    """Return the account principals that a statement names."""
    return [one.value for one in statement.principals if one.kind == "AWS" and account_of(one.value)]


def people(statement: Statement) -> list[str]:
    """Return the other principals that a statement names; ``*`` too."""
    named = [one.value for one in statement.principals if not (one.kind == "AWS" and account_of(one.value))]
    return [*named, "* but some"] if statement.not_principals else named


@dataclass(frozen=True, slots=True)
class Denial:
    """How a policy denies an action to those without a document."""

    complete: tuple[Statement, ...]
    """Denies that surely stop everyone without a document."""
    excepted: str | None
    """The one principal that an otherwise complete Deny leaves out."""
    gaps: tuple[tuple[Statement, str], ...]
    """Denies that speak of the action and do not stop everyone, and why."""

    def stops(self, principal: str | None = None) -> bool:
        """Return whether everyone is stopped; with *principal*, whether that one is."""
        if self.complete or self.excepted is None or principal is None:
            return bool(self.complete)
        return not same(self.excepted, principal)


def denial(policy: KeyPolicy, action: str) -> Denial:
    """Return how *policy* denies *action* without a document."""
    complete, gaps = [], []
    excepted: set[str] = set()
    for statement in policy.of(Effect.DENY):
        if not _may_speak_of(statement, action):
            continue
        gap = gap_of(statement, action)
        spared = exception_of(statement) if gap is not None else None
        if gap is None:
            complete.append(statement)
        elif spared is not None and action == REWRAP and _shape_gap(statement, action) is None:
            excepted.add(spared)
        else:
            gaps.append((statement, gap))
    # Two Denies that spare different principals spare nobody.
    only = excepted.pop() if len(excepted) == 1 else None
    return Denial(tuple(complete), only, tuple(gaps))


def _may_speak_of(statement: Statement, action: str) -> bool:
    return statement.covers_action(action)


def gap_of(statement: Statement, action: str) -> str | None:
    """Return why a Deny does not stop everyone without a document from *action*; None if it does."""
    shape = _shape_gap(statement, action)
    if shape is not None:
        return shape
    for clause in statement.clauses:
        if not is_attestation(clause.key):
            return f"it applies only under a condition on {clause.key}"
        if action != DECRYPT and action in ATTESTED_ACTIONS:
            return f"{action} may bring a document too, and some pass its condition on {clause.key}"
        if clause.holds({}) is not True:
            return f"its condition {clause.operator.text} on {clause.key} is false without a document"
    return None


def _shape_gap(statement: Statement, action: str) -> str | None:
    if statement.not_principals:
        return "NotPrincipal leaves somebody out"
    if not any(one.anyone for one in statement.principals):
        return "its principal is narrower than *"
    if "*" not in statement.resources:
        return "its resource is not *"
    return f"it denies {action} through NotAction" if statement.not_actions else None


def exception_of(statement: Statement) -> str | None:
    """Return the one role or user that a Deny spares by `aws:PrincipalArn`, if that is all its condition does."""
    if len(statement.clauses) != 1:
        return None
    clause = statement.clauses[0]
    plain = clause.operator.text in ("ArnNotEquals", "ArnNotLike", "StringNotEquals")
    if not plain or clause.key.lower() != "aws:principalarn" or len(clause.values) != 1:
        return None
    who = identity(clause.values[0])
    usable = who is not None and who.kind in ("role", "user") and not globs.has_wildcard(clause.values[0])
    return clause.values[0] if usable and "${" not in clause.values[0] else None


def pins(policy: KeyPolicy) -> Iterator[tuple[Statement, int, set[str]]]:
    """Return what complete Denies of Decrypt leave open: a register and its values.

    A Deny with two clauses leaves open what meets either; it fixes nothing.
    """
    for statement in denial(policy, DECRYPT).complete:
        if len(statement.clauses) != 1:
            continue
        clause = statement.clauses[0]
        index = register_of(clause.key)
        texts = clause.operator.name in ("StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike")
        wild = clause.operator.name == "StringNotLike" and any(map(globs.has_wildcard, clause.values))
        if index is not None and texts and not wild and not any("${" in value for value in clause.values):
            yield statement, index, {value.lower() for value in clause.values}


def closed(policy: KeyPolicy) -> bool:
    """Return whether Decrypt is denied to everyone, document or not."""
    return any(not statement.clauses for statement in denial(policy, DECRYPT).complete)


def denies_debug(policy: KeyPolicy) -> bool:
    """Return whether a Deny stops a launch with a zero ImageSha384."""
    zero = "0" * 96
    for statement in policy.of(Effect.DENY):
        if not _may_speak_of(statement, DECRYPT) or _shape_gap(statement, DECRYPT) is not None:
            continue
        if len(statement.clauses) == 1 and register_of(statement.clauses[0].key) == 0:
            clause = statement.clauses[0]
            if clause.holds({clause.key.lower(): (zero,)}):
                return True
    return False
