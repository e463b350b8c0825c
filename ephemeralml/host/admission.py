"""Who may connect, and in which order: the fairness that only the relay can give.

The runtime sees one host; the relay sees peers (channel.md section 4). Nothing
here touches a socket: counts, times and futures in, decisions out.
"""

import asyncio
import ipaddress
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from ephemeralml.host.limits import Limits

LOCAL = "local"
"""The peer that stands for every unix and loopback connection."""
_REMEMBERED_PEERS = 16_384


class Refusal(Enum):
    """Why a connection was not taken."""

    CONNECTIONS = "connection limit"
    PER_PEER = "per-peer limit"
    RATE = "connect rate"


def peer_of(host: str | None) -> str:
    """Return the peer that connections from *host* count against.

    An IPv6 site is one peer: whoever has one address of a /64 has all of them.
    """
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return LOCAL
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return LOCAL
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


@dataclass(slots=True)
class _Peer:
    connections: int = 0
    allowance_ends: float = 0.0
    """The theoretical arrival time of the generic cell rate algorithm."""


class Admission:
    """Counts connections and paces new ones, per peer and together.

    Args:
        limits: The relay's bounds.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self.connections = 0
        """How many are admitted and not released."""

    def admit(self, peer: str) -> float | Refusal:
        """Count one more connection of *peer*; returns the seconds that it must wait first.

        A refused connection is not counted; an admitted one needs its `release`.
        """
        limits = self._limits
        if self.connections >= limits.connections:
            return Refusal.CONNECTIONS
        entry = self._entry(peer)
        wait = 0.0
        if peer != LOCAL or not limits.local_exempt:
            if entry.connections >= limits.per_peer:
                return Refusal.PER_PEER
            now = self._clock()
            step = 1.0 / limits.peer_rate
            earliest = max(entry.allowance_ends, now)
            wait = max(0.0, earliest - now - (limits.peer_burst - 1) * step)
            if wait > limits.connect_seconds:
                return Refusal.RATE
            entry.allowance_ends = earliest + step
        entry.connections += 1
        self.connections += 1
        return wait

    def release(self, peer: str) -> None:
        """Note that an admitted connection of *peer* has ended."""
        self.connections -= 1
        self._peers[peer].connections -= 1

    def _entry(self, peer: str) -> _Peer:
        entry = self._peers.get(peer)
        if entry is None:
            if len(self._peers) >= _REMEMBERED_PEERS:
                self._forget()
            entry = self._peers[peer] = _Peer()
        self._peers.move_to_end(peer)
        return entry

    def _forget(self) -> None:
        """Drop peers without connections, the longest unseen first; they lose only their pace."""
        idle = [name for name, entry in self._peers.items() if not entry.connections]
        for name in idle[: max(1, _REMEMBERED_PEERS // 8)]:
            del self._peers[name]


class Turnstile:
    """Lets a bounded number in at once; those who wait are taken in turn, peer by peer.

    Args:
        places: How many may be inside.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Wait for a place on behalf of *peer* and hold it for the block."""
        if self._free:
            self._free -= 1
        else:
            await self._queue(peer)
        try:
            yield
        finally:
            self._pass_on()

    async def _queue(self, peer: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give a place that became free to the next peer in the round, or keep it."""
        while self._waiting:
            peer, queue = self._waiting.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._waiting[peer] = queue
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
