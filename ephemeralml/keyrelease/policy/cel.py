"""The small part of CEL that an attribute condition needs (key-release.md section 7).

``== != && || ! in has() size()``, field selection, literals and lists. Anything
else does not parse here, and is unproven.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ephemeralml.errors import IncompleteError

MAX_CHARACTERS = 4_096
MAX_DEPTH = 32
MAX_TOKENS = 600
"""A row of ``&&`` nests as deeply as it is long."""
UNPROVEN = "CEL_UNPROVEN"

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
    r"|(?P<number>-?\d{1,18}(?![\w.]))"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>==|!=|&&|\|\||[!()\[\],.]))",
    re.ASCII,
)
_PLAIN_ESCAPES = {"\\\\": "\\", "\\'": "'", '\\"': '"'}

Path = tuple[str, ...]


class Unknown:
    """The value of a field that is not there, or of a comparison that CEL calls an error."""


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class Const:
    """A literal."""

    value: Any


@dataclass(frozen=True, slots=True)
class Field:
    """A selection such as ``assertion.submods.gce.project_id``."""

    path: Path


@dataclass(frozen=True, slots=True)
class Has:
    """``has(field)``."""

    path: Path


@dataclass(frozen=True, slots=True)
class Listing:
    """``[a, b]``."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Size:
    """``size(e)``."""

    of: "Expression"


@dataclass(frozen=True, slots=True)
class Not:
    """``!e``."""

    of: "Expression"


@dataclass(frozen=True, slots=True)
class Binary:
    """``==``, ``!=``, ``in``, ``&&`` or ``||``."""

    sign: str
    left: "Expression"
    right: "Expression"


Expression = Const | Field | Has | Listing | Size | Not | Binary


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        IncompleteError: It uses more of CEL than is known here.
    """
    if len(text) > MAX_CHARACTERS:
        raise _unproven(f"over {MAX_CHARACTERS} characters")
    reader = _Reader(_tokens(text))
    expression = reader.either(0)
    if reader.peek() is not None:
        raise _unproven(f"{reader.peek()!a} after the end")
    return expression


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unproven(f"{text[at : at + 20]!a}")
        found.append(match[0].strip())
        if len(found) > MAX_TOKENS:
            raise _unproven(f"over {MAX_TOKENS} words")
        at = match.end()
    return found


@dataclass(slots=True)
class _Reader:
    """A recursive descent over tokens: or, and, comparison, unary, primary."""

    tokens: list[str]
    at: int = 0

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if token is None or (wanted is not None and token != wanted):
            raise _unproven(f"{token!a} where {wanted or 'a value'} is expected")
        self.at += 1
        return token

    def either(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise _unproven("nested too deeply")
        left = self.both(depth)
        while self.peek() == "||":
            self.take()
            left = Binary("||", left, self.both(depth))
        return left

    def both(self, depth: int) -> Expression:
        left = self.comparison(depth)
        while self.peek() == "&&":
            self.take()
            left = Binary("&&", left, self.comparison(depth))
        return left

    def comparison(self, depth: int) -> Expression:
        left = self.unary(depth)
        if self.peek() not in ("==", "!=", "in"):
            return left
        made = Binary(self.take(), left, self.unary(depth))
        if self.peek() in ("==", "!=", "in"):
            raise _unproven("comparisons in a row")
        return made

    def unary(self, depth: int) -> Expression:
        if self.peek() == "!":
            self.take()
            return Not(self.unary_of(depth + 1))
        return self.primary(depth)

    def unary_of(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise _unproven("nested too deeply")
        return self.unary(depth)

    def primary(self, depth: int) -> Expression:  # noqa: PLR0911 - one answer for each kind of token
        token = self.take()
        match token:
            case "(":
                inner = self.either(depth + 1)
                self.take(")")
                return inner
            case "[":
                return Listing(self.items(depth + 1))
            case "true" | "false" | "null":
                return Const({"true": True, "false": False, "null": None}[token])
            case "has" | "size" if self.peek() == "(":
                return self.call(token, depth)
        if token[0] in "'\"":
            return Const(_text(token))
        if token.lstrip("-").isdigit():
            return Const(int(token))
        if token[0].isalpha() or token[0] == "_":
            return Field(self.path(token))
        raise _unproven(f"{token!a}")

    def items(self, depth: int) -> tuple[Expression, ...]:
        found = []
        while self.peek() != "]":
            found.append(self.either(depth))
            if self.peek() == ",":
                self.take()
            elif self.peek() != "]":
                raise _unproven("a list without its end")
        self.take("]")
        return tuple(found)

    def call(self, name: str, depth: int) -> Expression:
        self.take("(")
        inner = self.either(depth + 1)
        self.take(")")
        if name == "size":
            return Size(inner)
        if not isinstance(inner, Field) or len(inner.path) == 1:
            raise _unproven("has() of something else than a field")
        return Has(inner.path)

    def path(self, first: str) -> Path:
        parts = [first]
        while self.peek() in (".", "["):
            if self.take() == ".":
                name = self.take()
                if not name.isidentifier():
                    raise _unproven(f"{name!a} as a field")
            else:
                name = self.take()
                if name[0] not in "'\"":
                    raise _unproven("an index that is no text")
                name = _text(name)
                self.take("]")
            parts.append(name)
        if self.peek() == "(":
            raise _unproven(f"the function {parts[-1]!a}")
        return tuple(parts)


def _text(token: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if found[0] not in _PLAIN_ESCAPES:
            raise _unproven(f"the escape {found[0]!a}")
        return _PLAIN_ESCAPES[found[0]]

    return re.sub(r"\\.", plain, token[1:-1], flags=re.DOTALL)


def evaluate(  # noqa: PLR0911 - one answer for each kind of expression
    expression: Expression, values: Mapping[str, Any]
) -> Any:
    """Return an expression's value for *values*; `UNKNOWN` where CEL reports an error."""
    match expression:
        case Const(value):
            return value
        case Field(path):
            return _select(path, values)
        case Has(path):
            parent = _select(path[:-1], values)
            return path[-1] in parent if isinstance(parent, dict) else UNKNOWN
        case Listing(items):
            found = [evaluate(item, values) for item in items]
            return UNKNOWN if any(item is UNKNOWN for item in found) else found
        case Size(of):
            value = evaluate(of, values)
            return len(value) if isinstance(value, str | list | dict) else UNKNOWN
        case Not(of):
            value = evaluate(of, values)
            return not value if isinstance(value, bool) else UNKNOWN
        case Binary(sign, left, right):
            return _binary(sign, evaluate(left, values), evaluate(right, values))


def _select(path: Path, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return UNKNOWN
        value = value[name]
    return value


def _binary(sign: str, left: Any, right: Any) -> Any:
    if sign in ("&&", "||"):
        decides = sign == "||"
        if left is decides or right is decides:
            return decides  # an error on the other side does not matter
        return UNKNOWN if left is not (not decides) or right is not (not decides) else not decides
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    if sign == "in":
        if isinstance(right, dict):
            return isinstance(left, str) and left in right
        return any(_equal(left, item) for item in right) if isinstance(right, list) else UNKNOWN
    return _equal(left, right) is (sign == "==")


def _equal(left: Any, right: Any) -> bool:
    """Compare as CEL does: a bool is no number."""
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


def demanded(  # noqa: PLR0911 - one answer for each kind of expression
    expression: Expression, path: Path
) -> frozenset[Any] | None:
    """Return the values of which *path* must have or hold one where the expression is true; None for any."""
    match expression:
        case Binary("&&", left, right):
            one, other = demanded(left, path), demanded(right, path)
            return other if one is None else one if other is None else one & other
        case Binary("||", left, right):
            one, other = demanded(left, path), demanded(right, path)
            return None if one is None or other is None else one | other
        case Binary("==", Field(field), Const(value)) | Binary("==", Const(value), Field(field)) if field == path:
            return frozenset({value})
        case Binary("in", Field(field), Listing(items)) if field == path:
            values = [item.value for item in items if isinstance(item, Const)]
            return frozenset(values) if len(values) == len(items) else None
        case Binary("in", Const(value), Field(field)) if field == path:
            return frozenset({value})
        case Field(field) if field == path:
            return frozenset({True})
        case _:
            return None


def fields(expression: Expression) -> frozenset[Path]:
    """Return every field that the expression looks at."""
    match expression:
        case Field(path) | Has(path):
            return frozenset({path})
        case Listing(items):
            return frozenset[Path]().union(*map(fields, items))
        case Size(of) | Not(of):
            return fields(of)
        case Binary(_, left, right):
            return fields(left) | fields(right)
        case _:
            return frozenset()


def _unproven(what: str) -> IncompleteError:
    return IncompleteError(
        f"condition: more of CEL than is known here: {what}",
        code=UNPROVEN,
        hint="write it with == != && || ! in has() size() and literals",
    )
