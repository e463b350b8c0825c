"""Rules over registers: all equal, one of several, all of several."""

from datetime import timedelta

import pytest

from ephemeralml.attestation.measurements import AllOf, AnyOf, RegisterTuple
from ephemeralml.errors import MalformedError
from tests.fakes.nitro import AT

ONE = RegisterTuple("one", {"a": b"\x01" * 48, "b": b"\x02" * 48})
TWO = RegisterTuple("two", {"a": b"\x03" * 48, "b": b"\x04" * 48, "c": b"\x05" * 48})


def names(found) -> list[tuple[str, str]]:
    return [(item.entry, item.register) for item in found]


def test_a_tuple() -> None:
    assert ONE.differences({"a": b"\x01" * 48, "b": b"\x02" * 48, "c": b"\x09" * 48}, AT) == ()
    assert names(ONE.differences({"a": b"\x01" * 48}, AT)) == [("one", "b")]


def test_any_of_is_silent_when_one_rule_is() -> None:
    either = AnyOf((ONE, TWO))
    assert either.differences(dict(TWO.registers), AT) == ()
    assert names(either.differences({"a": b"\x03" * 48, "b": b"\x04" * 48}, AT)) == [("two", "c")]


def test_all_of_reports_everything() -> None:
    assert names(AllOf((ONE, TWO)).differences({"a": b"\x01" * 48, "b": b"\x02" * 48}, AT)) == [
        ("two", "a"),
        ("two", "b"),
        ("two", "c"),
    ]


def test_rules_nest() -> None:
    both = AllOf((AnyOf((ONE, TWO)), RegisterTuple("role", {"c": b"\x05" * 48})))
    assert both.differences(dict(TWO.registers), AT) == ()
    assert names(both.differences(dict(ONE.registers), AT)) == [("role", "c")]


def test_the_end_of_an_entry_is_a_difference() -> None:
    ending = RegisterTuple("old", dict(ONE.registers), until=AT)
    assert ending.differences(dict(ONE.registers), AT - timedelta(microseconds=1)) == ()
    assert names(ending.differences(dict(ONE.registers), AT)) == [("old", "until")]


@pytest.mark.parametrize("make", [lambda: AnyOf(()), lambda: AllOf(()), lambda: RegisterTuple("none", {})])
def test_an_empty_rule_cannot_be_made(make) -> None:
    with pytest.raises(MalformedError) as caught:
        make()
    assert caught.value.code == "POLICY_EMPTY"
