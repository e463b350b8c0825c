"""Limits and turns: no peer takes more than its share."""

import asyncio

import pytest

from ephemeralml.host.admission import LOCAL, Admission, Refusal, Turnstile, peer_of
from ephemeralml.host.limits import MAX_BUFFERED_BYTES, Limits


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        (None, LOCAL),
        ("", LOCAL),
        ("127.0.0.1", LOCAL),
        ("127.8.9.10", LOCAL),
        ("::1", LOCAL),
        ("::ffff:127.0.0.1", LOCAL),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_peer_of(host: str | None, peer: str) -> None:
    assert peer_of(host) == peer


def test_connection_limit_is_shared_by_all_and_freed_by_release() -> None:
    admission = Admission(Limits(connections=2), _Clock())
    assert admission.admit(LOCAL) == 0
    assert admission.admit("192.0.2.1") == 0
    assert admission.admit("192.0.2.2") is Refusal.CONNECTIONS
    admission.release(LOCAL)
    assert admission.admit("192.0.2.2") == 0
    assert admission.connections == 2


def test_one_peer_gets_its_share_and_others_still_enter() -> None:
    admission = Admission(Limits(connections=10, per_peer=3), _Clock())
    assert [admission.admit("192.0.2.1") for _ in range(4)][3] is Refusal.PER_PEER
    assert admission.admit("192.0.2.2") == 0
    assert [admission.admit(LOCAL) for _ in range(6)] == [0] * 6


def test_local_peers_can_be_limited_too() -> None:
    admission = Admission(Limits(per_peer=1, local_exempt=False), _Clock())
    assert admission.admit(LOCAL) == 0
    assert admission.admit(LOCAL) is Refusal.PER_PEER


def test_a_fast_peer_waits_and_a_faster_one_is_refused() -> None:
    clock = _Clock()
    admission = Admission(
        Limits(connections=10_000, per_peer=10_000, peer_rate=8, peer_burst=5, connect_seconds=1), clock
    )
    waits = [admission.admit("192.0.2.1") for _ in range(14)]
    assert waits[:5] == [0] * 5
    assert waits[5] == 0.125
    assert waits[12] == 1.0
    assert waits[13] is Refusal.RATE
    assert admission.admit("192.0.2.2") == 0
    clock.now += 10
    assert admission.admit("192.0.2.1") == 0


def test_forgotten_peers_do_not_fill_memory() -> None:
    clock = _Clock()
    admission = Admission(Limits(), clock)
    for number in range(40_000):
        peer = f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}"
        assert admission.admit(peer) == 0
        admission.release(peer)
    assert len(admission._peers) <= 16_384


def test_connected_peers_are_never_forgotten() -> None:
    admission = Admission(Limits(), _Clock())
    admission.admit("192.0.2.1")
    for number in range(20_000):
        peer = f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}"
        admission.admit(peer)
        admission.release(peer)
    admission.release("192.0.2.1")
    assert admission.connections == 0


@pytest.mark.parametrize("field", ["connections", "per_peer", "peer_burst", "connecting"])
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(**{field: 0})


@pytest.mark.parametrize("size", [0, MAX_BUFFERED_BYTES + 1])
def test_a_chunk_never_exceeds_what_the_specification_allows(size: int) -> None:
    with pytest.raises(ValueError, match="buffers"):
        Limits(chunk_bytes=size)


async def _visit(turnstile: Turnstile, peer: str, order: list[str], leave: asyncio.Event) -> None:
    async with turnstile.turn(peer):
        order.append(peer)
        await leave.wait()


async def test_waiting_peers_are_taken_in_turn() -> None:
    turnstile = Turnstile(1)
    order: list[str] = []
    leave = asyncio.Event()
    first = asyncio.create_task(_visit(turnstile, "first", order, leave))
    await asyncio.sleep(0)
    crowd = [asyncio.create_task(_visit(turnstile, "crowd", order, leave)) for _ in range(5)]
    await asyncio.sleep(0)
    late = asyncio.create_task(_visit(turnstile, "late", order, leave))
    await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(first, *crowd, late)
    assert order == ["first", "crowd", "late", "crowd", "crowd", "crowd", "crowd"]


async def test_a_cancelled_wait_loses_no_place() -> None:
    turnstile = Turnstile(1)
    order: list[str] = []
    leave = asyncio.Event()
    first = asyncio.create_task(_visit(turnstile, "first", order, leave))
    await asyncio.sleep(0)
    gone = [asyncio.create_task(_visit(turnstile, "gone", order, leave)) for _ in range(3)]
    last = asyncio.create_task(_visit(turnstile, "last", order, leave))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    leave.set()
    await asyncio.gather(first, last)
    assert order == ["first", "last"]
    async with asyncio.timeout(1), turnstile.turn("again"):
        pass


async def test_a_place_given_to_a_task_that_is_cancelled_goes_on() -> None:
    turnstile = Turnstile(1)
    inside = turnstile.turn("first")
    await inside.__aenter__()
    order: list[str] = []
    leave = asyncio.Event()
    leave.set()
    unlucky = asyncio.create_task(_visit(turnstile, "unlucky", order, leave))
    last = asyncio.create_task(_visit(turnstile, "last", order, leave))
    await asyncio.sleep(0)
    await inside.__aexit__(None, None, None)
    unlucky.cancel()
    await asyncio.gather(unlucky, last, return_exceptions=True)
    assert order == ["last"]
