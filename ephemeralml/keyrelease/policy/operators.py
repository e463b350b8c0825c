"""Condition operators of AWS policies (key-release.md section 5, evaluation).

An operator says of one clause whether it holds: yes, no, or None where that
cannot be decided: an operator this code does not know, a value that is no
number or date, a policy variable. Whoever asks decides against the caller: an
Allow that cannot be decided does not allow, such a Deny denies.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from ephemeralml.keyrelease.policy import globs


class Quantifier(Enum):
    """What a condition on a key of several values asks of them."""

    ONE = ""
    ANY = "ForAnyValue"
    ALL = "ForAllValues"


class Undecidable(Exception):  # noqa: N818 - no error: an answer, and it never leaves this module
    """The comparison has no answer."""


def _string(wanted: str, found: str) -> bool:
    return wanted == found


def _string_ignoring_case(wanted: str, found: str) -> bool:
    return wanted.casefold() == found.casefold()


def _bool(wanted: str, found: str) -> bool:
    return wanted.lower() == found.lower()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Undecidable from error


def _date(text: str) -> datetime:
    try:
        if text.replace(".", "", 1).isdigit() and len(text.partition(".")[0]) > 4:
            return datetime.fromtimestamp(float(text), UTC)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Undecidable from error


def _address(wanted: str, found: str) -> bool:
    try:
        return ipaddress.ip_address(found) in ipaddress.ip_network(wanted, strict=False)
    except ValueError as error:
        raise Undecidable from error


_Comparison = Callable[[str, str], bool]

_POSITIVE: dict[str, _Comparison] = {
    "StringEquals": _string,
    "StringEqualsIgnoreCase": _string_ignoring_case,
    "StringLike": globs.matches,
    "ArnEquals": globs.matches_arn,
    "ArnLike": globs.matches_arn,
    "Bool": _bool,
    "NumericEquals": lambda wanted, found: _number(found) == _number(wanted),
    "NumericLessThan": lambda wanted, found: _number(found) < _number(wanted),
    "NumericLessThanEquals": lambda wanted, found: _number(found) <= _number(wanted),
    "NumericGreaterThan": lambda wanted, found: _number(found) > _number(wanted),
    "NumericGreaterThanEquals": lambda wanted, found: _number(found) >= _number(wanted),
    "DateEquals": lambda wanted, found: _date(found) == _date(wanted),
    "DateLessThan": lambda wanted, found: _date(found) < _date(wanted),
    "DateLessThanEquals": lambda wanted, found: _date(found) <= _date(wanted),
    "DateGreaterThan": lambda wanted, found: _date(found) > _date(wanted),
    "DateGreaterThanEquals": lambda wanted, found: _date(found) >= _date(wanted),
    "IpAddress": _address,
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
}
NULL = "Null"


@dataclass(frozen=True, slots=True)
class Operator:
    """A condition operator, taken apart."""

    text: str
    """As the policy writes it."""
    name: str
    """Without quantifier and ``IfExists``."""
    quantifier: Quantifier = Quantifier.ONE
    if_exists: bool = False

    @classmethod
    def parse(cls, text: str) -> "Operator":
        """Take *text* apart; a name nobody knows stays as it is."""
        prefix, colon, rest = text.partition(":")
        known = {item.value: item for item in Quantifier if item.value}
        quantifier = known.get(prefix, Quantifier.ONE) if colon else Quantifier.ONE
        name = rest if quantifier is not Quantifier.ONE else text
        bare = name.removesuffix("IfExists")
        return cls(text, bare, quantifier, bare != name)

    @property
    def known(self) -> bool:
        """Whether this code can evaluate it."""
        if self.name == NULL:
            return self.quantifier is Quantifier.ONE and not self.if_exists
        return self.name in _POSITIVE or self.name in _NEGATED

    @property
    def negated(self) -> bool:
        """Whether it holds for what is not listed."""
        return self.name in _NEGATED

    @property
    def fixes_text(self) -> bool:
        """Whether it holds for nothing but the listed texts (a ``StringLike`` without wildcards too)."""
        return self.name in ("StringEquals", "StringEqualsIgnoreCase", "StringLike")

    def holds(self, wanted: Sequence[str], found: Sequence[str] | None) -> bool | None:
        """Return whether the clause holds for the values *found*, None for an absent key.

        A plain operator on several values asks it of all of them: keys that it
        is meant for have one.
        """
        if not self.known:
            return None
        if self.name == NULL:
            return _null(wanted, absent=found is None)
        if any("${" in value for value in wanted):
            return None  # policy variables: nobody here resolves them, lint calls them unproven
        if not found:
            return self._without_value()
        try:
            each = [self._one(wanted, value) for value in found]
        except Undecidable:
            return None
        return any(each) if self.quantifier is Quantifier.ANY else all(each)

    def _without_value(self) -> bool:
        if self.if_exists or self.quantifier is Quantifier.ALL:
            return True
        return self.negated and self.quantifier is not Quantifier.ANY

    def _one(self, wanted: Sequence[str], value: str) -> bool:
        compare = _POSITIVE[_NEGATED.get(self.name, self.name)]
        return any(compare(item, value) for item in wanted) is not self.negated


def _null(wanted: Sequence[str], *, absent: bool) -> bool | None:
    answers = {value.lower() for value in wanted}
    if not answers <= {"true", "false"}:
        return None
    return ("true" if absent else "false") in answers
