"""The sidecar: strict to read, recomputable, and never believed (attestation section 1)."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.evidence import Format
from ephemeralml.attestation.sidecar import BindingInputs, Sidecar, parse
from ephemeralml.errors import MalformedError
from tests.fakes.nitro import NONCE, RECEIPT_KEY

INPUTS = BindingInputs(b"hello", 3, bytes(16), b"k" * 1_216, b"identity", b"limits")
BARE = Sidecar(Format.NITRO, b"\x0d" * 32, RECEIPT_KEY)
FULL = Sidecar(
    Format.LOCAL,
    b"\x0d" * 32,
    RECEIPT_KEY,
    channel_binding=INPUTS.channel_binding(RECEIPT_KEY),
    nonce=NONCE,
    binding_inputs=INPUTS,
    endorsements={"nvidia-gpu": b"[]"},
    verdict="verified",
    request_hash=b"\x01" * 32,
    response_hash=b"\x02" * 32,
)


@pytest.mark.parametrize("sidecar", [BARE, FULL])
def test_round_trip(sidecar: Sidecar) -> None:
    assert parse(sidecar.encode()) == sidecar


def test_hashes_and_keys_are_hex_and_other_bytes_base64() -> None:
    document = json.loads(FULL.encode())
    assert document["schema"] == "ephemeralml.evidence/1"
    assert document["receipt_public_key"] == "22" * 32
    assert document["nonce"] == "MzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzM="
    assert document["binding_inputs"]["kem_public_key"] == "6b" * 1_216
    assert document["binding_inputs"]["client_hello"] == "aGVsbG8="


def test_the_binding_is_recomputed_from_its_inputs() -> None:
    without = replace(FULL, channel_binding=None)
    assert without.recomputed
    assert without.expected().channel_binding == INPUTS.channel_binding(RECEIPT_KEY)
    assert FULL.expected().nonce == NONCE


def test_a_binding_without_its_inputs_is_only_compared() -> None:
    stated = replace(BARE, channel_binding=b"\x44" * 32)
    assert not stated.recomputed
    assert stated.expected().channel_binding == b"\x44" * 32
    assert BARE.expected().channel_binding is None


@pytest.mark.parametrize(
    "changed",
    [
        replace(FULL, channel_binding=b"\x44" * 32),
        replace(FULL, receipt_public_key=b"\x23" * 32),
        replace(FULL, binding_inputs=replace(INPUTS, suite=1)),
        replace(FULL, binding_inputs=replace(INPUTS, limits=b"other")),
    ],
)
def test_a_binding_that_is_not_that_of_its_inputs(changed: Sidecar) -> None:
    with pytest.raises(MalformedError):
        changed.expected()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "ephemeralml.evidence/2"),
        ("schema", ...),
        ("format", "sgx"),
        ("format", ...),
        ("document_sha256", "0d" * 31),
        ("document_sha256", "0D" * 32),
        ("document_sha256", ...),
        ("receipt_public_key", "22" * 33),
        ("receipt_public_key", 5),
        ("channel_binding", "44" * 31),
        ("channel_binding", ""),
        ("nonce", "not base64"),
        ("nonce", "MzM"),
        ("nonce", "MzN="),
        ("nonce", 5),
        ("verdict", "x" * 33),
        ("verdict", 1),
        ("request_hash", "zz" * 32),
        ("response_hash", []),
        ("endorsements", []),
        ("endorsements", {"x": 5}),
        ("endorsements", {"x" * 65: ""}),
        ("endorsements", {f"n{number}": "" for number in range(17)}),
        ("binding_inputs", []),
        ("binding_inputs", {}),
        ("binding_inputs.suite", "3"),
        ("binding_inputs.suite", 65_536),
        ("binding_inputs.suite", True),
        ("binding_inputs.session_id", None),
        ("binding_inputs.kem_public_key", "6b6"),
        ("binding_inputs.extra", 1),
        ("extra", 1),
    ],
)
def test_a_field_is_not_as_it_must_be(path: str, value: Any) -> None:
    document = json.loads(FULL.encode())
    *parents, name = path.split(".")
    target = document
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    with pytest.raises(MalformedError):
        parse(json.dumps(document).encode())


@pytest.mark.fuzz
@given(
    st.one_of(st.binary(max_size=500), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
)
def test_only_our_errors(data: bytes | str) -> None:
    try:
        parse(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    except MalformedError:
        return


@pytest.mark.fuzz
@given(st.integers(0, len(FULL.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_sidecar_or_our_error(position: int, mask: int) -> None:
    data = bytearray(FULL.encode())
    data[position] ^= mask
    try:
        parse(bytes(data)).expected()
    except MalformedError:
        return
