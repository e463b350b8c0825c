"""Policy documents of AWS: key policies, identity policies, service control policies.

The reader takes what KMS stores and refuses what it refuses; it keeps operators
and condition keys that it does not know, for lint to speak of.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.operators import Operator

MAX_POLICY_BYTES = 32_768
TOO_LARGE = "POLICY_TOO_LARGE"

_VERSIONS = ("2012-10-17", "2008-10-17")
_FIELDS = {
    *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction"),
    *("Resource", "NotResource", "Condition"),
}
_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?_-]+")
_PRINCIPAL_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")


class Effect(Enum):
    """What a statement does."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Named:
    """One principal that a statement names."""

    kind: str
    """``AWS``, ``Service``, ``Federated`` or ``CanonicalUser``."""
    value: str

    @property
    def anyone(self) -> bool:
        """Whether it is ``*``."""
        return self.kind == "AWS" and self.value == "*"


@dataclass(frozen=True, slots=True)
class Clause:
    """One operator on one condition key."""

    operator: Operator
    key: str
    values: tuple[str, ...]

    def holds(self, conditions: Mapping[str, tuple[str, ...]]) -> bool | None:
        """Return whether it holds; *conditions* has lower-case names. None: cannot be decided."""
        return self.operator.holds(self.values, conditions.get(self.key.lower()))


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy."""

    name: str
    """Its Sid, else its place: ``statement 2``."""
    effect: Effect
    principals: tuple[Named, ...] = ()
    not_principals: tuple[Named, ...] = ()
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    not_resources: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()

    def covers_action(self, action: str) -> bool:
        """Return whether the statement speaks of *action*."""
        if self.not_actions:
            return not any(globs.matches_name(pattern, action) for pattern in self.not_actions)
        return any(globs.matches_name(pattern, action) for pattern in self.actions)

    def covers_resource(self, resource: str) -> bool:
        """Return whether the statement speaks of *resource*; one that names none speaks of none."""
        if self.not_resources:
            return not any(globs.matches(pattern, resource) for pattern in self.not_resources)
        return any(globs.matches(pattern, resource) for pattern in self.resources)

    def conditions_hold(self, conditions: Mapping[str, tuple[str, ...]]) -> bool:
        """Return whether every clause holds; what cannot be decided goes against the caller."""
        answers = [clause.holds(conditions) for clause in self.clauses]
        return False not in answers and (self.effect is Effect.DENY or None not in answers)


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """An identity policy or a service control policy: no principals."""

    text: str
    """The exact text that was read."""
    version: str
    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy.

        Raises:
            MalformedError: As `_parse`.
        """
        return cls(text, *_parse(text, with_principals=False))

    def of(self, effect: Effect) -> Iterator[Statement]:
        """Return the statements of one effect."""
        return (statement for statement in self.statements if statement.effect is effect)


@dataclass(frozen=True, slots=True)
class KeyPolicy(PolicyDocument):
    """The policy of a key: every statement says whom it is about."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key policy.

        Operators that no evaluator here knows are kept; what stores policies
        asks `unknown_operators` too.

        Raises:
            MalformedError: Not strict JSON, over 32,768 bytes (code
                POLICY_TOO_LARGE), an unknown or missing element, a wrong type,
                a repeated Sid.
        """
        return cls(text, *_parse(text, with_principals=True))

    @property
    def unknown_operators(self) -> tuple[str, ...]:
        """Operators that KMS would refuse, as written."""
        clauses = (clause for statement in self.statements for clause in statement.clauses)
        return tuple(sorted({clause.operator.text for clause in clauses if not clause.operator.known}))


def _parse(text: str, *, with_principals: bool) -> tuple[str, tuple[Statement, ...]]:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise _bad("not UTF-8") from error
    if len(data) > MAX_POLICY_BYTES:
        raise MalformedError(f"key policy of {len(data)} bytes, at most {MAX_POLICY_BYTES} are allowed", code=TOO_LARGE)
    document = strict_json.parse_object(data, max_bytes=MAX_POLICY_BYTES)
    if unknown := sorted(set(document) - {"Version", "Id", "Statement"}):
        raise _bad(f"unknown element {unknown[0][:64]!a}")
    version = document.get("Version", "2008-10-17")
    if version not in _VERSIONS:
        raise _bad("Version is neither 2012-10-17 nor 2008-10-17")
    if type(document.get("Id", "")) is not str:
        raise _bad("Id is no text")
    found = document.get("Statement")
    items: list[Any] = found if type(found) is list else [found]
    if not items:
        raise _bad("Statement is empty")
    statements = tuple(_statement(item, index, with_principals) for index, item in enumerate(items, 1))
    sids = [item["Sid"] for item in items if item.get("Sid")]
    if len(set(sids)) != len(sids):
        raise _bad("two statements have the same Sid")
    return version, statements


def _statement(item: Any, index: int, with_principals: bool) -> Statement:  # noqa: FBT001 - one caller
    if type(item) is not dict:
        raise _bad(f"statement {index} is not an object")
    if unknown := sorted(set(item) - _FIELDS):
        raise _bad(f"statement {index} has the unknown element {unknown[0][:64]!a}")
    sid = item.get("Sid", "")
    if type(sid) is not str:
        raise _bad(f"statement {index}: Sid is no text")
    where = sid or f"statement {index}"
    who = _one_of(item, where, "Principal", "NotPrincipal", required=with_principals)
    if who and not with_principals:
        raise _bad(f"{where}: an identity policy names no principal")
    what = _one_of(item, where, "Action", "NotAction", required=True)
    on = _one_of(item, where, "Resource", "NotResource", required=False)
    if item.get("Effect") not in ("Allow", "Deny"):
        raise _bad(f"{where}: Effect is neither Allow nor Deny")
    named = _principals(item[who], where) if who else ()
    actions, resources = _texts(item[what], where, what), _texts(item[on], where, on) if on else ()
    if not all(map(_ACTION.fullmatch, actions)):
        raise _bad(f"{where}: an action is written service:Action, with wildcards in its second part alone")
    return Statement(
        name=where,
        effect=Effect(item["Effect"]),
        principals=named if who == "Principal" else (),
        not_principals=named if who == "NotPrincipal" else (),
        actions=actions if what == "Action" else (),
        not_actions=actions if what == "NotAction" else (),
        resources=resources if on == "Resource" else (),
        not_resources=resources if on == "NotResource" else (),
        clauses=_clauses(item.get("Condition", {}), where),
    )


def _one_of(item: Mapping[str, Any], where: str, name: str, negated: str, *, required: bool) -> str:
    given = [field for field in (name, negated) if field in item]
    if len(given) > 1 or (required and not given):
        raise _bad(f"{where}: exactly one of {name} and {negated} is needed")
    return given[0] if given else ""


def _texts(value: Any, where: str, field: str) -> tuple[str, ...]:
    items = value if type(value) is list else [value]
    if not items or any(type(item) is not str or not item for item in items):
        raise _bad(f"{where}: {field} is no text and no list of texts")
    return tuple(items)


def _principals(value: Any, where: str) -> tuple[Named, ...]:
    if value == "*":
        return (Named("AWS", "*"),)
    if type(value) is not dict or not value:
        raise _bad(f"{where}: the principal is neither * nor an object")
    if unknown := sorted(set(value) - set(_PRINCIPAL_KINDS)):
        raise _bad(f"{where}: unknown kind of principal {unknown[0][:64]!a}")
    named = tuple(Named(kind, text) for kind, item in value.items() for text in _texts(item, where, "the principal"))
    if any(globs.has_wildcard(one.value) and not one.anyone for one in named):
        raise _bad(f"{where}: a principal is * or has no wildcard")
    return named


def _clauses(value: Any, where: str) -> tuple[Clause, ...]:
    if type(value) is not dict:
        raise _bad(f"{where}: Condition is not an object")
    clauses = []
    for operator, keys in value.items():
        if type(keys) is not dict:
            raise _bad(f"{where}: the condition {operator[:64]!a} is not an object")
        for key, wanted in keys.items():
            if any(not letter.isascii() and letter.lower()[0].isascii() for letter in key):
                raise _bad(f"{where}: the condition key {key[:64]!a} only looks like another one")  # K for k, in Kelvin
            items = wanted if type(wanted) is list else [wanted]
            clauses.append(Clause(Operator.parse(operator), key, tuple(_value(item, where, key) for item in items)))
    return tuple(clauses)


def _value(item: Any, where: str, key: str) -> str:
    match item:
        case bool():
            return "true" if item else "false"
        case str():
            return item
        case int() | float():
            return str(item)
        case _:
            raise _bad(f"{where}: a value of {key[:64]!a} is no text")


def _bad(message: str) -> MalformedError:
    return MalformedError(f"key policy: {message}", code="POLICY_MALFORMED")
