"""What this enclave measures, and comparing it (nitro-platform section 3)."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.enclave import measured
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.errors import EphemeralError, MalformedError
from tests.fakes.booted_runtime import config_source

CONFIG = RuntimeConfig.parse(config_source())


def expected(**registers: Any) -> bytes:
    return json.dumps({"measurements": registers}).encode()


def test_a_software_tee_is_computed(tmp_path: Path) -> None:
    alone = measured.registers(CONFIG, authority=None)
    assert set(alone) == {"pcr0", "pcr1", "pcr2", "pcr3"}
    root = Authority.create(tmp_path / "authority")
    full = measured.registers(CONFIG, authority=tmp_path / "authority")
    assert full == {f"pcr{index}": value for index, value in measure(CONFIG.source, root.id).items()}


def test_another_byte_of_configuration_is_another_measurement() -> None:
    other = RuntimeConfig.parse(config_source() + b"\n")
    here, there = (measured.registers(config, authority=None) for config in (CONFIG, other))
    assert here["pcr0"] != there["pcr0"]
    assert here["pcr2"] != there["pcr2"]
    assert here["pcr1"] == there["pcr1"]


def test_every_difference_is_listed() -> None:
    actual = {"pcr0": b"\x01" * 48, "pcr1": b"\x02" * 48}
    wanted = measured.parse_expected(expected(pcr0="01" * 48, pcr1="03" * 48, pcr8="04" * 48, pcr4=None))
    found = measured.differences(actual, wanted)
    assert [(item.slot, item.actual) for item in found] == [("pcr1", "02" * 48), ("pcr8", None)]
    assert measured.differences(actual, measured.parse_expected(expected(pcr0="01" * 48))) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"measurements": []}',
        expected(),
        expected(pcr0=None),
        expected(pcr0="01" * 47),
        expected(pcr0="0G" * 48),
        expected(pcr0="AB" * 48),
        expected(pcr32="01" * 48),
        expected(mrtd="01" * 48),
        expected(pcr0=1),
    ],
)
def test_a_file_that_expects_nothing_readable(data: bytes) -> None:
    with pytest.raises(MalformedError):
        measured.parse_expected(data)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_only_our_errors_leave_the_parser(data: bytes) -> None:
    try:
        assert measured.parse_expected(data)
    except EphemeralError:
        return
