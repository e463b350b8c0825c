"""Messages that are written and read by hand are those of the general encoder and reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel import messages
from ephemeralml.channel.message_shortcuts import _decoded_question, _encoded_question
from ephemeralml.channel.messages import Direction, End, Message, Outcome, Request, Response, Usage, decode, encode
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

uints = st.integers(0, (1 << 64) - 1) | st.sampled_from([23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32])
figures = st.none() | uints


@given(uints, st.sampled_from(Outcome), st.none() | st.binary(max_size=700), figures, figures, figures)
def test_end(
    stream: int, outcome: Outcome, receipt: bytes | None, first: int | None, second: int | None, third: int | None
) -> None:
    usage = (first, second, third)
    numbers = {number: figure for number, figure in enumerate(usage, 1) if figure is not None}
    assert encode(End(stream, outcome, receipt, Usage(*usage))) == cbor.encode(
        [3, stream, int(outcome), receipt, numbers]
    )


@given(uints, st.integers(0, 599), st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=6))
def test_response(stream: int, status: int, headers: dict[str, str]) -> None:
    assert encode(Response(stream, status, headers)) == cbor.encode([2, stream, status, headers])


@pytest.mark.parametrize("message", [Response(1 << 64, 200), End(1 << 64, Outcome.COMPLETE), Response(1, 1 << 64)])
def test_numbers_beyond_64_bits(message: Response | End) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(message)


def long_way(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Message | type[MalformedError]:
    with monkeypatch.context() as patch:
        patch.setattr(messages, "_SHORTCUTS", {})
        return outcome(data)


def outcome(data: bytes) -> Message | type[MalformedError]:
    direction = Direction.CLIENT_TO_SERVER if data[:2] == b"\x87\x00" else Direction.SERVER_TO_CLIENT
    try:
        return decode(data, direction)
    except MalformedError:
        return MalformedError


odd = uints.map(lambda number: number | 1)
headers = st.dictionaries(st.text(max_size=20) | st.just("authorization"), st.text(max_size=40), max_size=4)
requests = st.builds(
    Request,
    odd,
    st.text(max_size=8),
    st.text(max_size=20),
    headers,
    st.none() | st.binary(min_size=32, max_size=32) | st.binary(max_size=64),
    st.booleans(),
)


@given(requests)
def test_request(request: Request) -> None:
    fields = [0, request.stream, request.method, request.path, dict(request.headers), request.nonce, request.fin]
    assert encode(request) == cbor.encode(fields)
    assert decode(encode(request), Direction.CLIENT_TO_SERVER) == request


def test_a_bearer_token_is_not_remembered() -> None:
    _decoded_question.cache_clear()
    _encoded_question.cache_clear()
    request = Request(1, "POST", "/v1/embeddings", {"authorization": "Bearer secret"}, bytes(32))
    assert decode(encode(request), Direction.CLIENT_TO_SERVER) == request
    assert _decoded_question.cache_info().currsize == _encoded_question.cache_info().currsize == 0


written = st.one_of(
    requests.map(encode),
    st.builds(
        lambda stream, status, headers: encode(Response(stream, status, headers)),
        odd,
        st.integers(0, 599) | uints,
        st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=4),
    ),
    st.builds(
        lambda stream, outcome, receipt, usage: encode(End(stream, outcome, receipt, Usage(*usage))),
        odd,
        st.sampled_from(Outcome),
        st.none() | st.binary(max_size=80),
        st.tuples(figures, figures, figures),
    ),
)


@given(data=written)
def test_what_is_written_is_read_the_same_both_ways(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = outcome(data)
        assert found is not MalformedError
        assert found == long_way(data, patch)


@pytest.mark.fuzz
@given(
    data=written,
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 3),
)
def test_damaged_messages_are_judged_the_same_both_ways(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    raw = bytes(damaged[: len(damaged) - cut])
    with pytest.MonkeyPatch.context() as patch:
        assert outcome(raw) == long_way(raw, patch)


@pytest.mark.parametrize(
    "value",
    [
        [3, 1, 0, None, {2: 1, 3: 2}],
        [3, 1, 0, b"", {1: 0}],
        [3, 2, 0, None, {}],
        [3, 1, 4, None, {}],
        [3, 1, 0, None, {4: 1}],
        [3, 1, 0, None, {0: 1}],
        [3, 1, 0, None, {1: 1, 2: 1, 3: 1, 4: 1}],
        [3, 1, 0, None, {1: "x"}],
        [3, 1, 0, "receipt", {}],
        [2, 1, 200, {"a": 1}],
        [2, 1, 200, []],
        [2, 2, 200, {}],
        [2, 1, 200, {"a" * 600: "b"}],
        [2, 1, -1, {}],
        [0, 1, "GET", "/", {}, b"x" * 31, True],
        [0, 1, "GET", "/", {}, None, 1],
        [0, 1, "GET", "/", {"a": 1}, None, True],
        [0, 1, "GET", "/", [], None, True],
        [0, 1, "GET", 7, {}, bytes(32), True],
        [0, 1, "GET", "/", {}, [], bytes(32), True],
        [0, 1, "GET", bytes(34), {}, True],
        [0, 2, "GET", "/", {}, None, True],
        [0, 1, "GET", "/" * 600, {}, None, True],
    ],
)
def test_each_form_is_judged_the_same_both_ways(value: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    data = cbor.encode(value)
    assert outcome(data) == long_way(data, monkeypatch)
    assert outcome(data + b"\x00") is MalformedError
