"""The server's rules over streams (channel sections 4 and 7), one broken at a time."""

import gc
import hashlib
import weakref

import pytest

from ephemeralml.channel import (
    Aborted,
    Body,
    Cancel,
    Cancelled,
    Close,
    CloseReason,
    End,
    Limits,
    Message,
    Outcome,
    PeerClosed,
    Ping,
    Pong,
    Rejected,
    Request,
    RequestComplete,
    RequestStarted,
    Response,
    ServerEvent,
    ServerStreams,
)
from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.errors import MalformedError

LIMITS = Limits(max_inflight=2, max_body=10, idle_seconds=300)
EMPTY = hashlib.sha256(b"").digest()


class Watched(str):
    """A text whose end can be noticed."""

    __slots__ = ("__weakref__",)


def post(stream: int, *, nonce: bytes | None = None, path: str = "/x", fin: bool = False, **headers: str) -> Request:
    return Request(stream, "POST", path, headers, nonce, fin)


class Rig:
    """Server streams with a clock at hand."""

    def __init__(self, limits: Limits = LIMITS, budget: object = None) -> None:
        self.now = 0.0
        self.streams = ServerStreams(limits, now=0.0, budget=budget)  # type: ignore[arg-type]

    def hear(self, *messages: Message) -> list[ServerEvent]:
        return [event for message in messages for event in self.streams.receive(message, self.now)]

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.streams.sending(message, self.now)

    def answer(self, stream: int, outcome: Outcome = Outcome.COMPLETE) -> None:
        self.say(Response(stream, 200), Body(stream, b"ok", fin=True), End(stream, outcome))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_request_with_its_body(rig: Rig) -> None:
    request = post(1)
    assert rig.hear(request) == [RequestStarted(request)]
    assert rig.hear(Body(1, b"abc")) == []
    assert rig.hear(Body(1, b"")) == []
    digest = hashlib.sha256(b"abcdef").digest()
    assert rig.hear(Body(1, b"def", fin=True)) == [RequestComplete(request, b"abcdef", digest)]
    rig.say(Response(1, 200), Body(1, b"he"), Body(1, b"llo", fin=True))
    assert rig.streams.hashes(1) == (digest, hashlib.sha256(b"hello").digest())
    assert rig.streams.inflight == 1
    rig.say(End(1, Outcome.COMPLETE))
    assert rig.streams.idle
    with pytest.raises(KeyError):
        rig.streams.hashes(1)


def test_a_request_without_a_body(rig: Rig) -> None:
    request = post(1, fin=True)
    assert rig.hear(request) == [RequestStarted(request), RequestComplete(request, b"", EMPTY)]
    rig.say(Response(1, 204), End(1, Outcome.COMPLETE))


# Ids


@pytest.mark.parametrize("second", [1, 3, 5])
def test_ids_increase_strictly(rig: Rig, second: int) -> None:
    rig.hear(post(5, fin=True))
    rig.answer(5)
    with pytest.raises(MalformedError, match="after 5"):
        rig.hear(post(second))


def test_ids_may_be_skipped(rig: Rig) -> None:
    rig.hear(post(1), post(9))
    assert rig.streams.inflight == 2


# Late messages


@pytest.mark.parametrize("message", [Body(3, b"x"), Cancel(3), Body(1 << 40 | 1, b"", fin=True)])
def test_above_the_highest_opened_id(rig: Rig, message: Message) -> None:
    rig.hear(post(1))
    with pytest.raises(MalformedError, match="never opened"):
        rig.hear(message)


def test_body_behind_fin(rig: Rig) -> None:
    rig.hear(post(1, fin=True), post(3), Body(3, b"x", fin=True))
    for stream in (1, 3):
        with pytest.raises(MalformedError, match="behind fin"):
            rig.hear(Body(stream, b""))


def test_body_behind_fin_of_a_rejected_request() -> None:
    rig = Rig()
    rig.hear(post(1, path="bad"), Body(1, b"x", fin=True))
    with pytest.raises(MalformedError, match="behind fin"):
        rig.hear(Body(1, b""))


def test_body_and_cancel_for_an_ended_stream_are_dropped(rig: Rig) -> None:
    rig.hear(post(1), post(5))
    rig.say(Response(1, 404), Body(1, b"no", fin=True), End(1, Outcome.ERROR))
    assert rig.hear(Body(1, b"late"), Body(1, b"", fin=True), Cancel(1), Cancel(3), Body(3, b"skipped")) == []


# Limits


def test_no_free_stream(rig: Rig) -> None:
    rig.hear(post(1), post(3, fin=True))
    (event,) = rig.hear(post(5))
    assert event == Rejected(5, 503, "more than 2 requests in flight")
    assert rig.hear(Body(5, bytes(99)), Body(5, b"", fin=True)) == []
    rig.answer(5, Outcome.ERROR)
    assert len(rig.hear(post(7))) == 1
    rig.answer(7, Outcome.ERROR)
    rig.answer(3)
    (event,) = rig.hear(post(9))
    assert isinstance(event, RequestStarted)


def test_a_stream_counts_until_its_end(rig: Rig) -> None:
    rig.hear(post(1, fin=True), post(3, fin=True))
    rig.say(Response(1, 200), Body(1, b"", fin=True))
    assert isinstance(rig.hear(post(5))[0], Rejected)
    rig.say(End(1, Outcome.COMPLETE))
    rig.answer(5, Outcome.ERROR)
    assert isinstance(rig.hear(post(7))[0], RequestStarted)


def test_the_byte_beyond_max_body(rig: Rig) -> None:
    rig.hear(post(1), Body(1, bytes(10)))
    (event,) = rig.hear(Body(1, b"x"))
    assert event == Rejected(1, 413, "the request's body exceeds 10 bytes")
    assert rig.hear(Body(1, bytes(50)), Body(1, b"", fin=True)) == []


def test_a_body_of_just_max_body(rig: Rig) -> None:
    assert isinstance(rig.hear(post(1), Body(1, bytes(10), fin=True))[-1], RequestComplete)


def test_a_body_that_takes_too_long(rig: Rig) -> None:
    rig.hear(post(1), post(3, fin=True))
    assert rig.streams.next_deadline == 60
    assert rig.streams.expire(59.9) == []
    assert rig.streams.expire(60) == [Rejected(1, 408, "the request's body did not end in time")]
    assert rig.streams.next_deadline is None
    assert rig.streams.expire(99) == []
    assert rig.hear(Body(1, b"late", fin=True)) == []


def test_progress_does_not_move_the_deadline(rig: Rig) -> None:
    rig.hear(post(1))
    rig.now = 59
    rig.hear(Body(1, b"x"))
    assert rig.streams.next_deadline == 60


@pytest.mark.parametrize("size", [0, 1, 7, 65, 1000])
def test_nonces_of_another_length(rig: Rig, size: int) -> None:
    (event,) = rig.hear(post(1, nonce=bytes(size), fin=True))
    assert isinstance(event, Rejected)
    assert event.status == 400


@pytest.mark.parametrize("nonce", [None, bytes(8), bytes(64)])
def test_nonces(rig: Rig, nonce: bytes | None) -> None:
    assert isinstance(rig.hear(post(1, nonce=nonce))[0], RequestStarted)


@pytest.mark.parametrize(
    "path", ["", "v1/models", "*", "http://x/", "/" + "a" * 8192, "/" + "é" * 4096, "/a\x00", "/a\nb", "/\x7f", "/\x85"]
)
def test_bad_paths(rig: Rig, path: str) -> None:
    (event,) = rig.hear(post(1, path=path))
    assert isinstance(event, Rejected)
    assert event.status == 400


def test_the_longest_path(rig: Rig) -> None:
    assert isinstance(rig.hear(post(1, path="/" + "a" * 8191))[0], RequestStarted)
    assert isinstance(rig.hear(post(3, path="/é?q=ü"))[0], RequestStarted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Type", "x"),
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("é", "x"),
        ("a", "x\r\nb: c"),
        ("a", "\x00"),
        ("a", "\x7f"),
    ],
)
def test_bad_headers(rig: Rig, name: str, value: str) -> None:
    (event,) = rig.hear(Request(1, "GET", "/", {name: value}))
    assert isinstance(event, Rejected)
    assert event.status == 400


def test_the_most_header_bytes(rig: Rig) -> None:
    most = {"a": "b" * 10_000, "c": "é" * ((16_384 - 10_002) // 2)}
    assert isinstance(rig.hear(Request(1, "POST", "/", most))[0], RequestStarted)
    (event,) = rig.hear(Request(3, "POST", "/", most | {"d": ""}))
    assert isinstance(event, Rejected)
    assert event.status == 400


@pytest.mark.parametrize("crowded", [False, True])
def test_a_rejected_request_is_not_kept(rig: Rig, crowded: bool) -> None:
    if crowded:
        rig.hear(post(1), post(3))
    value = Watched("b" * 500_000)
    kept = weakref.ref(value)
    (event,) = rig.hear(Request(101, "POST", "/", {"a": value}, fin=False))
    assert isinstance(event, Rejected)
    assert event.status == (503 if crowded else 400)
    del value
    gc.collect()
    assert kept() is None
    assert rig.streams.is_open(101)


@pytest.mark.parametrize("method", ["", "get", "GET ", "G\nET", "G" * 17, "GÉT"])
def test_bad_methods(rig: Rig, method: str) -> None:
    (event,) = rig.hear(Request(1, method, "/"))
    assert isinstance(event, Rejected)
    assert event.status == 400


def test_a_reason_repeats_nothing_of_the_request(rig: Rig) -> None:
    (event,) = rig.hear(Request(1, "GET", "/x", {"Secret": "value\x00"}))
    assert isinstance(event, Rejected)
    assert "ecret" not in event.reason
    assert "value" not in event.reason.replace("header's value", "")


# Shared memory


def test_the_shared_budget() -> None:
    budget = ByteBudget(12)
    one, two = Rig(budget=budget), Rig(budget=budget)
    one.hear(post(1), Body(1, bytes(8)))
    assert isinstance(two.hear(post(1), Body(1, bytes(5)))[-1], Rejected)
    assert two.hear(post(3), Body(3, bytes(4), fin=True))[-1] != []
    assert budget.used == 12
    two.answer(3)
    assert budget.used == 8
    one.hear(Cancel(1))
    assert budget.used == 0
    one.hear(post(3), Body(3, bytes(9), fin=True))
    one.hear(Cancel(3))
    assert budget.used == 9  # complete: somebody works on it until its end
    one.say(End(3, Outcome.CANCELLED))
    assert budget.used == 0
    one.hear(post(5), Body(5, bytes(9)))
    one.streams.release()
    assert budget.used == 0
    one.streams.release()
    assert one.streams.idle


def test_the_budgets_refusal_is_a_503() -> None:
    rig = Rig(budget=ByteBudget(3))
    event = rig.hear(post(1), Body(1, b"four"))[-1]
    assert isinstance(event, Rejected)
    assert event.status == 503


# Cancel


def test_cancel_is_answered_by_one_end(rig: Rig) -> None:
    rig.hear(post(1))
    assert rig.hear(Cancel(1)) == [Cancelled(1)]
    assert rig.hear(Cancel(1), Body(1, b"dropped")) == []
    rig.say(End(1, Outcome.CANCELLED))
    with pytest.raises(RuntimeError):
        rig.say(End(1, Outcome.CANCELLED))
    assert rig.hear(Cancel(1)) == []


def test_cancel_in_the_middle_of_a_response(rig: Rig) -> None:
    rig.hear(post(1, fin=True))
    rig.say(Response(1, 200), Body(1, b"part"))
    assert rig.hear(Cancel(1)) == [Cancelled(1)]
    rig.say(End(1, Outcome.CANCELLED, b"receipt"))


def test_cancel_of_a_rejected_request_needs_no_second_answer(rig: Rig) -> None:
    rig.hear(post(1, path="bad"))
    assert rig.hear(Cancel(1)) == []


# What the server says


@pytest.mark.parametrize(
    "said",
    [
        [Body(1, b"x")],
        [Response(1, 200), Response(1, 200)],
        [Response(1, 200), Body(1, b"", fin=True), Body(1, b"")],
        [Response(1, 200), Body(1, b"x"), End(1, Outcome.COMPLETE)],
        [Response(1, 200), Body(1, b"x"), End(1, Outcome.ERROR)],
        [End(1, Outcome.COMPLETE)],
        [End(1, Outcome.ERROR)],
        [Response(1, 199)],
        [Response(1, 600)],
        [Response(3, 200)],
        [Response(1, 200), End(1, Outcome.COMPLETE), Body(1, b"")],
        [Request(1, "GET", "/")],
        [Cancel(1)],
    ],
)
def test_a_response_has_one_form(rig: Rig, said: list[Message]) -> None:
    rig.hear(post(1, fin=True))
    rig.say(*said[:-1])
    with pytest.raises(RuntimeError):
        rig.say(said[-1])


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.ABORTED])
def test_an_end_may_cut_a_response(outcome: Outcome) -> None:
    for before in ([], [Response(1, 200)], [Response(1, 200), Body(1, b"x")]):
        rig = Rig()
        rig.hear(post(1, fin=True))
        rig.say(*before, End(1, outcome))
        assert rig.streams.idle


@pytest.mark.parametrize("message", [Response(1, 200), End(1, Outcome.COMPLETE)])
def test_the_servers_messages_from_a_client(rig: Rig, message: Message) -> None:
    with pytest.raises(MalformedError, match="direction"):
        rig.hear(message)


# Closing, draining, idling


def test_the_clients_close(rig: Rig) -> None:
    rig.hear(post(1, fin=True), post(3))
    close = Close(CloseReason.DONE)
    assert rig.hear(close) == [Aborted(3), PeerClosed(close)]
    rig.answer(1)
    rig.say(End(3, Outcome.ABORTED), Close(CloseReason.DONE))
    assert rig.streams.idle


def test_after_our_own_close_nothing_is_served(rig: Rig) -> None:
    rig.hear(post(1))
    rig.say(Close(CloseReason.LIMIT))
    assert rig.streams.idle
    assert rig.hear(post(3), Body(1, b"x"), Body(99, b""), Cancel(77), Ping(1)) == []
    assert rig.hear(Close(CloseReason.DONE)) == [PeerClosed(Close(CloseReason.DONE))]
    with pytest.raises(RuntimeError):
        rig.say(End(1, Outcome.ABORTED))


def test_draining(rig: Rig) -> None:
    rig.hear(post(1))
    rig.streams.draining = True
    (event,) = rig.hear(post(3))
    assert event == Rejected(3, 503, "the runtime is draining")
    assert isinstance(rig.hear(Body(1, b"", fin=True))[0], RequestComplete)


def test_idle_counts_from_the_last_end_and_pings_reset_nothing(rig: Rig) -> None:
    assert rig.streams.idle_deadline == 300
    rig.now = 10
    rig.hear(Ping(1), Pong(2))
    rig.say(Pong(1), Ping(2))
    assert rig.streams.idle_deadline == 300
    rig.hear(post(1, fin=True))
    assert rig.streams.idle_deadline is None
    rig.now = 50
    rig.answer(1)
    assert rig.streams.idle_deadline == 350


def test_tiny_pieces_cost_no_more_than_large_ones() -> None:
    import tracemalloc

    rig = Rig(Limits())
    rig.hear(post(1))
    tracemalloc.start()
    try:
        for _ in range(50_000):
            rig.hear(Body(1, b"xy"))
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()
    event = rig.hear(Body(1, b"", fin=True))[0]
    assert isinstance(event, RequestComplete)
    assert event.body == b"xy" * 50_000
