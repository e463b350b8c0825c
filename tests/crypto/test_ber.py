"""The bounded BER reader (X.690, section 8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import ber
from ephemeralml.crypto.ber import Element
from ephemeralml.errors import MalformedError

OCTETS = bytes.fromhex("0401aa")
ONE = Element(ber.OCTET_STRING, b"\xaa")


def refused(data: bytes, why: str, **bounds: int) -> None:
    with pytest.raises(MalformedError, match=why):
        ber.read(data, **bounds)


@pytest.mark.parametrize(
    ("encoded", "element"),
    [
        ("0401aa", ONE),
        ("048101aa", ONE),
        ("04820001aa", ONE),
        ("048400000001aa", ONE),
        ("0500", Element(ber.NULL)),
        ("3000", Element(ber.SEQUENCE)),
        ("30800000", Element(ber.SEQUENCE)),
        ("30030401aa", Element(ber.SEQUENCE, children=(ONE,))),
        ("30800401aa0000", Element(ber.SEQUENCE, children=(ONE,))),
        ("308030800401aa00000401aa0000", Element(0x30, children=(Element(0x30, children=(ONE,)), ONE))),
        ("300730800401aa0000", Element(0x30, children=(Element(0x30, children=(ONE,)),))),
        ("308030030401aa0000", Element(0x30, children=(Element(0x30, children=(ONE,)),))),
        ("8002beef", Element(0x80, b"\xbe\xef")),
        ("04020000", Element(0x04, b"\0\0")),
        ("fe030101ff", Element(0xFE, children=(Element(0x01, b"\xff"),))),
    ],
)
def test_both_forms_of_length(encoded: str, element: Element) -> None:
    assert ber.read(bytes.fromhex(encoded)) == element


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "ends too early"),
        ("04", "ends too early"),
        ("0482", "ends too early"),
        ("048200", "ends too early"),
        ("0402aa", "longer than what is left"),
        ("0484ffffffff", "longer than what is left"),
        ("04850000000001aa", "length in 5 octets"),
        ("04ff", "length in 127 octets"),
        ("30800401aa", "ends too early"),
        ("30800401aa00", "end-of-contents where"),
        ("30800401aa0001", "end-of-contents where"),
        ("30020000", "end-of-contents where"),
        ("0000", "end-of-contents where"),
        ("30080401aa30800401", "longer than what is left"),
        ("300530800401aa0000", "ends too early"),
        ("04800401aa0000", "indefinite length on a primitive"),
        ("0401aa00", "1 bytes after the end"),
        ("308000000000", "2 bytes after the end"),
        ("1f810100", "tag number above 30"),
        ("3f810100", "tag number above 30"),
        ("30040402aa", "longer than what is left"),
    ],
)
def test_what_is_refused(encoded: str, why: str) -> None:
    refused(bytes.fromhex(encoded), why)


def test_an_inner_element_ends_within_the_outer() -> None:
    refused(bytes.fromhex("30040403aabb"), "longer than what is left")
    refused(bytes.fromhex("300330800000"), "end-of-contents where")


@pytest.mark.parametrize("encode", [ber.encode, ber.encode_indefinite])
def test_depth(encode: object) -> None:
    def deep(levels: int) -> bytes:
        data = OCTETS
        for _ in range(levels - 1):
            data = encode(ber.SEQUENCE, data)  # type: ignore[operator]
        return data

    assert ber.read(deep(12)).constructed
    refused(deep(13), "deeper than 12")
    refused(deep(3), "deeper than 2", max_depth=2)
    refused(deep(2_000), "deeper than 12")


def test_size() -> None:
    data = ber.encode(ber.OCTET_STRING, bytes(16_380))
    assert len(data) == 16_384
    assert len(ber.read(data).content) == 16_380
    refused(data + b"\0", "16385 bytes, at most 16384")
    refused(OCTETS, "at most 2", max_bytes=2)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536])
def test_lengths_are_written_as_der(size: int) -> None:
    data = ber.encode(ber.OCTET_STRING, bytes(size))
    assert ber.read(data, max_bytes=1 << 20) == Element(ber.OCTET_STRING, bytes(size))
    assert len(data) - size == 2 if size < 128 else data[1] & 0x7F == (size.bit_length() + 7) // 8


elements = st.recursive(
    st.builds(Element, st.sampled_from([2, 4, 5, 6, 0x80, 0x9E]), st.binary(max_size=40)),
    lambda inner: st.builds(
        lambda tag, children: Element(tag, children=tuple(children)),
        st.sampled_from([0x24, 0x30, 0x31, 0xA0, 0xBE]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


def written(element: Element, choose: st.DataObject) -> bytes:
    if not element.constructed:
        return ber.encode(element.tag, element.content)
    encode = choose.draw(st.sampled_from([ber.encode, ber.encode_indefinite]))
    return encode(element.tag, *(written(child, choose) for child in element.children))


@pytest.mark.fuzz
@given(elements, st.data())
def test_what_is_written_in_either_form_is_read_again(element: Element, choose: st.DataObject) -> None:
    assert ber.read(written(element, choose), max_depth=64) == element


@pytest.mark.fuzz
@given(st.binary(max_size=200) | st.lists(st.sampled_from([0, 1, 2, 4, 0x30, 0x80, 0x81, 0x84, 0xA0, 0xFF])).map(bytes))
def test_noise_gives_only_our_errors(noise: bytes) -> None:
    try:
        element = ber.read(noise)
    except MalformedError:
        return
    assert element.tag == noise[0]
