"""JSON for files that are signed or decide something: RFC 8259, read one way only.

Python's reader merges repeated names and takes NaN; this one refuses both, and
bounds size, nesting and integers before a value is built.
"""

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from ephemeralml.errors import MalformedError

MAX_DEPTH = 64
"""Nesting of arrays and objects."""

_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
# A string is swallowed whole and never looked at twice, closed or not, so that
# the scan stays linear; one that is not closed is json's to refuse.
_SURROGATE = re.compile("[\ud800-\udfff]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise MalformedError(f"JSON repeats the name {repeated[:64]!a}")
    return result


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= (value := int(digits)) < 1 << 64:
        raise MalformedError("JSON integer beyond 64 bits")
    return value


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise MalformedError("JSON number beyond a double")
    return value


def _constant(name: str) -> NoReturn:
    raise MalformedError(f"JSON has no {name}")


def _depth_exceeded(text: str) -> bool:
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        match text[match.start()]:
            case "[" | "{":
                depth += 1
                if depth > MAX_DEPTH:
                    return True
            case "]" | "}":
                depth -= 1
    return False


def parse(data: bytes, *, max_bytes: int) -> Any:
    """Read one JSON document.

    Raises:
        MalformedError: Not UTF-8 JSON, over *max_bytes*, nested deeper than 64,
            a repeated name, NaN or an infinity (1e999 too), an integer beyond
            64 bits, or a lone surrogate.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"JSON of {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("JSON is not UTF-8") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth_exceeded(text):
        raise MalformedError(f"JSON nested deeper than {MAX_DEPTH}")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def parse_object(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Read one JSON document that is an object; errors as `parse`."""
    value = parse(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise MalformedError("JSON is not an object")
    return value


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise MalformedError("JSON text with a lone surrogate")
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_surrogates(name)
            _refuse_surrogates(item)
