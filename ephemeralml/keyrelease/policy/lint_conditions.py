"""Lint, one statement at a time: condition keys, operators and values (K04 to K07, K11, K13, K19)."""

import base64
import binascii
import difflib
import re
from collections.abc import Iterator

from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.conditions import ATTESTED_ACTIONS, CONTEXT, CONTEXT_ACTIONS, CONTEXT_KEYS
from ephemeralml.keyrelease.policy.document import Clause, Effect, KeyPolicy, Statement
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity
from ephemeralml.keyrelease.policy.operators import NULL, Quantifier
from ephemeralml.keyrelease.policy.reach import (
    DECRYPT,
    accounts,
    fixes,
    is_attestation,
    is_context,
    people,
    register_of,
)
from ephemeralml.keyrelease.policy.tuples import ONE_RAMDISK_PCR2, ZERO

_HEX96 = re.compile(r"[0-9a-fA-F]{96}", re.ASCII)
_HEX64 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_PUBLISHING = ("kms:GenerateDataKey", "kms:Encrypt")


def clauses(policy: KeyPolicy) -> Iterator[tuple[Statement, Clause]]:
    """Return every clause with its statement."""
    for statement in policy.statements:
        yield from ((statement, clause) for clause in statement.clauses)


def resembles_ours(key: str) -> bool:
    """Return whether a condition key is meant to be about attestation or the context, and is neither."""
    if is_attestation(key):
        return register_of(key) is None
    if is_context(key) or key.lower() == CONTEXT_KEYS.lower():
        return False
    service, _, rest = key.partition(":")
    name = rest.partition(":")[0].lower()
    near = difflib.get_close_matches(name, ("encryptioncontext", "recipientattestation"), n=1, cutoff=0.8)
    # Without its service prefix the key names nothing; `kms:EncryptionContext` alone neither.
    bare = service.lower() in ("encryptioncontext", "recipientattestation")
    return bare or (bool(near) and service.lower() in ("kms", "aws"))


def unknown_keys(policy: KeyPolicy) -> Iterator[Finding]:
    """K04."""
    for statement, clause in clauses(policy):
        if resembles_ours(clause.key):
            yield Finding(
                Rule.K04,
                Severity.ERROR,
                statement.name,
                f"no request of an enclave carries {clause.key}: the condition does not ask what it seems to",
                "write kms:RecipientAttestation:ImageSha384, kms:RecipientAttestation:PCR<n> or "
                "kms:EncryptionContext:<name>",
            )


def weak_operators(policy: KeyPolicy) -> Iterator[Finding]:
    """K05."""
    for statement in policy.of(Effect.ALLOW):
        for clause in statement.clauses:
            if register_of(clause.key) is None:
                continue
            why = _weakness(clause)
            if why is not None:
                yield Finding(
                    Rule.K05,
                    Severity.ERROR,
                    statement.name,
                    f"{clause.operator.text} on {clause.key} {why}",
                    "compare with StringEqualsIgnoreCase and the full value",
                )
            elif clause.operator.name == "StringEquals" and any(value != value.lower() for value in clause.values):
                yield Finding(
                    Rule.K05,
                    Severity.WARNING,
                    statement.name,
                    f"StringEquals on {clause.key} never matches upper-case hex: the statement releases nothing",
                    "compare with StringEqualsIgnoreCase",
                )


def _weakness(clause: Clause) -> str | None:
    """Return what an operator lets pass; unknown ones are K18's, `Null` alone is K01's."""
    operator = clause.operator
    wild = operator.name == "StringLike" and any(map(globs.has_wildcard, clause.values))
    faults = (
        (operator.if_exists, "holds for a request without a document"),
        (operator.quantifier is Quantifier.ALL, "holds where there is no value, as without a document"),
        (operator.negated, "holds for every other image and for no document at all"),
        (wild, "holds for images that nobody listed"),
        (not operator.fixes_text, "does not compare a register's text"),
    )
    judged = operator.known and operator.name != NULL
    return next((what for fault, what in faults if fault), None) if judged else None


def values(policy: KeyPolicy) -> Iterator[Finding]:
    """K06 and K07."""
    for statement, clause in clauses(policy):
        index = register_of(clause.key)
        if index is None or clause.operator.name == NULL:
            continue
        for value in clause.values:
            wildcard = clause.operator.name in ("StringLike", "StringNotLike") and globs.has_wildcard(value)
            if wildcard or "${" in value:
                continue  # K05's and K18's
            if not _HEX96.fullmatch(value):
                yield Finding(
                    Rule.K06,
                    Severity.ERROR,
                    statement.name,
                    f"{clause.key} is compared with {value[:100]!a}, which no register can be: {_what(value)}",
                    _converted(value),
                )
                continue
            excluded = (statement.effect is Effect.DENY) is not clause.operator.negated
            if why := None if excluded else _common(index, value.lower()):
                yield Finding(
                    Rule.K07, Severity.ERROR, statement.name, why, "measure the image as it will run, with two ramdisks"
                )


def _common(index: int, value: str) -> str | None:
    if value == ZERO:
        return f"PCR{index} is zero: every enclave in debug mode has that, and the host reads its console and memory"
    if index == 2 and value == ONE_RAMDISK_PCR2:
        return "PCR2 is that of every image with one ramdisk, whatever is in it"
    return None


def _what(value: str) -> str:
    if _HEX64.fullmatch(value):
        return "64 hex digits are a SHA-256, registers are SHA-384"
    return "a register is 96 hex digits"


def _converted(value: str) -> str:
    """Return the fix for a value, with the value converted where that is possible."""
    bare = "".join(value.split())
    bare = re.sub(r"^(0x|sha-?384[:-])", "", bare, flags=re.IGNORECASE)
    if _HEX96.fullmatch(bare):
        return f"write {bare.lower()}"
    try:
        raw = base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) == 48 and not _HEX64.fullmatch(bare):
        return f"write {raw.hex()}"
    return "take the value from `ephemeralml enclave measure` or `ephemeralml eif describe`"


def missing_context(policy: KeyPolicy) -> Iterator[Finding]:
    """K11."""
    for statement in policy.of(Effect.ALLOW):
        if not people(statement) and accounts(statement):
            continue  # a root statement is K02's and K18's
        does = [action for action in (DECRYPT, *_PUBLISHING) if statement.covers_action(action)]
        bound = any(is_context(clause.key) and fixes(clause) for clause in statement.clauses)
        if does and not bound:
            yield Finding(
                Rule.K11,
                Severity.WARNING,
                statement.name,
                f"{does[0]} is allowed for every model and version under this key",
                "add a condition on kms:EncryptionContext:model_id",
            )


def cross_products(policy: KeyPolicy) -> Iterator[Finding]:
    """K13."""
    for statement in policy.of(Effect.ALLOW):
        many = [
            index
            for clause in statement.clauses
            if (index := register_of(clause.key)) is not None
            and clause.operator.fixes_text
            and len({value.lower() for value in clause.values}) > 1
        ]
        if len(set(many)) > 1:
            names = " and ".join(f"PCR{index}" for index in sorted(set(many)))
            yield Finding(
                Rule.K13,
                Severity.ERROR,
                statement.name,
                f"{names} list several values each, so an image that mixes registers of two listed ones is accepted",
                "write one statement for each tuple",
            )


def useless_conditions(policy: KeyPolicy) -> Iterator[Finding]:
    """K19."""
    for statement in policy.of(Effect.ALLOW):
        for action in statement.actions:
            if globs.has_wildcard(action):
                continue
            for clause in statement.clauses:
                if _demands(clause) and not _carried(clause.key, action):
                    yield Finding(
                        Rule.K19,
                        Severity.WARNING,
                        statement.name,
                        f"{action} never carries {clause.key}, so the statement can never allow it",
                        f"give {action} a statement of its own without that condition",
                    )


def _demands(clause: Clause) -> bool:
    """Return whether the clause is false for an absent key."""
    return clause.holds({}) is False


def _carried(key: str, action: str) -> bool:
    name = action.lower()
    if register_of(key) is not None:
        return name in {item.lower() for item in ATTESTED_ACTIONS}
    if key.lower().startswith(CONTEXT.lower()) or key.lower() == CONTEXT_KEYS.lower():
        return name in {item.lower() for item in CONTEXT_ACTIONS}
    return True
