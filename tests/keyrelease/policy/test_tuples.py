"""Tuple files: what our own commands print, entries of client policies, and nothing that fixes no image."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.tuples import ONE_RAMDISK_PCR2, parse_tuples, signer_tuple

REGISTERS = {f"pcr{index}": f"{index}a" * 48 for index in (0, 1, 2)}
NONE = object()


def tuples(document: Any) -> Any:
    return parse_tuples(json.dumps(document).encode(), name="file")


def test_an_entry_of_a_client_policy() -> None:
    (one,) = tuples(REGISTERS | {"name": "runtime 1", "until": "2027-01-01T00:00:00Z", "pcr3": "3a" * 48})
    assert one.name == "runtime 1"
    assert one.to_json() == REGISTERS | {"name": "runtime 1", "until": "2027-01-01T00:00:00Z", "pcr3": "3a" * 48}


def test_what_measure_and_describe_print() -> None:
    measured = {
        "attester": "nsm",
        "measurements": REGISTERS | {"pcr3": "3a" * 48, "pcr4": "4a" * 48, "pcr8": "00" * 48},
    }
    (one,) = tuples(measured)
    assert (one.name, sorted(one.registers)) == ("file", [0, 1, 2])
    (signed,) = tuples({"measurements": REGISTERS | {"pcr8": "8a" * 48}})
    assert sorted(signed.registers) == [0, 1, 2, 8]


def test_a_list_of_entries() -> None:
    found = tuples([REGISTERS, REGISTERS | {"name": "second"}])
    assert [one.name for one in found] == ["file 1", "second"]


def test_any_image_of_one_signer() -> None:
    (one,) = tuples({"pcr8": "8a" * 48, "signer_only": True})
    assert one.signer_only
    (image,) = tuples(REGISTERS | {"pcr8": "8a" * 48})
    assert signer_tuple(image).to_json() == {"name": "file", "pcr8": "8a" * 48, "signer_only": True}
    with pytest.raises(MalformedError, match="not signed"):
        signer_tuple(tuples(REGISTERS)[0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pcr1": NONE}, "missing"),
        ({"pcr0": "00" * 48}, "zero"),
        ({"pcr8": "00" * 48}, "zero"),
        ({"pcr2": ONE_RAMDISK_PCR2}, "one ramdisk"),
        ({"pcr0": "0A" * 48}, "lower-case"),
        ({"pcr0": "0a" * 32}, "96"),
        ({"pcr0": 7}, "96"),
        ({"pcr5": "5a" * 48}, "unknown"),
        ({"name": ""}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"until": "tomorrow"}, "until"),
        ({"until": 5}, "until"),
        ({"signer_only": True}, "signer_only"),
        ({"signer_only": "yes"}, "signer_only"),
    ],
)
def test_what_is_no_tuple(change: dict[str, Any], why: str) -> None:
    entry = {name: value for name, value in (REGISTERS | change).items() if value is not NONE}
    with pytest.raises(MalformedError, match=why):
        tuples(entry)


@pytest.mark.parametrize("document", [[], 5, [5], {}, [REGISTERS] * 17, {"measurements": []}, {"measurements": {}}])
def test_what_is_no_tuple_file(document: Any) -> None:
    with pytest.raises(MalformedError):
        tuples(document)


@pytest.mark.fuzz
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from([*REGISTERS, "pcr8", "name", "until", "measurements"]),
        st.text("0a", min_size=96, max_size=96) | st.none() | st.text(),
    ).map(lambda value: json.dumps(value).encode())
)
def test_only_our_errors_leave_the_reader(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_tuples(data, name="x")
