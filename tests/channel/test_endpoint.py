"""An established channel: order, pings, closes, faults, and the limits of records."""

from typing import TYPE_CHECKING

import pytest

from ephemeralml.channel import (
    Body,
    Cancel,
    Close,
    CloseReason,
    End,
    Limits,
    MessageReceived,
    Outcome,
    Ping,
    Pong,
    Request,
    Response,
)
from ephemeralml.channel.endpoint import MAX_PINGS, Endpoint, State
from ephemeralml.channel.frames import FrameType, encode_frame
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError, RejectedError
from tests.channel.pair import Pair, established_pair, make_pair

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST = Request(1, "GET", "/v1/models")


def heard(side: Endpoint, data: bytes | bytearray) -> list[object]:
    return [event.message for event in side.receive_data(data) if isinstance(event, MessageReceived)]


def records(side: Endpoint, count: int) -> list[bytes]:
    out = []
    for number in range(count):
        side.send(Body(1, b"piece %d" % number))
        out.append(bytes(side.data_to_send()))
    return out


@pytest.fixture
def pair() -> Pair:
    return established_pair()


def test_messages_both_ways(pair: Pair) -> None:
    pair.client.send(REQUEST)
    assert heard(pair.server, pair.client.data_to_send()) == [REQUEST]
    answer = [Response(1, 200, {}), Body(1, b"ok", fin=True), End(1, Outcome.COMPLETE)]
    for message in answer:
        pair.server.send(message)
    assert heard(pair.client, pair.server.data_to_send()) == answer


def test_messages_right_behind_client_finish() -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    pair.client_step(bytes(pair.server.data_to_send()))
    assert not pair.client.established
    pair.client.send(REQUEST)
    pair.server_step(bytes(pair.client.data_to_send()))
    assert pair.server_events[-1] == MessageReceived(REQUEST)


def test_nothing_is_trusted_before_server_finish() -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    pair.client_step(bytes(pair.server.data_to_send()))
    pair.server_step(bytes(pair.client.data_to_send()))
    pair.server.data_to_send()  # server_finish, which the relay keeps
    pair.server.send(Response(1, 200))
    with pytest.raises(MalformedError, match="record frame out of order"):
        list(pair.client.receive_data(pair.server.data_to_send()))


def test_no_message_before_the_keys() -> None:
    pair = make_pair()
    for side in (pair.client, pair.server):
        with pytest.raises(RuntimeError):
            side.send(Ping(1))
        side.close()
        assert not side.close_sent


@pytest.mark.parametrize("change", ["flip", "drop", "repeat", "swap", "truncate", "insert"])
@pytest.mark.parametrize("way", ["c2s", "s2c"])
def test_records_meddled_with(pair: Pair, change: str, way: str) -> None:
    sender, receiver = (pair.client, pair.server) if way == "c2s" else (pair.server, pair.client)
    sent = records(sender, 4)
    meddled: dict[str, Callable[[], list[bytes]]] = {
        "flip": lambda: [sent[0], sent[1][:-1] + bytes((sent[1][-1] ^ 1,)), *sent[2:]],
        "drop": lambda: [sent[0], *sent[2:]],
        "repeat": lambda: [sent[0], sent[0], *sent[1:]],
        "swap": lambda: [sent[0], sent[2], sent[1], sent[3]],
        "truncate": lambda: [sent[0], encode_frame(FrameType.RECORD, sent[1][8:-1]), *sent[2:]],
        "insert": lambda: [sent[0], encode_frame(FrameType.RECORD, bytes(40)), *sent[1:]],
    }
    seen: list[object] = []
    events = receiver.receive_data(b"".join(meddled[change]()))
    with pytest.raises(RejectedError) as raised:
        seen.extend(event.message for event in events if isinstance(event, MessageReceived))
    assert raised.value.code == "CHANNEL_RECORD"
    # What came before the fault is delivered; nothing behind it is, and nothing is answered.
    assert seen == [Body(1, b"piece 0")]
    assert receiver.state is State.FAILED
    assert receiver.data_to_send() == b""
    with pytest.raises(RuntimeError):
        receiver.receive_data(sent[1])
    with pytest.raises(RuntimeError):
        receiver.send(Ping(1))


def test_every_byte_of_a_record_frame_flipped() -> None:
    pair = established_pair()
    pair.client.send(REQUEST)
    frame = bytes(pair.client.data_to_send())
    for position in range(len(frame)):
        other = established_pair()
        other.client.send(REQUEST)
        changed = bytearray(other.client.data_to_send())
        changed[position] ^= 1
        try:
            assert heard(other.server, changed) == [], position
        except (MalformedError, RejectedError):
            continue
        other.server.eof_received()


def test_a_record_of_the_other_direction(pair: Pair) -> None:
    pair.client.send(Ping(1))
    with pytest.raises(RejectedError):
        list(pair.client.receive_data(pair.client.data_to_send()))


def test_a_cut_at_every_message_boundary() -> None:
    for keep in range(5):
        pair = established_pair()
        sent = records(pair.client, 4)
        assert len(heard(pair.server, b"".join(sent[:keep]))) == keep
        pair.server.eof_received()  # no error by itself: completeness is the streams' business
        assert pair.server.state is State.FAILED
        assert pair.server.peer_close is None
        with pytest.raises(RuntimeError):
            pair.server.eof_received()


# Faults


def raw_record(side: Endpoint, plaintext: bytes) -> bytes:
    assert side._sealer is not None
    return bytes(side._sealer.seal_frame((plaintext,)))


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\xff",
        cbor.encode([9, 1]),
        cbor.encode([1, 2, b"", True]),
        cbor.encode([5, 1]) + b"\x00",
        b"\x82\x18\x05\x01",
    ],
)
@pytest.mark.parametrize("way", ["c2s", "s2c"])
def test_a_broken_form_ends_the_channel_with_reason_3(pair: Pair, plaintext: bytes, way: str) -> None:
    sender, receiver = (pair.client, pair.server) if way == "c2s" else (pair.server, pair.client)
    with pytest.raises(MalformedError):
        list(receiver.receive_data(raw_record(sender, plaintext)))
    assert receiver.state is State.FAILED
    assert heard(sender, receiver.data_to_send()) == [Close(CloseReason.PROTOCOL)]


def test_the_wrong_direction_ends_the_channel(pair: Pair) -> None:
    with pytest.raises(MalformedError, match="wrong direction"):
        list(pair.client.receive_data(raw_record(pair.server, cbor.encode([4, 1]))))
    pair = established_pair()
    with pytest.raises(MalformedError, match="wrong direction"):
        list(pair.server.receive_data(raw_record(pair.client, cbor.encode([2, 1, 200, {}]))))


def test_sending_in_the_wrong_direction_is_the_callers_bug(pair: Pair) -> None:
    for side, messages in (
        (pair.client, [Response(1, 200), End(1, Outcome.COMPLETE), Pong(1)]),
        (pair.server, [REQUEST, Cancel(1), Pong(1)]),
    ):
        for message in messages:
            with pytest.raises(RuntimeError):
                side.send(message)  # type: ignore[arg-type]
        assert side.data_to_send() == b""


def test_max_record_binds_both_directions() -> None:
    limits = Limits(max_record=100)
    pair = established_pair(limits=limits)
    for side, other in ((pair.client, pair.server), (pair.server, pair.client)):
        side.send(Body(1, bytes(100 - 6)))
        assert len(heard(other, side.data_to_send())) == 1
        with pytest.raises(MalformedError, match="records hold 100"):
            side.send(Body(1, bytes(100 - 5)))
    for way in ("c2s", "s2c"):
        pair = established_pair(limits=limits)
        sender, receiver = (pair.client, pair.server) if way == "c2s" else (pair.server, pair.client)
        with pytest.raises(MalformedError, match="record of 117 bytes"):
            list(receiver.receive_data(raw_record(sender, bytes(101))))


def test_the_largest_record() -> None:
    pair = established_pair()
    body = Body(1, bytes((1 << 20) - 9), fin=True)
    pair.client.send(body)
    assert heard(pair.server, pair.client.data_to_send()) == [body]
    with pytest.raises(MalformedError):
        pair.client.send(Body(1, bytes((1 << 20) - 8)))


def test_record_frames_that_are_too_long_are_refused_by_their_header(pair: Pair) -> None:
    with pytest.raises(MalformedError, match="record of 1048593"):
        list(pair.server.receive_data(b"\x05\x00\x00\x01\x00\x10\x00\x11"))
    assert heard(pair.client, pair.server.data_to_send()) == [Close(CloseReason.PROTOCOL)]


# Pings


def test_each_ping_gets_its_pong_in_order(pair: Pair) -> None:
    for value in (7, 0, 2**64 - 1, 7):
        assert pair.client.ping(value)
    assert heard(pair.server, pair.client.data_to_send()) == []
    assert heard(pair.client, pair.server.data_to_send()) == [Pong(7), Pong(0), Pong(2**64 - 1), Pong(7)]
    pair.server.send(Ping(3))
    list(pair.client.receive_data(pair.server.data_to_send()))
    assert heard(pair.server, pair.client.data_to_send()) == [Pong(3)]


def test_unasked_pongs_are_ignored(pair: Pair) -> None:
    pair.client.ping(5)
    pair.client.data_to_send()
    pongs = [raw_record(pair.server, cbor.encode([6, value])) for value in (4, 5, 5)]
    assert heard(pair.client, b"".join(pongs)) == [Pong(5)]


def test_pings_of_our_own_are_bounded(pair: Pair) -> None:
    assert all(pair.client.ping(n) for n in range(MAX_PINGS))
    assert not pair.client.ping(0)


def test_no_pong_behind_our_close(pair: Pair) -> None:
    pair.server.close()
    pair.server.data_to_send()
    pair.client.ping(1)
    assert heard(pair.server, pair.client.data_to_send()) == []
    assert pair.server.data_to_send() == b""


# Closes


def test_both_sides_close(pair: Pair) -> None:
    pair.client.close(CloseReason.DONE, "bye")
    assert not pair.client.finished
    assert heard(pair.server, pair.client.data_to_send()) == [Close(CloseReason.DONE, "bye")]
    assert pair.server.peer_close == Close(CloseReason.DONE, "bye")
    pair.server.send(Response(1, 200))  # a request may still be answered
    pair.server.send(Close(CloseReason.DONE))
    assert pair.server.finished
    assert heard(pair.client, pair.server.data_to_send()) == [Response(1, 200), Close(CloseReason.DONE)]
    assert pair.client.finished
    pair.client.eof_received()
    pair.server.eof_received()
    assert pair.client.finished
    assert pair.server.finished


def test_close_is_the_last_message(pair: Pair) -> None:
    pair.client.close()
    pair.client.close(CloseReason.LIMIT)
    with pytest.raises(RuntimeError, match="after close"):
        pair.client.send(REQUEST)
    with pytest.raises(RuntimeError):
        pair.client.ping(1)
    late = raw_record(pair.client, cbor.encode([5, 1]))
    events = pair.server.receive_data(bytes(pair.client.data_to_send()) + late)
    assert next(events) == MessageReceived(Close(CloseReason.DONE))
    with pytest.raises(MalformedError, match="behind the peer's close"):
        next(events)


def test_bytes_behind_the_peers_close(pair: Pair) -> None:
    pair.client.close()
    list(pair.server.receive_data(pair.client.data_to_send()))
    with pytest.raises(MalformedError, match="behind the peer's close"):
        list(pair.server.receive_data(b"\x05"))


def test_a_closes_text_is_cut(pair: Pair) -> None:
    pair.server.close(CloseReason.LIMIT, "é" * 200)
    assert heard(pair.client, pair.server.data_to_send()) == [Close(CloseReason.LIMIT, "é" * 100)]


def test_sequence_numbers_count_every_record() -> None:
    """A session that crosses the rekeying boundary, by an injected counter."""
    pair = established_pair()
    for side in (pair.client, pair.server):
        assert side._sealer is not None
        assert side._opener is not None
        side._sealer.sequence = side._opener.sequence = (1 << 16) - 1
    for value in range(3):
        pair.client.ping(value)
    list(pair.server.receive_data(pair.client.data_to_send()))
    assert heard(pair.client, pair.server.data_to_send()) == [Pong(0), Pong(1), Pong(2)]
    assert repr(pair.client._sealer) == f"Sealer(sequence={(1 << 16) + 2})"
