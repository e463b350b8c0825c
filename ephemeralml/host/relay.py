"""The blind relay: bytes from clients to the enclave and back (channel.md section 5).

It parses nothing and knows no key, so there is nothing in it to attack but its
availability; that is what its limits are for. It logs sizes and times, and no
peer's address.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ephemeralml.errors import UnavailableError
from ephemeralml.host.admission import Admission, Refusal, Turnstile, peer_of
from ephemeralml.host.doors import Door, dial, open_door
from ephemeralml.host.limits import Limits
from ephemeralml.host.pump import Pump
from ephemeralml.host.splice import Outcome, Splice
from ephemeralml.transport.address import Address
from ephemeralml.transport.streams import Stream, Visit

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 2.0


class _Joined(Protocol):
    """A connection whose two sides are connected: a `Splice` or a `Pump`."""

    @property
    def delivered(self) -> tuple[int, int]: ...
    @property
    def waiting(self) -> tuple[int, int]: ...
    def lost(self) -> Outcome | None: ...
    def close(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class _Ticket:
    """An admitted connection on its way to the target, by the loop's clock."""

    peer: str
    earliest: float
    """When its peer's pace lets it reach out."""
    deadline: float
    """When the target must have answered."""


@dataclass(slots=True)
class _Record:
    """What the relay knows of a joined connection: sizes and times."""

    number: int
    peer: str | None
    """Whose count it leaves with its end; None where its door says when it does."""
    since: float
    active: float
    """When a byte was last known to have been delivered."""
    seen: tuple[int, int] = (0, 0)
    """Bytes delivered by then, per direction."""
    blocked: list[float | None] = field(default_factory=lambda: [None, None])
    """Since when bytes of a direction wait without progress, or None."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the relay's life."""

    accepted: int
    refused: int
    unreachable: int
    active: int
    bytes_up: int
    bytes_down: int


class Relay:
    """Accepts connections on some addresses and joins each to a new one to *target*.

    It is made inside a running event loop.

    Args:
        listen: Where clients connect: tcp, unix or ws addresses.
        target: Where the enclave listens: a vsock, tcp or unix address.
        limits: Bounds; the defaults are for one host.
    """

    def __init__(self, listen: Sequence[Address], target: Address, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._listen = tuple(listen)
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._admission = Admission(self.limits, self._loop.time)
        self._turnstile = Turnstile(self.limits.connecting)
        self._buffer = memoryview(bytearray(self.limits.chunk_bytes))
        self._doors: list[Door] = []
        self._joined: dict[_Joined, _Record] = {}
        self._tasks: set[asyncio.Task[socket.socket | None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def totals(self) -> Totals:
        """What the relay has done so far."""
        live = [joined.delivered for joined in self._joined]
        return Totals(
            accepted=self._counts["accepted"],
            refused=self._counts["refused"],
            unreachable=self._counts["unreachable"],
            active=self._admission.connections,
            bytes_up=self._counts["up"] + sum(up for up, _ in live),
            bytes_down=self._counts["down"] + sum(down for _, down in live),
        )

    async def start(self) -> tuple[Address, ...]:
        """Listen, and return the addresses as bound (a port 0 has become a real one).

        Raises:
            UnavailableError: An address cannot be bound; then none stays bound.
        """
        try:
            for address in self._listen:
                self._doors.append(await self._open(address))
        except BaseException:
            await self.stop(drain=False)
            raise
        self._sweeper = self._loop.create_task(self._sweep_forever(), name="relay sweep")
        return tuple(door.address for door in self._doors)

    async def stop(self, *, drain: bool = True) -> None:
        """Listen no more, let connections end for `drain_seconds`, then cut what is left."""
        for door in self._doors:
            door.stop_accepting()
        if drain:
            await self._drained()
        for joined in tuple(self._joined):
            joined.close(Outcome.DRAINED)
        for task in (*self._tasks, *filter(None, [self._sweeper])):
            task.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._sweeper]), return_exceptions=True)
        for door in self._doors:
            await door.close()
        self._doors.clear()
        self._sweeper = None
        self._say_counts()

    async def _open(self, address: Address) -> Door:
        return await open_door(address, self._accepted, self._knocked, opening_seconds=self.limits.connect_seconds)

    async def _drained(self) -> None:
        """Wait until no connection is left, or the time for it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.drain_seconds):
                await self._empty.wait()

    # -- a new connection -------------------------------------------------------------------

    def _accepted(self, front: socket.socket, host: str | None) -> None:
        """Take a raw connection, or close it at once; called by a door."""
        ticket = self._admit(host)
        if ticket is None:
            front.close()
            return
        self._counts["accepted"] += 1
        task = self._loop.create_task(self._reach(ticket))
        self._tasks.add(task)
        task.add_done_callback(partial(self._reached, front, ticket.peer))

    def _reached(self, front: socket.socket, peer: str, task: asyncio.Task[socket.socket | None]) -> None:
        """Splice *front* to the target that *task* has reached, if it has."""
        self._tasks.discard(task)
        back = None if task.cancelled() else task.result()
        if back is None:
            front.close()
            self._release(peer)
            return
        splice = Splice(front, back, self._buffer, self._ended)
        self._remember(splice, peer)
        splice.start()

    def _knocked(self, host: str) -> Visit | None:
        """Count a WebSocket connection that has not opened yet, or refuse it; called by a door."""
        ticket = self._admit(host)
        if ticket is None:
            return None
        return Visit(partial(self._visited, ticket), partial(self._release, ticket.peer))

    async def _visited(self, ticket: _Ticket, front: Stream) -> None:
        """Serve a WebSocket connection, now open, until it ends; called by a door in the connection's task."""
        self._counts["accepted"] += 1
        back = None
        try:
            back = await self._reach(ticket)
        finally:
            if back is None:
                front.abort()
        if back is not None:
            pump = Pump(front, back, self.limits.chunk_bytes, self._ended)
            self._remember(pump, None)
            await pump.run()

    def _admit(self, host: str | None) -> _Ticket | None:
        """Count a new connection from *host*; None if it is refused."""
        peer = peer_of(host)
        verdict = self._admission.admit(peer)
        if isinstance(verdict, Refusal):
            self._counts["refused"] += 1
            self._tell(f"refused, {verdict.value}")
            return None
        self._empty.clear()
        now = self._loop.time()
        return _Ticket(peer, now + verdict, now + self.limits.connect_seconds)

    def _release(self, peer: str) -> None:
        self._admission.release(peer)
        if not self._admission.connections:
            self._empty.set()

    async def _reach(self, ticket: _Ticket) -> socket.socket | None:
        """Return a connection to the target, or None, said in the log, if there is none in time."""
        try:
            async with asyncio.timeout_at(ticket.deadline):
                if (wait := ticket.earliest - self._loop.time()) > 0:
                    await asyncio.sleep(wait)
                async with self._turnstile.turn(ticket.peer):
                    return await dial(self._target)
        except TimeoutError:
            reason = "no answer in time"
        except UnavailableError as error:
            reason = error.message
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
        self._counts["unreachable"] += 1
        self._tell(f"closed, target unreachable ({reason})")
        return None

    # -- joined connections -----------------------------------------------------------------

    def _remember(self, joined: _Joined, peer: str | None) -> None:
        now = self._loop.time()
        self._joined[joined] = _Record(next(self._numbers), peer, since=now, active=now)

    def _ended(self, joined: _Joined, outcome: Outcome) -> None:
        """Forget a connection and say its sizes and times."""
        record = self._joined.pop(joined)
        if record.peer is not None:
            self._release(record.peer)
        up, down = joined.delivered
        self._counts["up"] += up
        self._counts["down"] += down
        seconds = self._loop.time() - record.since
        log.info(
            "connection %d %s after %.3f s, %d bytes up, %d bytes down", record.number, outcome.value, seconds, up, down
        )

    async def _sweep_forever(self) -> None:
        """Now and then end what is idle, stalled or dead, and say what was counted."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self.limits.stall_seconds / 4, self.limits.idle_seconds / 4))
            now = self._loop.time()
            for joined, record in tuple(self._joined.items()):
                self._inspect(joined, record, now)
            self._say_counts()

    def _inspect(self, joined: _Joined, record: _Record, now: float) -> None:
        delivered, waiting = joined.delivered, joined.waiting
        for way in (0, 1):
            moved = delivered[way] != record.seen[way]
            if moved:
                record.active = now
            if moved or not waiting[way]:
                record.blocked[way] = None
            elif record.blocked[way] is None:
                record.blocked[way] = now
        record.seen = delivered
        longest = max((now - since for since in record.blocked if since is not None), default=0.0)
        if (lost := joined.lost()) is not None:
            joined.close(lost)
        elif longest >= self.limits.stall_seconds:
            joined.close(Outcome.STALLED)
        elif now - record.active >= self.limits.idle_seconds:
            joined.close(Outcome.IDLE)

    def _tell(self, what: str) -> None:
        """Log a failure now if it is the first of its kind since the last sweep, else count it."""
        self._unsaid[what] += 1
        if self._unsaid[what] == 1:
            log.warning("a connection was %s", what)

    def _say_counts(self) -> None:
        for what, count in self._unsaid.items():
            if count > 1:
                log.warning("%d more connections were %s", count - 1, what)
        self._unsaid.clear()
