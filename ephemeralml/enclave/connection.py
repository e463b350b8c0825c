"""One connection from accept to its end (channel sections 2, 4 and 7).

One task reads. It makes the handshake within its deadline, then feeds the
session; whatever goes wrong ends this connection and no other.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.channel.events import AlertReceived, Established, Event, HelloReceived, MessageReceived
from ephemeralml.channel.hello import AlertCode
from ephemeralml.channel.messages import CloseReason
from ephemeralml.channel.server import ServerChannel
from ephemeralml.enclave import log
from ephemeralml.enclave.api.introspection import SessionFacts
from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.evidence_queue import EvidenceQueue
from ephemeralml.enclave.outbox import StreamOutbox
from ephemeralml.enclave.session import Session, Shared
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.transport.streams import Stream

READ_BYTES = 32_768
"""Taken from a peer at once: small enough that a flood of tiny messages holds up nobody for long."""
TURN_SECONDS = 0.002
"""After so long the others get their turn, even if the peer has sent more."""
LINGER_SECONDS = 5.0
"""How long a closed connection may still take what was sent, or say its own close."""


class Ending(Enum):
    """Why a connection ended, for the log."""

    DONE = "done"
    HANDSHAKE_TIMEOUT = "handshake timeout"
    MALFORMED = "malformed"
    REJECTED = "rejected"
    PEER_GONE = "peer gone"
    PEER_ALERT = "peer alert"
    NO_EVIDENCE = "no evidence"
    STALLED = "stalled"
    STOPPED = "stopped"


class _Over(Exception):  # noqa: N818 - an ending, good or bad
    """Ends the connection; carries why."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.value)
        self.ending = ending


@dataclass(frozen=True, slots=True)
class Handshaker:
    """What connections need to become sessions."""

    shared: Shared
    evidence: EvidenceQueue
    new_channel: Callable[[], ServerChannel]


class Connection:
    """One peer."""

    def __init__(self, number: int, stream: Stream, handshaker: Handshaker) -> None:
        self._number = number
        self._stream = stream
        self._shared = handshaker.shared
        self._evidence = handshaker.evidence
        self._limits = handshaker.shared.runtime.config.limits
        self._channel = handshaker.new_channel()
        self._outbox = StreamOutbox(stream, self._shared.writes, self._shared.clock, self._drained)
        self._pending_read: asyncio.Future[bytes] | None = None
        self._hello: HelloReceived | None = None
        self._facts: SessionFacts | None = None
        self._session: Session | None = None
        self._born = self._shared.clock()
        self._closed_at: float | None = None
        self._room: asyncio.Future[None] | None = None
        self._stalled = False
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the peer until either side ends it; raises nothing but cancellation."""
        self._task = asyncio.current_task()
        ending = Ending.STOPPED
        try:
            try:
                async with asyncio.timeout(self._limits.handshake_seconds):
                    await self._handshake()
            except TimeoutError:
                self._alert(AlertCode.TIMEOUT, "the handshake took too long")
                raise _Over(Ending.HANDSHAKE_TIMEOUT) from None
            await self._serve()
        except _Over as over:
            ending = Ending.STALLED if self._stalled else over.ending
        finally:
            self._clean_up(ending)
        await self._linger()

    # what the server asks of it

    def tick(self, now: float) -> None:
        """Judge the clocks of this connection; called about once a second."""
        session = self._session
        if session is None:
            return
        self._wake()  # others may have made room meanwhile
        if self._outbox.stalled_since is not None and now - self._outbox.stalled_since > self._limits.stall_seconds:
            self._stalled = True
            self._stream.abort()
            return
        if self._channel.close_sent:
            self._closed_at = self._closed_at or now
            if now - self._closed_at > LINGER_SECONDS:
                self._stream.abort()
            return
        session.expire(now)
        idle = session.idle_deadline
        if idle is not None and now >= idle:
            session.close(CloseReason.IDLE)
        elif now - self._born >= self._limits.session_seconds:
            session.close(CloseReason.SESSION_AGE)
            if now - self._born >= self._limits.session_seconds + self._limits.drain_seconds:
                session.abort_requests()

    def drain(self) -> None:
        """Take no more requests and close once those in flight have ended."""
        if self._session is not None:
            self._session.close(CloseReason.DRAINING)
        elif self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """End what is in flight with outcome 3, then the connection."""
        if self._session is not None:
            self._session.abort_requests()
            self._session.close(CloseReason.DRAINING)
        self._outbox.end()

    # handshake

    async def _handshake(self) -> None:
        while self._hello is None:
            await self._feed(await self._receive())
        runtime = self._shared.runtime
        prepared = self._channel.prepare(runtime.key.public, runtime.identity)
        made = await self._make_evidence(prepared.expected)
        self._facts = SessionFacts(
            made, prepared.expected.receipt_key, prepared.binding, prepared.expected.nonce or b""
        )
        self._channel.send_hello(made.evidence)
        self._flush()
        while self._session is None:
            await self._feed(await self._receive())

    async def _make_evidence(self, expected: ExpectedBinding) -> SessionEvidence:
        """Wait for evidence, and for the peer's going, whichever is first."""
        making = asyncio.ensure_future(self._evidence.make(expected))
        reading = self._pending_read = asyncio.ensure_future(self._stream.receive(READ_BYTES))
        try:
            await asyncio.wait((making, reading), return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                # Nothing may come now but an alert or the end, and both are the end.
                await self._feed(await self._receive())
                raise _Over(Ending.PEER_GONE)
            return making.result()
        except (UnavailableError, MalformedError) as error:
            log.note(log.Event.EVIDENCE_FAILED, connection=self._number)
            self._alert(AlertCode.EVIDENCE_UNAVAILABLE, "no evidence can be made now")
            raise _Over(Ending.NO_EVIDENCE) from error
        finally:
            making.cancel()

    def _alert(self, code: AlertCode, text: str) -> None:
        """Say why there will be no session, where that may still be said."""
        try:
            self._channel.alert(code, text)
        except RuntimeError:  # established, or over
            return
        self._flush()

    # reading

    async def _receive(self) -> bytes:
        """Return the peer's next bytes.

        Raises:
            _Over: There are none: it has gone.
        """
        reading, self._pending_read = self._pending_read, None
        try:
            data = await (reading if reading is not None else self._stream.receive(READ_BYTES))
        except UnavailableError as error:
            raise _Over(Ending.PEER_GONE) from error
        if not data and self._channel.peer_close is None:
            raise _Over(Ending.DONE if self._channel.close_sent else Ending.PEER_GONE)
        return data

    async def _feed(self, data: bytes, *, patient: bool = False) -> None:
        """Take the peer's bytes, and send what they cause.

        Args:
            data: What came.
            patient: Whether the rest of *data* waits where the peer must take something first.

        Raises:
            _Over: They break the rules, or end the connection.
        """
        clock = self._shared.clock
        turn = clock() + TURN_SECONDS
        try:
            for event in self._channel.receive_data(data):
                self._event(event)
                if clock() > turn:
                    # Nothing else touches what this channel receives, so it can wait here.
                    self._flush()
                    if patient:
                        await self._until_taken()
                    await asyncio.sleep(0)
                    turn = clock() + TURN_SECONDS
        except MalformedError as error:
            self._channel.close(CloseReason.PROTOCOL)
            raise _Over(Ending.MALFORMED) from error
        except RejectedError as error:
            raise _Over(Ending.REJECTED) from error
        finally:
            self._flush()

    def _event(self, event: Event) -> None:
        match event:
            case MessageReceived(message):
                assert self._session is not None
                self._session.receive(message)
            case HelloReceived():
                self._hello = event
            case Established():
                assert self._facts is not None
                assert self._hello is not None
                self._session = Session(self._shared, self._channel, self._facts, self._outbox, self._finished)
                log.note(log.Event.ESTABLISHED, connection=self._number, suite=self._hello.suite)
            case AlertReceived():
                raise _Over(Ending.PEER_ALERT)
            case _:
                raise RuntimeError("an event that no server channel has")

    async def _serve(self) -> None:
        while not self._channel.finished:
            await self._until_taken()
            data = await self._receive()
            if data:
                await self._feed(data, patient=True)
            elif not self._channel.finished:
                # The peer has said close and ended its direction; ours ends with the last answer.
                await self._room_to_write()
        raise _Over(Ending.DONE)

    async def _until_taken(self) -> None:
        """Read no further while the peer must take something first."""
        assert self._session is not None
        while self._session.held:
            await self._room_to_write()

    async def _room_to_write(self) -> None:
        """Stop reading until something was sent, a moment has passed, or the channel has finished."""
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None
        if self._outbox.broken:
            raise _Over(Ending.PEER_GONE)

    # writing

    def _flush(self) -> None:
        if self._session is not None:
            self._session.flush()
        elif data := self._channel.data_to_send():
            self._outbox.write(data)

    def _drained(self) -> None:
        if self._session is not None and not self._outbox.broken:
            self._session.flush()
        self._wake()

    def _finished(self) -> None:
        """Both sides have said close: once all is sent there is nothing to wait for."""
        self._outbox.end()
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _clean_up(self, ending: Ending) -> None:
        if self._session is not None:
            self._session.gone()
        if self._pending_read is not None:
            self._pending_read.cancel()
        if ending is Ending.STOPPED:
            self._outbox.gone()
        age = int((self._shared.clock() - self._born) * 1_000)
        log.note(log.Event.CONNECTION_CLOSED, connection=self._number, reason=ending, milliseconds=age)

    async def _linger(self) -> None:
        """Give what was sent a moment to leave; a peer that takes nothing gets no more."""
        self._outbox.end()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self._stream.wait_closed()
        except TimeoutError:
            self._stream.abort()
        finally:
            self._outbox.gone()
