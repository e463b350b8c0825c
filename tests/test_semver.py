"""SemVer 2.0.0: what parses, and in which order (sections 2, 9, 10, 11)."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.semver import SemVer

ORDERED = [
    "0.0.0",
    "0.9.10",
    "0.10.0",
    "1.0.0-0",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1-a",
    "2.0.0",
    "10.0.0",
]


@pytest.mark.parametrize(("lower", "higher"), tuple(combinations(ORDERED, 2)))
def test_precedence(lower: str, higher: str) -> None:
    assert SemVer.parse(lower) < SemVer.parse(higher)
    assert SemVer.parse(higher) >= SemVer.parse(lower)
    assert SemVer.parse(lower) != SemVer.parse(higher)


def test_build_metadata_is_ignored() -> None:
    one, other = SemVer.parse("1.2.3+linux.1"), SemVer.parse("1.2.3+42")
    assert one == other
    assert hash(one) == hash(other)
    assert not one < other
    assert str(one) == "1.2.3+linux.1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "v1.2.3",
        "01.2.3",
        "1.02.3",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3-a..b",
        "1.2.3+",
        "1.2.3 ",
        "1.2.3\n",
        "1.2.3.4",
        "-1.2.3",
        "1.2.3-é",
        "\u0661.2.3",
        "1.2.3-" + "a" * 200,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SemVer"):
        SemVer.parse(text)


def test_is_not_ordered_against_other_types() -> None:
    version = SemVer.parse("1.0.0")
    assert version != "1.0.0"
    with pytest.raises(TypeError):
        _ = version < "1.0.0"


numbers = st.integers(min_value=0, max_value=10**9)
parts = st.one_of(numbers.map(str), st.from_regex(r"[0-9]*[A-Za-z-][0-9A-Za-z-]{0,5}", fullmatch=True))


@pytest.mark.fuzz
@given(numbers, numbers, numbers, st.lists(parts, max_size=3))
def test_round_trip(major: int, minor: int, patch: int, prerelease: list[str]) -> None:
    text = f"{major}.{minor}.{patch}" + ("-" + ".".join(prerelease) if prerelease else "")
    assert str(SemVer.parse(text)) == text
