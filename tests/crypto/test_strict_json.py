"""JSON with one reading only."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError

LIMIT = 4 << 20

REFUSED = {
    "nothing": b"",
    "white space": b" \n",
    "bare word": b"yes",
    "trailing comma": b"[1,]",
    "trailing bytes": b"{} {}",
    "single quotes": b"{'a': 1}",
    "comment": b"{} // no",
    "leading zero": b"01",
    "plus sign": b"+1",
    "hexadecimal": b"0x10",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "not UTF-8": b'"\xff"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "NUL": b"{}\0",
    "newline in a text": b'"a\nb"',
    "unknown escape": rb'"\x41"',
    "repeated name": b'{"a": 1, "b": 2, "a": 1}',
    "repeated name, escaped": rb'{"a": 1, "\u0061": 1}',
    "repeated name, deep": b'[{"x": {"a": 1, "a": 2}}]',
    "NaN": b"NaN",
    "infinity": b"[Infinity]",
    "minus infinity": b'{"a": -Infinity}',
    "number beyond a double": b"1e999",
    "minus such": b"[-1e999]",
    "integer beyond 64 bits": b"18446744073709551616",
    "negative beyond 64 bits": b"-9223372036854775809",
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'["\udc00"]',
    "surrogate in a name": rb'{"\ud800": 1}',
    "surrogate deep": rb'{"a": [{"b": "\ud800"}]}',
    "unclosed": b'{"a": [',
    "unclosed text": b'"abc',
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="JSON"):
        strict_json.parse(data, max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"null", None),
        (b' {"a" : [1, -2, 1.5, true, false, null, "x"]} ', {"a": [1, -2, 1.5, True, False, None, "x"]}),
        (b"18446744073709551615", (1 << 64) - 1),
        (b"-9223372036854775808", -(1 << 63)),
        (b"1e3", 1000.0),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        ('"ü"'.encode(), "ü"),
        (b'{"a": {"a": {"a": 1}}}', {"a": {"a": {"a": 1}}}),
    ],
)
def test_accepted(data: bytes, value: Any) -> None:
    parsed = strict_json.parse(data, max_bytes=LIMIT)
    assert parsed == value
    assert type(parsed) is type(value)


def test_repeated_name_is_named_and_escaped() -> None:
    with pytest.raises(MalformedError, match=r"'\\x1b\[31m'"):
        strict_json.parse(rb'{"\u001b[31m": 1, "b": 0, "\u001b[31m": 1}', max_bytes=LIMIT)


def test_size_limit() -> None:
    assert strict_json.parse(b"[1]", max_bytes=3) == [1]
    with pytest.raises(MalformedError, match="3 bytes, at most 2"):
        strict_json.parse(b"[1]", max_bytes=2)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":', b"}]")])
def test_depth_limit(opening: bytes, closing: bytes) -> None:
    levels = 64 // len(closing)
    strict_json.parse(opening * levels + b"0" + closing * levels, max_bytes=LIMIT)
    for count in (levels + 1, 100_000):
        with pytest.raises(MalformedError, match="deeper than 64"):
            strict_json.parse(opening * count, max_bytes=LIMIT)


def test_depth_is_not_the_number_of_brackets() -> None:
    siblings = b"[" * 63 + b",".join([b"[]"] * 100) + b"]" * 63
    strict_json.parse(siblings, max_bytes=LIMIT)
    with pytest.raises(MalformedError, match="deeper than 64"):
        strict_json.parse(siblings.replace(b"[]", b"[[]]", 1), max_bytes=LIMIT)


@pytest.mark.parametrize("text", ["[" * 100, '\\"' + "[" * 100, "\\\\" + "{" * 100, "]" * 50 + "[" * 90])
def test_brackets_in_texts_do_not_nest(text: str) -> None:
    data = json.dumps([text.encode().decode("unicode_escape"), text]).encode()
    assert len(strict_json.parse(data, max_bytes=LIMIT)) == 2


def test_objects_alone() -> None:
    assert strict_json.parse_object(b'{"a": 1}', max_bytes=LIMIT) == {"a": 1}
    for data in (b"[]", b"1", b"null", b'"{}"'):
        with pytest.raises(MalformedError, match="not an object"):
            strict_json.parse_object(data, max_bytes=LIMIT)


HOSTILE = {
    "many names, the last repeated": b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b',"99999":1}',
    "unclosed text of escaped quotes": b'["' + b'\\"' * 500_000 + b"[" * 100,
    "backslashes": b'"' + b"\\" * 1_000_000 + b"[" * 100,
    "digits": b"1" * 1_000_000,
    "quotes": b'"' * 1_000_000,
    "alternating": b'["",' * 200_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_costs_little(data: bytes) -> None:
    before = time.process_time()
    with pytest.raises(MalformedError):
        strict_json.parse(data, max_bytes=LIMIT)
    assert time.process_time() - before < 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=15,
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read(value: Any, escaped: bool) -> None:
    assert strict_json.parse(json.dumps(value, ensure_ascii=escaped).encode(), max_bytes=LIMIT) == value


@pytest.mark.fuzz
@given(VALUES, st.data())
def test_only_our_error_leaves(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        text[start : start + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"[", b"{", b"\\ud800", b"NaN", b"1e999", b","]))
        )
    try:
        parsed = strict_json.parse(bytes(text), max_bytes=LIMIT)
    except MalformedError:
        return
    assert parsed == json.loads(text)
