"""Whatever the bytes, only our errors leave these parsers, soon and in little memory."""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.evidence import AppraisalTime, Format
from ephemeralml.attestation.nitro.document import parse
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import VENDOR_DIGESTS
from ephemeralml.attestation.verdict import Verdict
from ephemeralml.crypto import cbor
from ephemeralml.errors import EphemeralError, MalformedError
from tests.fakes.nitro import AT, PCRS, check, entry, policy_bytes, policy_document, workshop

VENDOR = workshop()
DOCUMENT = VENDOR.document()
POLICY = policy_document(nitro={"roots": ["aws"], "allow": [entry()]})
PREFIX = DOCUMENT[:7]


@pytest.mark.fuzz
@given(st.one_of(st.binary(max_size=2_000), st.binary(max_size=2_000).map(lambda tail: PREFIX + tail)))
def test_a_document_of_any_bytes(document: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(document)


@pytest.mark.fuzz
@given(
    st.lists(st.tuples(st.integers(0, len(DOCUMENT) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 64),
    st.binary(max_size=8),
)
def test_a_document_with_changed_bytes_never_verifies(changes: list[tuple[int, int]], cut: int, tail: bytes) -> None:
    document = bytearray(DOCUMENT)
    for position, value in changes:
        document[position] = value
    changed = bytes(document[: len(document) - cut]) + tail
    appraisal = check(changed).run()
    assert (appraisal.verdict is Verdict.VERIFIED) is (changed == DOCUMENT)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.binary(max_size=60),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.integers(0, 40), st.text(max_size=6)), inner, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.fuzz
@given(
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(VENDOR.payload())), st.text(max_size=10)), values, min_size=1, max_size=4
    )
)
def test_a_signed_payload_with_any_values(changes: dict[str, Any]) -> None:
    document = VENDOR.sign(cbor.encode(VENDOR.payload() | changes))
    for at, live in ((AppraisalTime.now(AT), True), (AppraisalTime.of_document(), False)):
        appraisal = check(document, at=at, live=live).run()
        assert appraisal.rows
        try:
            appraisal.require()
        except EphemeralError:
            continue


def mutated_policies() -> st.SearchStrategy[dict[str, Any]]:
    anything = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=8,
    )
    names = st.one_of(
        st.sampled_from(sorted(POLICY)), st.sampled_from(["tdx", "transparency", "debug"]), st.text(max_size=8)
    )
    sections = st.dictionaries(st.sampled_from(["roots", "allow", "revocation", "x"]), anything, max_size=3)
    return st.dictionaries(names, st.one_of(anything, sections), min_size=1, max_size=3).map(lambda some: POLICY | some)


@pytest.mark.fuzz
@given(mutated_policies())
def test_a_policy_with_any_values(document: dict[str, Any]) -> None:
    try:
        accepted = Policy.parse(policy_bytes(document), now=AT)
    except EphemeralError:
        return
    assert accepted.formats in ((Format.NITRO,), (Format.LOCAL,))
    assert accepted.models.allow or accepted.models.publisher_keys
    assert all(section.allow for name, section in accepted.sections.items() if name is Format.NITRO)
    assert accepted.nitro is None or accepted.nitro.roots.digests <= VENDOR_DIGESTS


@pytest.mark.fuzz
@given(st.one_of(st.binary(max_size=600), st.text(max_size=200).map(json.dumps).map(str.encode)))
def test_a_policy_of_any_bytes(data: bytes) -> None:
    with pytest.raises(EphemeralError):
        Policy.parse(data, now=AT)


@pytest.mark.fuzz
@given(st.integers(0, len(policy_bytes(POLICY)) - 1), st.integers(1, 255))
def test_a_policy_with_a_changed_byte(position: int, mask: int) -> None:
    data = bytearray(policy_bytes(POLICY))
    data[position] ^= mask
    try:
        Policy.parse(bytes(data), now=AT)
    except EphemeralError:
        return


@pytest.mark.parametrize(
    "document",
    [
        PREFIX + b"\x5b" + (1 << 40).to_bytes(8, "big"),
        PREFIX + b"\x9b" + (1 << 40).to_bytes(8, "big"),
        b"\x9b" + (1 << 62).to_bytes(8, "big"),
        b"\x81" * 32_768,
        VENDOR.sign(b"\xbb" + (1 << 40).to_bytes(8, "big")),
        VENDOR.sign(b"\xa1" * 16_000),
        VENDOR.sign(b"\xbf" + b"\x61a\x00" * 5_000 + b"\xff"),
        VENDOR.document(cabundle=[VENDOR.root.der] * 8, pcrs={index: bytes(48) for index in range(32)} | PCRS),
    ],
)
def test_declared_lengths_and_depths_cost_nothing(document: bytes) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    try:
        parse(document)
    except MalformedError:
        pass
    finally:
        spent, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert spent < 2
    assert peak < 8 * 1024 * 1024
