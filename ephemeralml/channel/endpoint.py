"""What both ends of a channel share: frames in, frames out, records, faults, the end.

`ClientChannel` and `ServerChannel` add their halves of the handshake. No I/O
and no clock: the owner moves bytes and keeps the time limits.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from ephemeralml.channel.events import AlertReceived, Event, MessageReceived
from ephemeralml.channel.frames import (
    MAX_PLAINTEXT,
    TAG_BYTES,
    Frame,
    FrameReader,
    FrameType,
    VersionMismatchError,
    encode_frame,
)
from ephemeralml.channel.hello import Alert, AlertCode
from ephemeralml.channel.messages import (
    MAX_CLOSE_TEXT,
    Close,
    CloseReason,
    Direction,
    Message,
    Ping,
    Pong,
    decode,
    encode_pieces,
    may_say,
)
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from ephemeralml.channel.records import Opener, Sealer

MAX_PINGS = 64
"""Most pings of our own that may wait for their pongs."""


class State(Enum):
    """Where a channel stands."""

    START = "start"
    """Client: client_hello is queued. Server: waiting for it."""
    OFFERED = "offered"
    """Client: a server_hello waits to be accepted. Server: a client_hello waits to be answered."""
    FINISHING = "finishing"
    """Client: client_finish is queued; waiting for server_finish. Server: server_hello is queued."""
    ESTABLISHED = "established"
    FAILED = "failed"
    """Ended by a fault, an alert, or the peer's going."""
    FINISHED = "finished"
    """Both sides have said close."""


class Endpoint(ABC):
    """One end of a channel.

    The owner sends whatever `data_to_send` returns, after every call; passes
    what it receives to `receive_data`; and calls `eof_received` at the end.
    """

    _speaks: Direction
    _hears: Direction

    def __init__(self, expected: FrameType) -> None:
        self.state = State.START
        """Where the channel stands."""
        self._frames = FrameReader(expected=(expected, FrameType.ALERT))
        self._out: deque[bytes | bytearray] = deque()
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._max_record = MAX_PLAINTEXT
        self._alerted = False
        self._close_sent = False
        self._peer_close: Close | None = None
        self._pings: deque[int] = deque()

    @property
    def established(self) -> bool:
        """Whether messages may flow."""
        return self.state is State.ESTABLISHED

    @property
    def peer_close(self) -> Close | None:
        """The peer's close message, once it has come: nothing will follow it."""
        return self._peer_close

    @property
    def close_sent(self) -> bool:
        """Whether our direction has ended."""
        return self._close_sent

    @property
    def finished(self) -> bool:
        """Whether both directions have ended with their close: time to end the stream."""
        return self.state is State.FINISHED

    def data_to_send(self) -> bytes | bytearray:
        """Return what is queued for the peer, and forget it.

        The object is the caller's alone; a single record is handed over uncopied.
        """
        if len(self._out) == 1:
            return self._out.popleft()
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes | bytearray | memoryview) -> Iterator[Event]:
        """Take bytes from the peer and return an iterator over what they mean.

        Iterate it to its end: frames are worked off as it advances, so that
        whatever came before a fault is seen before the fault is raised. After
        an error the channel is over; `data_to_send` may still hold an alert or
        a close for the peer.

        Raises (while iterating):
            MalformedError: A frame, payload or message that breaks its form.
            RejectedError: Something that parses and is not the peer's: a record,
                a confirmation, a session secret.
            UnavailableError: Never; a received alert is an event.
            RuntimeError: The channel is over already.
        """
        if self.state is State.FAILED:
            raise RuntimeError("the channel is over")
        self._frames.receive(data)
        return self._work()

    def eof_received(self) -> None:
        """Note that the peer's byte stream has ended.

        Once established this is no error here: whether anything was truncated
        is for `streams` to say, since a stream is complete once its end has
        verified, even if close is missing (channel section 7, Completeness).

        Raises:
            UnavailableError: There was no channel yet.
            RuntimeError: The channel is over already.
        """
        if self.state is State.FAILED:
            raise RuntimeError("the channel is over")
        if self.finished:
            return
        established = self.established
        self._fail()
        if not established:
            raise UnavailableError("the peer ended the connection during the handshake")

    def send(self, message: Message) -> None:
        """Seal *message* as the next record.

        Raises:
            MalformedError: It is longer than the session's max_record.
            RuntimeError: Not established, closed, or a direction it is not for.
        """
        if isinstance(message, Close):
            self.close(message.reason, message.text)
            return
        if isinstance(message, Pong) or not may_say(self._speaks, message):
            raise RuntimeError(f"{type(message).__name__} is not for this side to send")
        self._seal(message)
        if isinstance(message, Ping):
            self._pings.append(message.value)

    def ping(self, value: int) -> bool:
        """Ask for a pong, which `MessageReceived` will show; False if too many are on their way."""
        if len(self._pings) >= MAX_PINGS:
            return False
        self.send(Ping(value))
        return True

    def close(self, reason: CloseReason = CloseReason.DONE, text: str = "") -> None:
        """End our direction with a close message; the second call does nothing.

        Before the channel is established, and after it failed, there is nothing
        to close and nothing is sent.
        """
        if self._close_sent or self._sealer is None or self.state is State.FAILED:
            return
        self._seal(Close(reason, text.encode()[:MAX_CLOSE_TEXT].decode(errors="ignore")))
        self._close_sent = True
        if self._peer_close is not None:
            self.state = State.FINISHED

    def alert(self, code: AlertCode, text: str = "") -> None:
        """Give up before the channel is established, and say why; the channel is over.

        Raises:
            RuntimeError: It is established, or over.
        """
        if self._sent_finish() or self.state in (State.FAILED, State.FINISHED):
            raise RuntimeError(f"no alert in state {self.state.value}")
        self._queue_alert(code, text)
        self._fail()

    @abstractmethod
    def _handshake(self, frame: Frame) -> Iterator[Event]:
        """Take a handshake frame, which is one that may come now."""

    @abstractmethod
    def _sent_finish(self) -> bool:
        """Whether we count the channel as established, so that no alert may be sent."""

    def _work(self) -> Iterator[Event]:
        try:
            while (frame := self._next_frame()) is not None:
                yield from self._frame(frame)
        except EphemeralError as error:
            self._fault(error)
            raise

    def _next_frame(self) -> Frame | None:
        if self.state is State.FAILED:
            return None
        if self._peer_close is not None and self._frames.buffered:
            raise MalformedError("bytes behind the peer's close")
        return self._frames.next_frame()

    def _frame(self, frame: Frame) -> Iterator[Event]:
        if frame.type is FrameType.RECORD:
            assert self._opener is not None
            plaintext = self._opener.open(frame.payload)
            yield from self._message(decode(plaintext, self._hears))
        elif frame.type is FrameType.ALERT:
            alert = Alert.decode(bytes(frame.payload))
            self._fail()
            yield AlertReceived(alert)
        else:
            yield from self._handshake(frame)

    def _message(self, message: Message) -> Iterator[Event]:
        match message:
            case Ping(value):
                # In order and at most as many bytes as were received, so a flood of
                # pings is bounded by the owner's own reading.
                if not self._close_sent:
                    self._seal(Pong(value))
                return
            case Pong(value):
                if not self._pings or self._pings[0] != value:
                    return
                self._pings.popleft()
            case Close():
                self._peer_close = message
                if self._close_sent:
                    self.state = State.FINISHED
            case _:
                pass
        yield MessageReceived(message)

    def _fault(self, error: EphemeralError) -> None:
        """End the channel, telling the peer what may be told."""
        if self._sealer is not None and self._sent_finish():
            # A record that does not open is nobody's message: no answer, no oracle.
            if not isinstance(error, RejectedError):
                self.close(CloseReason.PROTOCOL)
        elif isinstance(error, VersionMismatchError):
            self._queue_alert(AlertCode.VERSION, error.message)
        else:
            self._queue_alert(AlertCode.MALFORMED, error.message)
        self._fail()

    def _fail(self) -> None:
        """Note that the channel is over."""
        self.state = State.FAILED

    def _queue_alert(self, code: AlertCode, text: str) -> None:
        if not self._alerted:
            self._alerted = True
            self._out.append(encode_frame(FrameType.ALERT, Alert(code, text).encode()))

    def _seal(self, message: Message) -> None:
        if self._sealer is None or self._close_sent or self.state is State.FAILED:
            raise RuntimeError(f"no message in state {self.state.value}{' after close' if self._close_sent else ''}")
        pieces = encode_pieces(message)
        length = sum(len(piece) for piece in pieces)
        if length > self._max_record:
            raise MalformedError(f"a message of {length} bytes, this session's records hold {self._max_record}")
        self._out.append(self._sealer.seal_frame(pieces))

    def _agree(self, max_record: int) -> None:
        """Bind both directions' records to the session's limit."""
        self._max_record = max_record
        self._frames.limit(FrameType.RECORD, max_record + TAG_BYTES)
