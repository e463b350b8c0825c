"""Deterministic CBOR: examples of RFC 8949, appendix A, and everything that has to be refused."""

import itertools
import math
import time
import tracemalloc
from types import MappingProxyType
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import cbor
from ephemeralml.crypto.cbor import CborError, Pairs, Simple, Tag

LIMIT = 1 << 20

DETERMINISTIC = [
    ("00", 0),
    ("01", 1),
    ("0a", 10),
    ("17", 23),
    ("1818", 24),
    ("1819", 25),
    ("1864", 100),
    ("1903e8", 1_000),
    ("1a000f4240", 1_000_000),
    ("1b000000e8d4a51000", 1_000_000_000_000),
    ("1bffffffffffffffff", (1 << 64) - 1),
    ("3bffffffffffffffff", -(1 << 64)),
    ("20", -1),
    ("29", -10),
    ("3863", -100),
    ("3903e7", -1_000),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\1\2\3\4"),
    ("60", ""),
    ("6161", "a"),
    ("6449455446", "IETF"),
    ("62225c", '"\\'),
    ("62c3bc", "ü"),
    ("63e6b0b4", "水"),
    ("64f0908591", "\U00010151"),
    ("80", ()),
    ("83010203", (1, 2, 3)),
    ("8301820203820405", (1, (2, 3), (4, 5))),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", tuple(range(1, 26))),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": (2, 3)}),
    ("826161a161626163", ("a", {"b": "c"})),
    ("a56161614161626142616361436164614461656145", {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}),
    ("c11a514b67b0", Tag(1, 1_363_896_240)),
    ("d74401020304", Tag(23, b"\1\2\3\4")),
    ("d818456449455446", Tag(24, b"dIETF")),
    ("d82076687474703a2f2f7777772e6578616d706c652e636f6d", Tag(32, "http://www.example.com")),
]

WELL_FORMED_ONLY = [
    ("f93e00", 1.5),
    ("f97bff", 65504.0),
    ("fa47c35000", 100_000.0),
    ("fb3ff199999999999a", 1.1),
    ("f97c00", float("inf")),
    ("f7", Simple(23)),
    ("f0", Simple(16)),
    ("f8ff", Simple(255)),
    ("f820", Simple(32)),
    ("5f42010243030405ff", b"\1\2\3\4\5"),
    ("5fff", b""),
    ("7f657374726561646d696e67ff", "streaming"),
    ("9fff", ()),
    ("9f018202039f0405ffff", (1, (2, 3), (4, 5))),
    ("83018202039f0405ff", (1, (2, 3), (4, 5))),
    ("bf61610161629f0203ffff", Pairs((("a", 1), ("b", (2, 3))))),
    ("bf6346756ef563416d7421ff", Pairs((("Fun", True), ("Amt", -2)))),
    ("a203040102", Pairs(((3, 4), (1, 2)))),
    ("a201020103", Pairs(((1, 2), (1, 3)))),
    ("a1800a", Pairs((((), 10),))),
    ("a1f600", Pairs(((None, 0),))),
    ("1800", 0),
    ("190017", 23),
    ("1900ff", 255),
    ("1a0000ffff", 65_535),
    ("1b00000000ffffffff", (1 << 32) - 1),
    ("3800", -1),
    ("580100", b"\0"),
    ("780161", "a"),
    ("980100", (0,)),
    ("b8010000", Pairs(((0, 0),))),
    ("d80102", Tag(1, 2)),
]

MALFORMED = {
    "nothing": "",
    "trailing byte": "0000",
    "argument cut": "18",
    "argument of eight cut": "1b00000000000000",
    "bytes cut": "4401020",
    "text cut": "6449455",
    "array cut": "8301",
    "map cut": "a101",
    "tag without content": "c1",
    "reserved 28": "1c",
    "reserved 28, 16 bytes after it": "1c" + "00" * 16,
    "reserved 29": "5d",
    "reserved 29 as an open string": "5dff",
    "reserved 30": "fe",
    "reserved 30 as an open array": "9eff",
    "reserved 28 as an open map": "bcff",
    "reserved 30 as a break": "9ffe",
    "indefinite integer": "1f",
    "indefinite negative": "3f",
    "indefinite tag": "df00",
    "break alone": "ff",
    "break in an array": "81ff",
    "break as a value": "a100ff",
    "break in a tag": "c1ff",
    "break after a key": "bf00ff",
    "array without break": "9f00",
    "map without break": "bf0000",
    "string without break": "5f4100",
    "text chunk in bytes": "5f6161ff",
    "bytes chunk in text": "7f4161ff",
    "nested indefinite chunk": "5f5f4100ffff",
    "open string as the break of another": "5f5f",
    "open array as the break of a text": "7f9f",
    "null as the break of a string": "5f4100f6",
    "number as chunk": "5f00ff",
    "simple value below 32 in two bytes": "f818",
    "text that is not UTF-8": "61ff",
    "surrogate in UTF-8": "63eda080",
    "overlong UTF-8": "62c080",
    "character split between chunks": "7f61c361bcff",
}


def raw(text: str) -> bytes:
    return bytes.fromhex(text if len(text) % 2 == 0 else text[:-1])


@pytest.mark.parametrize(("encoded", "value"), DETERMINISTIC)
def test_deterministic_examples(encoded: str, value: Any) -> None:
    assert cbor.decode(raw(encoded), max_bytes=LIMIT) == value
    assert type(cbor.decode(raw(encoded), max_bytes=LIMIT)) is type(value)
    assert cbor.encode(value) == raw(encoded)


@pytest.mark.parametrize(("encoded", "value"), WELL_FORMED_ONLY)
def test_well_formed_but_not_deterministic(encoded: str, value: Any) -> None:
    assert cbor.decode_wellformed(raw(encoded), max_bytes=LIMIT) == value
    with pytest.raises(CborError):
        cbor.decode(raw(encoded), max_bytes=LIMIT)


def test_not_a_number_is_well_formed() -> None:
    value = cbor.decode_wellformed(raw("f97e00"), max_bytes=LIMIT)
    assert math.isnan(value)
    with pytest.raises(CborError, match="floating"):
        cbor.decode(raw("f97e00"), max_bytes=LIMIT)


@pytest.mark.parametrize("encoded", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(encoded: str) -> None:
    for read in (cbor.decode, cbor.decode_wellformed):
        with pytest.raises(CborError):
            read(raw(encoded), max_bytes=LIMIT)


def test_order_of_keys_is_that_of_their_bytes() -> None:
    """RFC 8949, section 4.2.1, not the length-first order of RFC 7049."""
    value = {10: 0, 100: 0, -1: 0, "z": 0, "aa": 0, b"z": 0}
    encoded = cbor.encode(dict(reversed(value.items())))
    assert encoded == raw("a60a001864002000417a00617a0062616100")
    assert list(cbor.decode(encoded, max_bytes=LIMIT)) == [10, 100, -1, b"z", "z", "aa"]
    length_first = cbor2.dumps(value, canonical=True)
    assert length_first != encoded
    with pytest.raises(CborError, match="not sorted"):
        cbor.decode(length_first, max_bytes=LIMIT)


def test_duplicate_key_is_named() -> None:
    with pytest.raises(CborError, match="duplicate key"):
        cbor.decode(raw("a201020103"), max_bytes=LIMIT)


def test_tags_and_simple_values_equal_no_array() -> None:
    tagged, array = cbor.decode(raw("c102"), max_bytes=LIMIT), cbor.decode(raw("820102"), max_bytes=LIMIT)
    assert tagged != array
    assert not isinstance(tagged, tuple)
    assert Simple(23) != (23,)
    assert Tag(1, True) != (1, True)


# --- limits ---


def test_size_limit() -> None:
    assert cbor.decode(raw("420102"), max_bytes=3) == b"\1\2"
    for read in (cbor.decode, cbor.decode_wellformed):
        with pytest.raises(CborError, match="3 bytes, at most 2"):
            read(raw("420102"), max_bytes=2)


@pytest.mark.parametrize("level", ["81", "a100", "c1", "9f"])
def test_depth_limit(level: str) -> None:
    closing = "ff" if level == "9f" else ""
    encoded = raw(level * 8 + "00" + closing * 8)
    cbor.decode_wellformed(encoded, max_bytes=LIMIT, max_depth=8)
    with pytest.raises(CborError, match="deeper than 7"):
        cbor.decode_wellformed(encoded, max_bytes=LIMIT, max_depth=7)


def test_keys_count_for_depth() -> None:
    with pytest.raises(CborError, match="deeper than 2"):
        cbor.decode_wellformed(raw("a181810000"), max_bytes=LIMIT, max_depth=2)


@pytest.mark.parametrize(
    ("encoded", "exact"),
    [("8400000000", 5), ("9f00000000ff", 6), ("a4" + "0000" * 4, 9), ("5f" + "4100" * 4 + "ff", 6), ("00", 1)],
)
def test_item_limit(encoded: str, exact: int) -> None:
    cbor.decode_wellformed(raw(encoded), max_bytes=LIMIT, max_items=exact)
    with pytest.raises(CborError, match=r"too many items|items declared"):
        cbor.decode_wellformed(raw(encoded), max_bytes=LIMIT, max_items=exact - 1)


HUGE = ["5b0000010000000000", "7b0000010000000000", "9b0000010000000000", "bb0000010000000000"]
HUGEST = [head[:2] + "ffffffffffffffff" for head in HUGE]


@pytest.mark.parametrize("encoded", HUGE + HUGEST)
@pytest.mark.parametrize("around", ["", "81", "a100", "c1", "5f", "d284"])
def test_declared_length_allocates_nothing(around: str, encoded: str) -> None:
    data = raw(around + encoded) + bytes(64)
    tracemalloc.start()
    try:
        for read in (cbor.decode, cbor.decode_wellformed):
            with pytest.raises(CborError):
                read(data, max_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("level", ["81", "9f", "a100", "bf00", "c1", "a1", "5f", "d818"])
def test_a_hundred_thousand_levels(level: str) -> None:
    data = raw(level) * 100_000
    before = time.process_time()
    for read in (cbor.decode, cbor.decode_wellformed):
        with pytest.raises(CborError):
            read(data, max_bytes=LIMIT)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize("encoded", ["83", "830000", "a2", "a2000000"])
def test_count_is_weighed_against_the_bytes_left(encoded: str) -> None:
    for read in (cbor.decode, cbor.decode_wellformed):
        with pytest.raises(CborError, match="items declared"):
            read(raw(encoded), max_bytes=LIMIT)


@pytest.mark.parametrize("encoded", ["42ff", "62", "1900", "5b0000010000000000"])
def test_length_is_weighed_against_the_bytes_left(encoded: str) -> None:
    for read in (cbor.decode, cbor.decode_wellformed):
        with pytest.raises(CborError, match="declared at offset"):
            read(raw(encoded), max_bytes=LIMIT)


def test_many_small_items_stay_linear() -> None:
    data = raw("99fff0") + bytes(0xFFF0)
    before = time.process_time()
    assert len(cbor.decode(data, max_bytes=LIMIT)) == 0xFFF0
    assert time.process_time() - before < 1


def test_keys_made_to_collide_stay_linear() -> None:
    """Python's hash of a tuple of integers is no secret; the search for duplicates must not depend on it."""
    zeros = [number * ((1 << 61) - 1) for number in range(8)]
    keys = list(itertools.islice(itertools.product(zeros, repeat=5), 20_000))
    assert len({hash(key) for key in keys}) == 1
    pairs = Pairs(tuple((key, 0) for key in keys))
    before = time.process_time()
    assert pairs.duplicate() is None
    assert time.process_time() - before < 2


# --- maps as pairs ---


@pytest.mark.parametrize(
    ("encoded", "key"),
    [("a201020103", 1), ("a2616100616101", "a"), ("a300004100000000", 0), ("a2f600f600", None)],
)
def test_duplicates_are_found(encoded: str, key: object) -> None:
    pairs = cbor.decode_wellformed(raw(encoded), max_bytes=LIMIT)
    assert pairs.duplicate() == (key,)
    with pytest.raises(CborError):
        pairs.unique()


def test_duplicate_in_another_encoding() -> None:
    """1 and 1 in two bytes are one key."""
    pairs = cbor.decode_wellformed(raw("a20102180103"), max_bytes=LIMIT)
    assert pairs.duplicate() == (1,)


@pytest.mark.parametrize(
    "encoded",
    [
        "a20100410100",  # 1 and h'01'
        "a20100f500",  # 1 and true
        "a20100f93c0000",  # 1 and 1.0
        "a281010081f500",  # [1] and [true]
        "a2c1010082010100",  # 1(1) and [1, 1]
    ],
)
def test_keys_equal_in_python_alone_are_no_duplicates(encoded: str) -> None:
    item = cbor.decode_wellformed(raw(encoded), max_bytes=LIMIT)
    assert isinstance(item, Pairs)
    assert item.duplicate() is None


def test_pairs_as_dict() -> None:
    pairs = cbor.decode_wellformed(raw("a26161000102"), max_bytes=LIMIT)
    assert pairs.unique() == {"a": 0, 1: 2}
    assert len(pairs) == 2
    assert list(pairs) == [("a", 0), (1, 2)]


@pytest.mark.parametrize("key", ["80", "f5", "f6", "f93c00", "c100", "a0", "f7"])
def test_odd_keys(key: str) -> None:
    encoded = raw("a1" + key + "00")
    with pytest.raises(CborError, match=r"map key|floating|simple"):
        cbor.decode(encoded, max_bytes=LIMIT)
    pairs = cbor.decode_wellformed(encoded, max_bytes=LIMIT)
    assert pairs.duplicate() is None
    with pytest.raises(CborError, match="map key"):
        pairs.unique()


# --- writing ---


def test_writing_takes_any_mapping() -> None:
    assert cbor.encode(MappingProxyType({3: 4, 1: 2})) == raw("a201020304")


def test_writing_takes_pairs_and_buffers() -> None:
    assert cbor.encode(Pairs(((3, 4), (1, 2)))) == raw("a201020304")
    assert cbor.encode([bytearray(b"\1"), memoryview(b"\2")]) == raw("8241014102")


@pytest.mark.parametrize("value", [1.5, {1, 2}, object(), Simple(23), {1: 1.0}, [1.0], {(1.0,): 0}])
def test_writing_refuses_other_types(value: object) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1 << 64, "64 bits"),
        (-(1 << 64) - 1, "64 bits"),
        (Pairs(((1, 2), (1, 3))), "duplicate key"),
        (Pairs(((1, 0), (True, 0))), "equal in Python"),
    ],
)
def test_writing_refuses_values_without_one_encoding(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        cbor.encode(value)


def test_writing_refuses_lone_surrogates() -> None:
    with pytest.raises(ValueError):
        cbor.encode("\ud800")


# --- properties ---

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 64), (1 << 64) - 1), st.binary(max_size=40), st.text(max_size=40)
)
KEYS = st.one_of(st.integers(-(1 << 64), (1 << 64) - 1), st.binary(max_size=10), st.text(max_size=10))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=5),
        st.builds(Tag, st.integers(60_000, 1 << 63), inner),
    ),
    max_leaves=20,
)


def for_cbor2(value: Any) -> Any:
    """What cbor2 reads where we read *value*."""
    if isinstance(value, Tag):
        return cbor2.CBORTag(value.number, for_cbor2(value.value))
    if isinstance(value, tuple):
        return [for_cbor2(item) for item in value]
    if isinstance(value, dict):
        return {key: for_cbor2(item) for key, item in value.items()}
    return value


def as_pairs(value: Any) -> Any:
    """What `decode_wellformed` reads where `decode` reads *value*."""
    if isinstance(value, Tag):
        return Tag(value.number, as_pairs(value.value))
    if isinstance(value, tuple):
        return tuple(as_pairs(item) for item in value)
    if isinstance(value, dict):
        return Pairs(tuple((key, as_pairs(item)) for key, item in value.items()))
    return value


@given(VALUES)
def test_round_trip(value: Any) -> None:
    encoded = cbor.encode(value)
    decoded = cbor.decode(encoded, max_bytes=LIMIT, max_depth=64)
    assert decoded == value
    assert cbor.encode(decoded) == encoded
    assert cbor.decode_wellformed(encoded, max_bytes=LIMIT, max_depth=64) == as_pairs(decoded)


@given(VALUES)
def test_cbor2_reads_the_same(value: Any) -> None:
    def plain(item: Any) -> Any:
        if isinstance(item, cbor2.CBORTag):
            return (item.tag, plain(item.value))
        if isinstance(item, list | tuple):
            return [plain(part) for part in item]
        if hasattr(item, "items"):
            return {key: plain(part) for key, part in item.items()}
        return item

    assert plain(cbor2.loads(cbor.encode(value))) == plain(for_cbor2(value))


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_noise_gives_only_our_error(noise: bytes) -> None:
    try:
        value = cbor.decode(noise, max_bytes=LIMIT)
    except CborError:
        return
    assert cbor.encode(value) == noise
    assert as_pairs(value) == cbor.decode_wellformed(noise, max_bytes=LIMIT)


@pytest.mark.fuzz
@given(VALUES, st.data())
def test_what_is_accepted_is_the_only_encoding(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(cbor.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(encoded)))
        encoded[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        again = cbor.decode(bytes(encoded), max_bytes=LIMIT, max_depth=64)
    except CborError:
        return
    assert cbor.encode(again) == encoded


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_well_formed_agrees_with_cbor2(noise: bytes) -> None:
    """What we read, cbor2 reads; it may give up on tags whose content it interprets."""
    try:
        cbor.decode_wellformed(noise, max_bytes=LIMIT)
    except CborError:
        return
    try:
        cbor2.loads(noise)
    except (cbor2.CBORDecodeError, TypeError):
        assert any(byte >> 5 in (5, 6, 7) for byte in noise)
