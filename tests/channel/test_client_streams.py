"""The client's rules over streams (channel sections 4 and 7), one broken at a time."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel import (
    Body,
    Cancel,
    ClientEvent,
    ClientStreams,
    Close,
    CloseReason,
    End,
    Limits,
    Message,
    Outcome,
    PeerClosed,
    Ping,
    Pong,
    Request,
    Response,
    ResponseData,
    ResponseEnded,
    ResponseStarted,
    ServerStreams,
)
from ephemeralml.channel.messages import BODY_OVERHEAD, encode
from ephemeralml.errors import MalformedError

LIMITS = Limits(max_inflight=2, max_body=10)


@pytest.fixture
def streams() -> ClientStreams:
    return ClientStreams(LIMITS)


def hear(streams: ClientStreams, *messages: Message) -> list[ClientEvent]:
    return [event for message in messages for event in streams.receive(message)]


def get(streams: ClientStreams) -> Request:
    return streams.open("GET", "/v1/models", {})


def test_a_whole_exchange(streams: ClientStreams) -> None:
    request = streams.open("POST", "/x", {"a": "b"}, nonce=b"12345678", fin=False)
    assert request == Request(1, "POST", "/x", {"a": "b"}, b"12345678", fin=False)
    assert streams.body(1, b"abc", fin=False) == Body(1, b"abc", fin=False)
    assert streams.body(1, memoryview(b"def"), fin=True) == Body(1, b"def", fin=True)
    response, end = Response(1, 200, {"x": "y"}), End(1, Outcome.COMPLETE, b"receipt")
    assert hear(streams, response, Body(1, b"he"), Body(1, b"llo", fin=True)) == [
        ResponseStarted(response),
        ResponseData(1, b"he"),
        ResponseData(1, b"llo"),
    ]
    assert streams.truncated() == (1,)
    hashes = [hashlib.sha256(data).digest() for data in (b"abcdef", b"hello")]
    assert hear(streams, end) == [ResponseEnded(end, 200, *hashes)]
    assert streams.truncated() == ()
    assert not streams.is_open(1)


def test_ids_are_odd_and_increase(streams: ClientStreams) -> None:
    assert [get(streams).stream, get(streams).stream] == [1, 3]
    hear(streams, End(1, Outcome.ABORTED))
    assert get(streams).stream == 5


def test_max_inflight_binds_the_client(streams: ClientStreams) -> None:
    assert streams.free == 2
    get(streams), get(streams)
    assert streams.free == 0
    assert streams.inflight == 2
    with pytest.raises(RuntimeError, match="takes no more"):
        get(streams)


def test_max_body_binds_the_client(streams: ClientStreams) -> None:
    streams.open("POST", "/x", {}, fin=False)
    streams.body(1, bytes(10), fin=False)
    with pytest.raises(MalformedError, match="exceeds 10 bytes"):
        streams.body(1, b"x", fin=True)


def test_chunks_fit_a_record() -> None:
    streams = ClientStreams(Limits(max_record=100))
    assert streams.chunk_bytes == 100 - BODY_OVERHEAD
    assert len(encode(Body((1 << 64) - 1, bytes(streams.chunk_bytes), fin=True))) <= 100
    assert len(encode(Body((1 << 64) - 1, bytes((1 << 20) - BODY_OVERHEAD), fin=True))) == 1 << 20


@pytest.mark.parametrize(
    ("method", "path", "headers", "nonce"),
    [
        ("get", "/", {}, None), ("GET", "x", {}, None), ("GET", "/\n", {}, None), ("GET", "/" + "a" * 8192, {}, None),
        ("GET", "/", {"A": "b"}, None), ("GET", "/", {"a": "\r\n"}, None), ("GET", "/", {}, b"short"),
        ("GET", "/", {}, bytes(65)), ("GET", "/", {}, b""),
    ],
)  # fmt: skip
def test_what_a_server_would_refuse_is_not_sent(
    streams: ClientStreams, method: str, path: str, headers: dict[str, str], nonce: bytes | None
) -> None:
    with pytest.raises(MalformedError):
        streams.open(method, path, headers, nonce=nonce)
    assert streams.inflight == 0
    assert get(streams).stream == 1


def test_a_body_at_the_wrong_time_is_the_callers_bug(streams: ClientStreams) -> None:
    with pytest.raises(RuntimeError, match="never opened"):
        streams.body(1, b"", fin=True)
    get(streams)
    with pytest.raises(RuntimeError, match="behind fin"):
        streams.body(1, b"", fin=True)
    streams.open("POST", "/x", {}, fin=False)
    streams.cancel(3)
    with pytest.raises(RuntimeError, match="behind cancel"):
        streams.body(3, b"", fin=True)


def test_an_early_answer_ends_the_need_to_send(streams: ClientStreams) -> None:
    streams.open("POST", "/x", {}, fin=False)
    hear(streams, Response(1, 413), Body(1, b"no", fin=True), End(1, Outcome.ERROR))
    assert streams.body(1, b"more", fin=True) is None
    assert streams.cancel(1) is None


def test_cancel_is_asked_once_and_answered_by_the_end(streams: ClientStreams) -> None:
    get(streams)
    assert streams.cancel(1) == Cancel(1)
    assert streams.cancel(1) is None
    assert streams.cancel(9) is None
    # The answer that was on its way comes whole.
    events = hear(streams, Response(1, 200), Body(1, b"x", fin=True), End(1, Outcome.COMPLETE))
    assert isinstance(events[-1], ResponseEnded)
    get(streams)
    streams.cancel(3)
    (event,) = hear(streams, End(3, Outcome.CANCELLED))
    assert isinstance(event, ResponseEnded)
    assert event.status is None


@pytest.mark.parametrize(
    "messages",
    [
        [Response(3, 200)],
        [Body(1, b"x")],
        [Response(1, 200), Response(1, 200)],
        [Response(1, 200), Body(1, b"", fin=True), Body(1, b"")],
        [Response(1, 200), Body(1, b"x"), End(1, Outcome.COMPLETE)],
        [Response(1, 200), Body(1, b"x"), End(1, Outcome.ERROR)],
        [End(1, Outcome.COMPLETE)],
        [End(1, Outcome.ERROR)],
        [End(1, Outcome.ABORTED), End(1, Outcome.ABORTED)],
        [Response(1, 200), End(1, Outcome.COMPLETE), Body(1, b"")],
        [Response(1, 100)],
        [Response(1, 1 << 40)],
        [Response(1, 200, {"Upper": "x"})],
        [Response(1, 200, {"a": "b\r\nc"})],
        [Request(1, "GET", "/")],
        [Cancel(1)],
    ],
)
def test_faults_of_the_server(streams: ClientStreams, messages: list[Message]) -> None:
    get(streams)
    hear(streams, *messages[:-1])
    with pytest.raises(MalformedError):
        hear(streams, messages[-1])


def test_a_response_without_body_messages_is_complete(streams: ClientStreams) -> None:
    get(streams)
    (_, ended) = hear(streams, Response(1, 204), End(1, Outcome.COMPLETE))
    assert isinstance(ended, ResponseEnded)
    assert ended.response_hash == hashlib.sha256(b"").digest()


def test_streams_without_end_are_truncated(streams: ClientStreams) -> None:
    get(streams), get(streams)
    hear(streams, Response(1, 200), Body(1, b"all of it", fin=True))
    hear(streams, Response(3, 200), Body(3, b"", fin=True), End(3, Outcome.COMPLETE))
    close = Close(CloseReason.DRAINING)
    assert hear(streams, close) == [PeerClosed(close, (1,))]
    assert streams.truncated() == (1,)


def test_pings_and_pongs_are_none_of_its_business(streams: ClientStreams) -> None:
    assert hear(streams, Ping(1), Pong(2)) == []


MESSAGES = st.one_of(
    st.builds(Response, st.integers(0, 4), st.sampled_from([0, 200, 700])),
    st.builds(Body, st.integers(0, 4), st.binary(max_size=4), st.booleans()),
    st.builds(End, st.integers(0, 4), st.sampled_from(Outcome)),
    st.builds(Close, st.sampled_from(CloseReason)),
    st.builds(Cancel, st.integers(0, 4)),
    st.builds(Request, st.integers(0, 5).map(lambda n: 2 * n + 1), st.just("GET"), st.sampled_from(["/", "x"]), fin=st.booleans()),
)  # fmt: skip


@pytest.mark.fuzz
@given(st.lists(MESSAGES, max_size=12))
def test_only_our_errors_leave_either_role(messages: list[Message]) -> None:
    client, server = ClientStreams(LIMITS), ServerStreams(LIMITS, now=0)
    get(client)
    for message in messages:
        for receive in (client.receive, lambda m: server.receive(m, 0)):
            try:
                receive(message)
            except MalformedError:
                continue
    assert server.inflight <= len(messages)
