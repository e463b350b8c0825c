"""The CEL subset: values, errors that are absorbed, what an expression demands, and what is unproven."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import IncompleteError
from ephemeralml.keyrelease.policy import cel

VALUES = {"a": {"name": "x", "n": 3, "yes": True, "list": ["p", "q"], "map": {"k": "v"}, "one": 1}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.name == 'x'", True),
        ('a.name != "x"', False),
        ("a.n == 3 && a.yes == true", True),
        ("a.n == -3 || 'p' in a.list", True),
        ("!('z' in a.list)", True),
        ("!!a.yes", True),
        ("a.name in ['w', 'x']", True),
        ("a.name in []", False),
        ("has(a.map.k) && !has(a.map.z)", True),
        ("size(a.list) == 2", True),
        ("size(a.name) == 1", True),
        ("a['map'][\"k\"] == 'v'", True),
        ("'k' in a.map", True),
        ("a.one == true", False),
        ("a.none == null || true", True),
        ("false && a.none == 'x'", False),
        ("a.none == 'x' && false", False),
        ("a.none == 'x' || a.yes", True),
        ("a.none == 'x'", cel.UNKNOWN),
        ("a.none == 'x' && true", cel.UNKNOWN),
        ("!a.name", cel.UNKNOWN),
        ("a.name && true", cel.UNKNOWN),
        ("has(a.none.k)", cel.UNKNOWN),
        ("size(a.n) == 1", cel.UNKNOWN),
        ("'x' in a.n", cel.UNKNOWN),
        ("a.name == 'it\\'s' || \"\\\\\" == '\\\\'", True),
        ("(true || true) && false", False),
        ("true || true && false", True),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert cel.evaluate(cel.parse(text), VALUES) is value


@pytest.mark.parametrize(
    "text",
    [
        *("", "a ==", "a.b.startsWith('x')", "a.matches('x')", "a < 3", "a + b == c", "a ? b : c", "[1, 2", "(a", "a)"),
        *("'a", "r'x' == a", "1.5 == a", "a == 'x' == true", "has(a)", "has('x')", "a[0] == 1", "a.1", "'\\n' == a"),
        *("a.list.exists(x, x == 'p')", "a == 1u", "a" * 5_000, "(" * 50 + "a" + ")" * 50, "!" * 50 + "a"),
    ],
)
def test_more_of_cel_is_unproven(text: str) -> None:
    with pytest.raises(IncompleteError):
        cel.parse(text)


@pytest.mark.parametrize(
    ("text", "demanded"),
    [
        ("a.b == 'x'", {"x"}),
        ("'x' == a.b", {"x"}),
        ("a.b in ['x', 'y'] && a.c", {"x", "y"}),
        ("a.b in ['x', 'y'] && a.b in ['y', 'z']", {"y"}),
        ("a.b == 'x' || a.b == 'y'", {"x", "y"}),
        ("'x' in a.b", {"x"}),
        ("a.b", {True}),
        ("a.b == 'x' || a.c == 'y'", None),
        ("a.b != 'x'", None),
        ("!(a.b == 'x')", None),
        ("a.b in [a.c]", None),
        ("has(a.b)", None),
        ("a.c == 'x'", None),
    ],
)
def test_what_an_expression_demands_of_a_field(text: str, demanded: set[Any] | None) -> None:
    found = cel.demanded(cel.parse(text), ("a", "b"))
    assert found == (frozenset(demanded) if demanded is not None else None)


expressions = st.recursive(
    st.sampled_from(
        ["a.b == 'x'", "a.b == 'y'", "a.b in ['x', 'z']", "a.c == 'x'", "'x' in a.list", "a.none == 'x'", "true"]
    ),
    lambda inner: (
        st.builds("({} && {})".format, inner, inner)
        | st.builds("({} || {})".format, inner, inner)
        | st.builds("!{}".format, inner.map(lambda text: f"({text})"))
    ),
    max_leaves=8,
)


@pytest.mark.fuzz
@given(expressions, st.sampled_from("wxyz"), st.sampled_from("xy"), st.lists(st.sampled_from("xy"), max_size=2))
def test_what_is_demanded_is_so_wherever_the_expression_is_true(text: str, b: str, c: str, listed: list[str]) -> None:
    expression = cel.parse(text)
    if cel.evaluate(expression, {"a": {"b": b, "c": c, "list": listed}}) is True:
        demanded = cel.demanded(expression, ("a", "b"))
        assert demanded is None or b in demanded


@pytest.mark.fuzz
@given(st.text("a.'\"()[]!=&|, in_has1\\", max_size=60) | st.text(max_size=40))
def test_only_our_errors_leave_the_reader(text: str) -> None:
    with contextlib.suppress(IncompleteError):
        cel.evaluate(cel.parse(text), VALUES)


def test_a_long_row_is_no_deep_nest() -> None:
    longest = cel.parse("a&&" * 299 + "a")
    assert cel.demanded(longest, ("a",)) == {True}
    assert len(cel.fields(longest)) == 1
    assert cel.evaluate(longest, {"a": True}) is True
    for sign in ("&&", "||"):
        with pytest.raises(IncompleteError):
            cel.parse(f"a{sign}" * 1_300 + "a")
