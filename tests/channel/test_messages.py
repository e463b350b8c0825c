"""The forms of the table of channel section 4, and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel import message_shortcuts, messages
from ephemeralml.channel.messages import (
    Body,
    Cancel,
    Close,
    CloseReason,
    Direction,
    End,
    Message,
    Outcome,
    Ping,
    Pong,
    Request,
    Response,
    Usage,
    decode,
    encode,
    may_say,
)
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

C2S, S2C = Direction.CLIENT_TO_SERVER, Direction.SERVER_TO_CLIENT
REQUEST: list[Any] = [0, 1, "POST", "/v1/embeddings", {"a": "b"}, b"12345678", False]
FORMS: list[tuple[list[Any], Message, set[Direction]]] = [
    (REQUEST, Request(1, "POST", "/v1/embeddings", {"a": "b"}, b"12345678", fin=False), {C2S}),
    ([0, 3, "GET", "/", {}, None, True], Request(3, "GET", "/", {}, None, fin=True), {C2S}),
    ([1, 1, b"data", True], Body(1, b"data", fin=True), {C2S, S2C}),
    ([1, 1, b"", False], Body(1, b"", fin=False), {C2S, S2C}),
    ([2, 1, 200, {"content-type": "text/plain"}], Response(1, 200, {"content-type": "text/plain"}), {S2C}),
    ([3, 1, 0, b"receipt", {1: 5, 2: 63, 3: 0}], End(1, Outcome.COMPLETE, b"receipt", Usage(5, 63, 0)), {S2C}),
    ([3, 1, 1, None, {}], End(1, Outcome.ERROR), {S2C}),
    ([3, 1, 2, None, {2: 7}], End(1, Outcome.CANCELLED, None, Usage(prompt_tokens=7)), {S2C}),
    ([3, 1, 3, None, {}], End(1, Outcome.ABORTED), {S2C}),
    ([4, 1], Cancel(1), {C2S}),
    ([5, 0], Ping(0), {C2S, S2C}),
    ([5, 2**64 - 1], Ping(2**64 - 1), {C2S, S2C}),
    ([6, 9], Pong(9), {C2S, S2C}),
    *(([7, reason, "text"], Close(CloseReason(reason), "text"), {C2S, S2C}) for reason in range(6)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message", "directions"), FORMS)
def test_forms(fields: list[Any], message: Message, directions: set[Direction]) -> None:
    data = cbor.encode(fields)
    assert encode(message) == data
    for direction in Direction:
        assert may_say(direction, message) == (direction in directions)
        if direction in directions:
            assert decode(data, direction) == message
        else:
            with pytest.raises(MalformedError, match="wrong direction"):
                decode(data, direction)


BROKEN = [
    ("kind", [8, 1]), ("negative kind", [-1, 1]), ("text kind", ["0", 1]), ("boolean kind", [True, 1, b"", True]),
    ("no kind", []), ("no array", {0: 1}), ("a number", 5), ("null", None),
    ("request: a field less", REQUEST[:-1]), ("request: a field more", [*REQUEST, None]),
    ("request: even id", [0, 2, *REQUEST[2:]]), ("request: id 0", [0, 0, *REQUEST[2:]]),
    ("request: negative id", [0, -1, *REQUEST[2:]]), ("request: text id", [0, "1", *REQUEST[2:]]),
    ("request: boolean id", [0, True, *REQUEST[2:]]),
    ("request: bytes method", [0, 1, b"POST", *REQUEST[3:]]), ("request: null path", [*REQUEST[:3], None, *REQUEST[4:]]),
    ("request: headers as array", [*REQUEST[:4], [], *REQUEST[5:]]),
    ("request: header name no text", [*REQUEST[:4], {1: "x"}, *REQUEST[5:]]),
    ("request: header value no text", [*REQUEST[:4], {"x": b"y"}, *REQUEST[5:]]),
    ("request: text nonce", [*REQUEST[:5], "12345678", False]), ("request: fin 0", [*REQUEST[:6], 0]),
    ("request: fin null", [*REQUEST[:6], None]),
    ("body: text", [1, 1, "data", True]), ("body: even id", [1, 2, b"", True]), ("body: fin 1", [1, 1, b"", 1]),
    ("body: arity", [1, 1, b""]), ("body: null id", [1, None, b"", True]), ("body: longer", [1, 1, b"", True, None]),
    ("response: text status", [2, 1, "200", {}]), ("response: negative status", [2, 1, -200, {}]),
    ("response: even id", [2, 2, 200, {}]), ("response: arity", [2, 1, 200]), ("response: headers", [2, 1, 200, None]),
    ("end: outcome 4", [3, 1, 4, None, {}]), ("end: text receipt", [3, 1, 0, "r", {}]),
    ("end: unknown figure", [3, 1, 0, None, {4: 1}]), ("end: figure 0", [3, 1, 0, None, {0: 1}]),
    ("end: text figure key", [3, 1, 0, None, {"1": 1}]), ("end: negative figure", [3, 1, 0, None, {1: -1}]),
    ("end: null figure", [3, 1, 0, None, {1: None}]), ("end: figures as array", [3, 1, 0, None, []]),
    ("end: arity", [3, 1, 0, None]),
    ("cancel: arity", [4]), ("cancel: longer", [4, 1, 1]), ("cancel: even id", [4, 2]),
    ("ping: negative", [5, -1]), ("ping: text", [5, "x"]), ("ping: arity", [5]), ("pong: null", [6, None]),
    ("close: reason 6", [7, 6, ""]), ("close: bytes text", [7, 0, b""]), ("close: arity", [7, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "value"), BROKEN, ids=[what for what, _ in BROKEN])
def test_broken_forms(what: str, value: Any) -> None:
    data = cbor.encode(value)
    # In the direction in which the message would be good, so that only the form is broken.
    kind = value[0] if isinstance(value, list) and value else 0
    with pytest.raises(MalformedError) as raised:
        decode(data, S2C if kind in (2, 3) else C2S)
    assert "direction" not in raised.value.message


@pytest.mark.parametrize(
    "data",
    [
        "84011841 f4", "8401 01 5801 41 f4", "8401 1801 41 41 f4", "9f 01 01 41 41 f4 ff", "8401 01 5f 41 41 ff f4",
        "8401 01 41 41 f4 00", "8401 01 41 41", "8401 01 5a ffffffff 41 f4", "8401 01 5b ffffffffffffffff f4",
        "8401 01 41 41 f6", "8401", "84", "", "8501 01 41 41 f4 f4", "8401 1b 0000000000000001 41 41 f4",
        "84 1801 01 41 41 f4", "c1 8401 01 41 41 f4", "8401 01 f97c00 f4", "8401 f97c00 41 41 f4",
    ],
)  # fmt: skip
def test_broken_encodings_of_a_body(data: str) -> None:
    raw = bytes.fromhex(data.replace(" ", ""))
    for direction in Direction:
        with pytest.raises(MalformedError):
            decode(raw, direction)


def test_many_headers_are_refused_before_they_cost() -> None:
    fields = [0, 1, "GET", "/", {f"h{n}": "" for n in range(600)}, None, True]
    with pytest.raises(MalformedError):
        decode(cbor.encode(fields), C2S)


def test_a_body_beyond_64_bits_of_id_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(Body(1 << 64, b""))


IDS = st.integers(0, 2**64 - 1).map(lambda n: n | 1) | st.sampled_from([1, 23, 25, 255, 257, 65_535, 65_537, 2**32 + 1])
SIZES = st.sampled_from([0, 1, 23, 24, 255, 256, 65_535, 65_536])


@given(IDS, SIZES, st.booleans())
def test_body_by_hand_is_body_by_the_codec(stream: int, size: int, fin: bool) -> None:
    data = bytes(size)
    made = encode(Body(stream, data, fin))
    assert made == cbor.encode([1, stream, data, fin])
    assert decode(made, C2S) == Body(stream, data, fin)
    assert len(made) <= size + messages.BODY_OVERHEAD


@pytest.mark.fuzz
@given(st.data())
def test_the_fast_reader_agrees_with_the_strict_one(data: st.DataObject) -> None:
    raw = bytearray(
        encode(Body(data.draw(IDS), bytes(data.draw(SIZES.filter(lambda n: n < 300))), data.draw(st.booleans())))
    )
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(2, min(len(raw) - 1, 14)))] = data.draw(st.integers(0, 255))
    strict: Any
    try:
        fields = cbor.decode(bytes(raw), max_bytes=1 << 20)
        strict = Body(*fields[1:]) if type(fields) is tuple and fields[0] == 1 and len(fields) == 4 else None
    except MalformedError:
        strict = None
    fast = message_shortcuts.read_body(bytes(raw))
    if fast is not None:
        assert fast == strict


@pytest.mark.fuzz
@given(st.binary(max_size=100), st.sampled_from(Direction))
def test_only_our_errors_leave(data: bytes, direction: Direction) -> None:
    try:
        message = decode(data, direction)
    except MalformedError:
        return
    assert encode(message) == data


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 4) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.fuzz
@given(st.lists(VALUES, max_size=7), st.integers(0, 8), st.sampled_from(Direction))
def test_only_our_errors_leave_well_formed_arrays(values: list[Any], kind: int, direction: Direction) -> None:
    data = cbor.encode([kind, *values])
    try:
        message = decode(data, direction)
    except MalformedError:
        return
    assert encode(message) == data
