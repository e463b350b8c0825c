"""The core without I/O: clocks are set by hand, bytes are moved by hand."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import clock
from ephemeralml.channel import Body, Limits, Outcome, Response
from ephemeralml.channel.messages import End
from ephemeralml.client import call as call_module
from ephemeralml.client.call import Ask, Call, SessionEndedError, TruncatedError
from ephemeralml.client.exchange import Exchange
from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from tests.fakes.runtime import Connection, FakeRuntime

ASK = Ask("POST", "/v1/embeddings", b'{"model":"minilm","input":"a"}')
TALK = Ask("POST", "/v1/chat/completions", b'{"model":"talker","stream":true}')


class Memory:
    """A socket that goes nowhere."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def setsockopt(self, *_: object) -> None: ...

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def shutdown(self, _: int) -> None: ...

    def take(self) -> bytes:
        data, self.sent = bytes(self.sent), bytearray()
        return data


class Bench:
    """An exchange and its peer, clocks under control."""

    def __init__(self, runtime: FakeRuntime, **policy: Any) -> None:
        self.socket = Memory()
        self.peer = Connection(runtime, cast("Any", self.socket))
        self.at = 1000.0
        self.skew = timedelta(0)
        self.exchange = Exchange(policy=runtime.policy(**policy), now=self.now, steady=lambda: self.at)

    def now(self) -> datetime:
        return clock.now() + self.skew

    def up(self) -> bytes:
        """Move the client's bytes; return the peer's answer."""
        data = bytes(self.exchange.data_to_send())
        if data:
            # What the runtime makes of a client's complaint is its own business.
            with contextlib.suppress(EphemeralError, RuntimeError):
                self.peer.feed(data)
        return self.socket.take()

    def pump(self) -> list[Call]:
        """Move bytes both ways until nothing moves."""
        changed: list[Call] = []
        while data := self.up():
            changed += self.exchange.receive_data(data)
        return changed

    def established(self) -> "Bench":
        self.pump()
        assert self.exchange.ready, self.exchange.fault
        return self


@pytest.fixture
def bench(runtime: FakeRuntime) -> Bench:
    return Bench(runtime).established()


@pytest.fixture
def session_of(runtime: FakeRuntime) -> Iterator[Any]:
    return cast("Any", lambda **options: Bench(runtime, **options).established())


def test_request_and_body_leave_in_one_piece(bench: Bench) -> None:
    call = bench.exchange.start(ASK)
    assert bench.pump() == [call]
    assert call.reply().ok
    assert call.receipted is not None


def test_bytes_may_come_one_by_one(runtime: FakeRuntime) -> None:
    bench = Bench(runtime)
    started: Call | None = None
    while True:
        for byte in bench.up():
            bench.exchange.receive_data(bytes((byte,)))
        if bench.exchange.ready and started is None:
            started = bench.exchange.start(ASK)
        elif started is not None:
            break
    assert started.reply().ok


def test_nothing_can_be_asked_before_the_peer_is_attested(runtime: FakeRuntime) -> None:
    bench = Bench(runtime)
    for begin in (bench.exchange.start, bench.exchange.select):
        with pytest.raises(RuntimeError):
            begin(ASK)
    assert not bench.exchange.fresh()


def test_manifest_comes_before_the_prompt(runtime: FakeRuntime) -> None:
    from tests.fakes.runtime import PUBLISHER

    bench = Bench(runtime, models={"publisher_keys": [str(PUBLISHER.public)]}).established()
    with pytest.raises(RuntimeError, match="manifest"):
        bench.exchange.start(ASK)


def test_session_is_left_before_the_runtime_ends_it(bench: Bench) -> None:
    assert bench.exchange.fresh()
    bench.at += 289
    assert bench.exchange.fresh()
    bench.at += 2
    assert not bench.exchange.fresh()


def test_session_with_a_request_in_flight_is_not_idle(bench: Bench) -> None:
    bench.exchange.start(ASK)
    bench.at += 1000
    assert bench.exchange.fresh()
    bench.pump()
    bench.at += 289
    assert bench.exchange.fresh()
    bench.at += 2
    assert not bench.exchange.fresh()


def test_session_lives_an_hour_at_most(bench: Bench) -> None:
    bench.exchange.start(ASK)
    bench.at += 3589
    assert bench.exchange.fresh()
    bench.at += 2
    assert not bench.exchange.fresh()
    bench.exchange.start(ASK)
    bench.at += 10
    with pytest.raises(SessionEndedError, match="lived its 3600 s"):
        bench.exchange.start(ASK)


def test_short_idle_times_leave_a_smaller_margin(start: Any) -> None:
    bench = Bench(start(limits=Limits(idle_seconds=4))).established()
    bench.at += 2.9
    assert bench.exchange.fresh()
    bench.at += 0.2
    assert not bench.exchange.fresh()


def test_policy_that_expires_ends_the_session(bench: Bench) -> None:
    bench.skew = timedelta(hours=25)
    assert not bench.exchange.fresh()
    with pytest.raises(RejectedError) as caught:
        bench.exchange.start(ASK)
    assert caught.value.code == "POLICY_EXPIRED"


def test_expired_policy_begins_no_session(runtime: FakeRuntime) -> None:
    bench = Bench(runtime)
    bench.skew = timedelta(hours=25)
    bench.pump()
    assert isinstance(bench.exchange.fault, RejectedError)
    assert bench.exchange.fault.code == "POLICY_EXPIRED"


def test_evidence_is_judged_by_the_clock_that_was_given(runtime: FakeRuntime) -> None:
    bench = Bench(runtime)
    bench.skew = timedelta(minutes=10)
    bench.pump()
    assert isinstance(bench.exchange.fault, RejectedError)
    assert bench.exchange.fault.code == "NITRO_DOC_STALE"


def test_reader_that_falls_behind_is_cancelled_and_the_session_goes_on(bench: Bench) -> None:
    late = bench.exchange.start(Ask("POST", "/slow", TALK.body), live=True)
    bench.exchange.data_to_send()
    bench.peer.channel.send(Response(late.stream, 200, {}))

    def more(size: int) -> None:
        bench.peer.channel.send(Body(late.stream, bytes(size), False))
        bench.peer.flush()
        bench.exchange.receive_data(bench.socket.take())

    more(700_000)
    assert late.overrun_since is None
    more(700_000)
    assert late.overrun_since == bench.at
    bench.at += 29
    more(1)
    assert not late.done
    assert len(late.take()) == 1_400_001
    more(700_000)
    more(700_000)
    bench.at += 31
    more(1)
    assert late.done
    assert "left unread" in str(late.error)
    assert late.unread == 0
    assert bench.exchange.fault is None


def test_caller_who_waits_for_the_whole_reply_falls_behind_nothing(bench: Bench) -> None:
    call = bench.exchange.start(Ask("POST", "/slow", TALK.body))
    bench.exchange.data_to_send()
    bench.peer.channel.send(Response(call.stream, 200, {}))
    for _ in range(3):
        bench.peer.channel.send(Body(call.stream, bytes(700_000), False))
        bench.peer.flush()
        bench.exchange.receive_data(bench.socket.take())
        bench.at += 40
    assert not call.done
    assert call.unread == 2_100_000


def test_reply_beyond_what_is_held_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemeralml.client.exchange.MAX_RESPONSE_BYTES", 1000)
    call = bench.exchange.start(Ask("POST", "/slow", TALK.body))
    bench.exchange.data_to_send()
    bench.peer.channel.send(Response(call.stream, 200, {}))
    bench.peer.channel.send(Body(call.stream, bytes(1001), False))
    bench.peer.flush()
    assert bench.exchange.receive_data(bench.socket.take()) == [call]
    with pytest.raises(UnavailableError, match="more than is held"):
        call.reply()
    assert bench.exchange.fault is None


def test_cancelled_call_still_counts_in_the_sequence(bench: Bench) -> None:
    given_up = bench.exchange.start(ASK)
    answer = bench.up()
    bench.exchange.cancel(given_up, UnavailableError("enough"))
    bench.exchange.receive_data(answer)
    following = bench.exchange.start(ASK)
    bench.pump()
    receipted = following.reply().receipted
    assert receipted is not None
    assert receipted.receipt.claims.sequence_number == 1
    with pytest.raises(UnavailableError, match="enough"):
        given_up.reply()


def test_calls_that_we_gave_up_when_closing_may_still_be_ended(bench: Bench) -> None:
    call = bench.exchange.start(ASK)
    answer = bench.up()
    assert bench.exchange.close() == [call]
    assert bench.exchange.receive_data(answer) == [call]
    assert bench.exchange.fault is None
    bench.pump()
    assert bench.exchange.finished
    with pytest.raises(SessionEndedError):
        bench.exchange.start(ASK)


def test_end_of_bytes_truncates_what_is_in_flight(bench: Bench) -> None:
    call = bench.exchange.start(ASK)
    assert bench.exchange.eof_received() == [call]
    with pytest.raises(TruncatedError):
        call.reply()
    assert bench.exchange.eof_received() == []
    assert bench.exchange.receive_data(b"more") == []


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.ABORTED])
def test_outcome_without_a_complete_response_is_no_reply(bench: Bench, outcome: Outcome) -> None:
    call = bench.exchange.start(Ask("POST", "/slow", TALK.body))
    bench.exchange.data_to_send()
    bench.peer.channel.send(Response(call.stream, 200, {}))
    bench.peer.channel.send(Body(call.stream, b"whole", True))
    bench.peer.channel.send(End(call.stream, outcome, None))
    bench.peer.flush()
    bench.exchange.receive_data(bench.socket.take())
    with pytest.raises(TruncatedError, match=outcome.name.lower()):
        call.reply()


def test_body_held_does_not_depend_on_how_it_was_cut() -> None:
    whole, cut = (Call(1, None, None, receipt_required=False, live=False) for _ in range(2))
    whole.add(b"abc" * 1000)
    for _ in range(1000):
        cut.add(b"a")
        cut.add(b"bc")
    assert whole.take() == cut.take()
    assert cut.unread == 0
    assert cut.size == 3000


def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "MAX_RESPONSE_BYTES", 10)
    pieces = call_module.Pieces()
    pieces.add(bytes(10))
    with pytest.raises(UnavailableError):
        pieces.add(b"1")


@pytest.mark.fuzz
@given(st.integers(min_value=0, max_value=6_500), st.integers(min_value=1, max_value=255))
def test_no_byte_of_the_peer_can_change_unnoticed(place: int, flip: int) -> None:
    """Flip one byte of what the runtime sends, from its hello to its receipt: there is no reply."""
    with FakeRuntime() as runtime:
        bench = Bench(runtime)
        flipped, call = False, None
        seen = 0
        while data := bytearray(bench.up()):
            if seen <= place < seen + len(data):
                data[place - seen] ^= flip
                flipped = True
            seen += len(data)
            bench.exchange.receive_data(bytes(data))
            if bench.exchange.ready and call is None and bench.exchange.fault is None:
                call = bench.exchange.start(ASK)
    if flipped:
        assert call is None or not call.done or call.error is not None
    else:
        assert call is not None
        assert call.reply().receipt is not None


@given(st.binary(max_size=200))
def test_garbage_in_place_of_a_runtime_leaves_only_our_errors(garbage: bytes) -> None:
    with FakeRuntime() as runtime:
        exchange = Bench(runtime).exchange
    exchange.receive_data(garbage)
    exchange.eof_received()
    assert isinstance(exchange.fault, EphemeralError)
    assert not exchange.ready
