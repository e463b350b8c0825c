"""Hostile bytes into either end: only our errors leave, nothing grows, and the next peer is served."""

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.evidence import Format
from ephemeralml.channel import ClientChannel, ServerChannel
from ephemeralml.channel.endpoint import State
from ephemeralml.channel.frames import FrameType, encode_frame
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.channel.pair import established_pair, make_pair

FRAMES = st.builds(encode_frame, st.sampled_from(list(FrameType)), st.binary(max_size=200))
GARBAGE = st.lists(FRAMES | st.binary(max_size=60), min_size=1, max_size=5)


def ends() -> list[ClientChannel | ServerChannel]:
    """Return one end in each state in which it waits for the peer."""
    fresh, offered, finishing, established = make_pair(), make_pair(), make_pair(), established_pair()
    list(offered.server.receive_data(offered.client.data_to_send()))
    finishing.server_step(bytes(finishing.client.data_to_send()))
    server_waits = finishing.server
    client_waits = make_pair()
    client_waits.server_step(bytes(client_waits.client.data_to_send()))
    client_waits.client_step(bytes(client_waits.server.data_to_send()))
    return [
        fresh.client, fresh.server, offered.server, server_waits, client_waits.client,
        established.client, established.server,
    ]  # fmt: skip


@pytest.mark.fuzz
@given(GARBAGE)
def test_only_our_errors_leave(pieces: list[bytes]) -> None:
    for end in ends():
        was_established = end.established
        try:
            for piece in pieces:
                list(end.receive_data(piece))
                if end.state is State.FAILED:
                    break
        except (MalformedError, RejectedError):
            assert end.state is State.FAILED
        assert end.established is (was_established and end.state is not State.FAILED)
        assert len(end.data_to_send()) < 1_000
        if end.state is not State.FAILED:
            try:
                end.eof_received()
            except UnavailableError:
                assert not was_established
        with pytest.raises(RuntimeError):
            end.receive_data(b"")


CHANGES = st.tuples(
    st.sampled_from(["set", "insert", "cut"]), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=9)
)


@pytest.mark.fuzz
@given(st.dictionaries(st.integers(0, 3), CHANGES, min_size=1))
def test_a_mutated_session_is_never_accepted(plan: dict[int, tuple[str, int, bytes]]) -> None:
    """One handshake, some of its four frames changed, added to or cut."""
    turn, changed = -1, False

    def relay(_: str, sent: bytes) -> bytes:
        nonlocal turn, changed
        turn += 1
        if turn not in plan:
            return sent
        kind, place, piece = plan[turn]
        at = place % len(sent)
        kept = {"set": at + 1, "insert": at, "cut": len(sent)}[kind]
        meddled = sent[:at] + (b"" if kind == "cut" else piece[:1] if kind == "set" else piece) + sent[kept:]
        changed = changed or meddled != sent
        return meddled

    pair = make_pair()
    try:
        pair.run(relay)
    except EphemeralError:
        assert not pair.client.established
        return
    assert not (pair.established and changed)


def test_connections_that_end_anywhere_leave_nothing_behind() -> None:
    whole = make_pair()
    hello = bytes(whole.client.data_to_send())

    def one(cut: int) -> None:
        server = ServerChannel(formats=(Format.LOCAL,))
        try:
            list(server.receive_data(hello[:cut]))
            list(server.receive_data(b"\x05" * (cut % 3)))
            server.eof_received()
        except EphemeralError:
            pass

    for number in range(200):
        one(number % len(hello))
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2_000):
            one(number % (len(hello) + 1))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
    assert established_pair().established


def test_a_server_keeps_no_more_of_a_hello_than_its_limit() -> None:
    server = ServerChannel(formats=(Format.LOCAL,))
    list(server.receive_data(b"\x01\x00\x00\x01\x00\x00\x40\x00"))
    for _ in range((16 << 10) - 1):
        list(server.receive_data(b"\x00"))
    assert server._frames.buffered == (16 << 10) + 7
    with pytest.raises(MalformedError):
        list(server.receive_data(b"\x00"))
