"""The client's half of a session, without I/O: attest, select, ask, verify.

Bytes in, bytes and finished calls out. Sockets, threads, tasks and waiting
belong to `session` and `async_session`; every check of channel section 4 is
made here, so there is one place to read and to test.
"""

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from ephemeralml import clock
from ephemeralml.attestation.collateral import NO_COLLATERAL, Collateral
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.attestation.verdict import printable
from ephemeralml.channel.client import ClientChannel
from ephemeralml.channel.client_streams import ClientStreams
from ephemeralml.channel.endpoint import State
from ephemeralml.channel.events import AlertReceived, Event, MessageReceived, ServerOffer
from ephemeralml.channel.frames import VersionMismatchError
from ephemeralml.channel.messages import Close, CloseReason, Outcome
from ephemeralml.channel.stream_events import ClientEvent, PeerClosed, ResponseData, ResponseEnded, ResponseStarted
from ephemeralml.channel.suites import PREFERRED, Suite
from ephemeralml.client.alerts import refused_session
from ephemeralml.client.attested import Attested, check_policy_current, verify_offer
from ephemeralml.client.call import (
    MAX_RESPONSE_BYTES,
    OVERRUN_SECONDS,
    STREAM_BUFFER_BYTES,
    Ask,
    Call,
    SessionEndedError,
    TruncatedError,
    check_sizes,
    too_large,
)
from ephemeralml.client.manifests import ManifestStore
from ephemeralml.client.reply import Receipted
from ephemeralml.client.selection import Selection, select
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.receipt.live import LiveReceipts, ModelEntry

if TYPE_CHECKING:
    from ephemeralml.channel.hello import ModelEntry as OfferedModel

RECEIPT_MISSING = "RECEIPT_MISSING"
RECEIPT_UNEXPECTED = "RECEIPT_UNEXPECTED"
MAX_SESSION_SECONDS = 3_600.0
"""A session lives at most an hour (channel section 4)."""
NONCE_BYTES = 32
_BEFORE_AN_OFFER = {
    VersionMismatchError: "update the older side, or is it something else that listens there?",
    MalformedError: "something else than a runtime or relay listens there, or meddles on the way; is the port right?",
    UnavailableError: "is the runtime behind a relay up, and is the port right?",
}
_MARGIN_SECONDS = 10.0
"""We leave a session this long before the runtime would, so that no request meets its close."""


class Exchange:
    """One session: its channel, its streams, and what was verified about its peer.

    Nothing here is safe to call from two threads at once. `receive_data` never
    raises for what the peer does: a fault ends every call and stays in `fault`.

    Args:
        policy: What the caller accepts.
        roots: Trust roots instead of the policy's own.
        collateral: What verification needs beside the document.
        manifests: Where verified manifests are kept, shared by sessions of one policy.
        nonce: The session's nonce; drawn at random if None.
        suites: Cipher suites in order of preference.
        now: Reads the time of day.
        steady: Reads a clock that never jumps, in seconds.
        max_age: Seconds a session may live.
    """

    def __init__(  # noqa: PLR0913 - what a session depends on
        self,
        *,
        policy: Policy,
        roots: TrustRoots | None = None,
        collateral: Collateral = NO_COLLATERAL,
        manifests: ManifestStore | None = None,
        nonce: bytes | None = None,
        suites: tuple[Suite, ...] = PREFERRED,
        now: Callable[[], datetime] = clock.now,
        steady: Callable[[], float] = time.monotonic,
        max_age: float = MAX_SESSION_SECONDS,
    ) -> None:
        self.policy = policy
        self.manifests = ManifestStore(policy) if manifests is None else manifests
        self.attested: Attested | None = None
        """What was verified about the peer; None before that."""
        self.aliases: Mapping[str, str] | None = None
        """The runtime's other names for its models, once somebody has asked it."""
        self.fault: EphemeralError | None = None
        """What ended the session, other than both sides' close."""
        self._roots, self._collateral = roots, collateral
        self._now, self._steady, self._max_age = now, steady, max_age
        self._channel = ClientChannel(suites=suites, formats=policy.formats, nonce=nonce)
        self._streams: ClientStreams | None = None
        self._calls: dict[int, Call] = {}
        self._receipts: LiveReceipts | None = None
        self._accepted = 0
        self._allowed: dict[str, OfferedModel] = {}
        self._lost = False
        self._started = self._last_active = steady()

    # -- the channel

    @property
    def ready(self) -> bool:
        """Whether the peer is attested and both sides have confirmed their keys."""
        return self._streams is not None

    @property
    def over(self) -> bool:
        """Whether no request can be sent any more; the peer's close is answered with ours at once."""
        return self.fault is not None or self._channel.close_sent

    @property
    def finished(self) -> bool:
        """Whether nothing that matters can come any more, so that the byte stream may be closed."""
        return self.fault is not None or self._channel.finished or self._channel.state is State.FAILED

    @property
    def inflight(self) -> int:
        """Streams between their request and their end, cancelled ones included."""
        return self._streams.inflight if self._streams is not None else 0

    @property
    def awaited(self) -> bool:
        """Whether a caller still waits for a reply."""
        return any(not call.done for call in self._calls.values())

    @property
    def full(self) -> bool:
        """Whether the peer takes no further stream until one has ended."""
        return self._streams is not None and not self._streams.free

    def fresh(self) -> bool:
        """Return whether a request may be sent with the prospect of a reply."""
        if not self.ready or self.over or self._attested.policy.expired(self._now()):
            return False
        at = self._steady()
        idle = float(self._attested.limits.idle_seconds)
        if at - self._started > self._max_age - min(_MARGIN_SECONDS, self._max_age / 4):
            return False
        return bool(self.inflight) or at - self._last_active <= idle - min(_MARGIN_SECONDS, idle / 4)

    def data_to_send(self) -> bytes | bytearray:
        """Return what is queued for the peer, and forget it; nothing once the stream is lost."""
        data = self._channel.data_to_send()
        return b"" if self._lost else data

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Call]:
        """Take bytes from the peer; return the calls for which something changed."""
        if self.finished:
            return []
        changed: dict[int, Call] = {}
        try:
            for event in self._channel.receive_data(data):
                self._event(event, changed)
        except _ReplyRefused:
            # The one reply is refused; whoever signed it wrongly gets no further request.
            return self._fail(TruncatedError("the session ended: another of its replies was refused"), changed)
        except EphemeralError as error:
            return self._fail(error, changed)
        return list(changed.values())

    def eof_received(self) -> list[Call]:
        """Note that the peer's bytes have ended; return the calls that this ended."""
        if self.finished:
            return []
        try:
            self._channel.eof_received()
        except EphemeralError as error:
            return self._fail(error, {})
        if self._channel.peer_close is not None:
            return []
        return self._fail(TruncatedError("the connection ended"), {})

    def lose(self, error: EphemeralError) -> list[Call]:
        """Note that the byte stream broke; return the calls that this ended.

        Nothing is sent any more: what would come next does not follow what got through.
        """
        self._lost = True
        return self._fail(error, {}) if self.fault is None else []

    def close(self, reason: CloseReason = CloseReason.DONE) -> list[Call]:
        """Say that no more requests come; calls in flight end, and are returned."""
        self._channel.close(reason)
        return self._end_calls(TruncatedError("the session was closed here"), {})

    # -- requests

    def start(self, ask: Ask, selection: Selection | None = None, *, live: bool = False) -> Call:
        """Send a request, once everything that must hold before it does.

        The caller has seen `full` be False, and has given `manifests` that of
        the selected model if it was missing.

        Args:
            ask: The request.
            selection: What `select` said of it a moment ago; made here if None.
            live: Whether the caller reads the body as it comes.

        Raises:
            SessionEndedError: The session is over; nothing was sent.
            RejectedError: As `select`; nothing was sent.
            MalformedError: The request breaks a rule of the channel; nothing was sent.
        """
        attested, streams = self._usable()
        if selection is None:
            selection = self.select(ask)
        if self.manifests.missing(selection.entry):
            raise RuntimeError("the model's manifest has not been verified yet")
        body = ask.body or b""
        check_sizes(ask, attested.limits)
        nonce = os.urandom(NONCE_BYTES) if ask.nonce is None and selection.receipt_required else ask.nonce
        request = streams.open(ask.method, ask.path, ask.headers, nonce=nonce, fin=not body)
        call = Call(request.stream, selection.entry, nonce, receipt_required=selection.receipt_required, live=live)
        self._channel.send(request)
        view, chunk = memoryview(body), streams.chunk_bytes
        for begin in range(0, len(body), chunk):
            piece = streams.body(request.stream, view[begin : begin + chunk], fin=begin + chunk >= len(body))
            assert piece is not None
            self._channel.send(piece)
        self._calls[request.stream] = call
        return call

    def select(self, ask: Ask) -> Selection:
        """Return what *ask* names, having judged it by the policy as it stands now.

        Raises:
            SessionEndedError: The session is over.
            UnknownModelError: The identity does not name the model; `aliases` may help.
            RejectedError: The policy has expired or refuses the model.
        """
        attested, _ = self._usable()
        if self._steady() - self._started > self._max_age:
            raise SessionEndedError(f"the session has lived its {self._max_age:.0f} s")
        check_policy_current(attested.policy, self._now())
        models = attested.identity.models
        return select(ask.method, ask.body, models, attested.policy, self.aliases or {}, self._allowed)

    def cancel(self, call: Call, error: EphemeralError) -> None:
        """Give up on *call*; its stream counts until the peer has ended it."""
        if call.done:
            return
        call.fail(error)
        if self._streams is not None and not self.over:
            message = self._streams.cancel(call.stream)
            if message is not None:
                self._channel.send(message)

    # -- what the peer says

    @property
    def _attested(self) -> Attested:
        assert self.attested is not None
        return self.attested

    def _usable(self) -> tuple[Attested, ClientStreams]:
        if self.attested is None or self._streams is None:
            raise RuntimeError("the session is not established")
        if self.over:
            close = self._channel.peer_close
            why = f": {_close_text(close)}" if close is not None else ""
            raise SessionEndedError(f"the session is over{why}")
        return self.attested, self._streams

    def _event(self, event: Event, changed: dict[int, Call]) -> None:
        if isinstance(event, MessageReceived):
            assert self._streams is not None
            for item in self._streams.receive(event.message):
                self._stream_event(item, changed)
        elif isinstance(event, ServerOffer):
            self.attested = verify_offer(
                event, policy=self.policy, roots=self._roots, collateral=self._collateral, now=self._now()
            )
            self._receipts = self.attested.receipts()
            self._channel.accept(self.attested.verified)
        elif isinstance(event, AlertReceived):
            raise refused_session(event.alert, self.policy)
        else:
            self._streams = ClientStreams(self._attested.limits)
            self._started = self._last_active = self._steady()

    def _stream_event(self, event: ClientEvent, changed: dict[int, Call]) -> None:
        match event:
            case ResponseData(stream, data):
                changed[stream] = call = self._calls[stream]
                self._hold(call, data)
            case ResponseStarted(response):
                changed[response.stream] = call = self._calls[response.stream]
                call.status, call.headers = response.status, response.headers
            case ResponseEnded(end):
                changed[end.stream] = call = self._calls.pop(end.stream)
                self._ended(call, event)
            case PeerClosed(close):
                self._channel.close(CloseReason.DONE)
                self._end_calls(TruncatedError(f"the runtime ended the session: {_close_text(close)}"), changed)
            case _:
                assert_never(event)

    def _hold(self, call: Call, data: bytes) -> None:
        if call.done:
            return
        call.add(data)
        if call.unread > MAX_RESPONSE_BYTES:
            self.cancel(call, too_large())
        elif call.live and call.unread > STREAM_BUFFER_BYTES:
            at = self._steady()
            call.overrun_since = at if call.overrun_since is None else call.overrun_since
            if at - call.overrun_since > OVERRUN_SECONDS:
                self.cancel(call, UnavailableError(f"the reply was left unread for {OVERRUN_SECONDS:.0f} s"))

    def _ended(self, call: Call, ended: ResponseEnded) -> None:
        """Judge the end of a stream; the one place where a reply becomes complete.

        1. A receipt is verified, whatever the outcome: it counts in the session's sequence.
        2. A success that owes a receipt has one.
        3. The outcome is one of a complete response.
        """
        if not self._calls:
            self._last_active = self._steady()
        end = ended.end
        complete = end.outcome in (Outcome.COMPLETE, Outcome.ERROR)
        success = ended.status is not None and ended.status < 400
        if end.receipt is not None:  # 1
            try:
                call.receipted = self._verify(call, end.receipt, ended)
            except RejectedError as error:
                call.fail(error)
                raise _ReplyRefused from error
        elif complete and success and call.receipt_required:  # 2
            call.fail(RejectedError("a success without its receipt", code=RECEIPT_MISSING))
            raise _ReplyRefused
        if not complete:  # 3
            call.fail(TruncatedError(f"the runtime {end.outcome.name.lower()} the reply"))
        elif end.outcome is Outcome.ERROR and success:
            call.fail(TruncatedError("the runtime failed after it had begun to reply"))
        call.usage = end.usage
        call.done = True

    def _verify(self, call: Call, receipt: bytes, ended: ResponseEnded) -> Receipted:
        """Accept *receipt* under every rule of channel section 4, or raise."""
        if call.entry is None:
            raise RejectedError("a receipt for a request that named no model", code=RECEIPT_UNEXPECTED)
        assert self._receipts is not None
        entry = call.entry
        verified = self._receipts.accept(
            receipt,
            model=ModelEntry(entry.id, entry.version, entry.hash, entry.scheme),
            request_hash=ended.request_hash,
            response_hash=ended.response_hash,
            nonce=call.nonce,
            expected_sequence=self._accepted,
            now=int(self._now().timestamp()),
        )
        self._accepted += 1
        return Receipted(
            verified, receipt, self._attested, ended.request_hash, ended.response_hash, self.manifests.get(entry)
        )

    # -- ends

    def _fail(self, error: EphemeralError, changed: dict[int, Call]) -> list[Call]:
        """End the session, and with it every call that has no reply yet."""
        if self.attested is None and error.hint is None:
            error.hint = next((hint for kind, hint in _BEFORE_AN_OFFER.items() if isinstance(error, kind)), None)
        self.fault = error
        self._channel.close(CloseReason.PROTOCOL)
        self._end_calls(error, changed)
        return list(changed.values())

    def _end_calls(self, error: EphemeralError, changed: dict[int, Call]) -> list[Call]:
        # They stay known: the peer may still end streams that we have given up.
        for stream, call in self._calls.items():
            if not call.done:
                call.fail(error)
                changed[stream] = call
        return list(changed.values())


class _ReplyRefused(Exception):  # noqa: N818 - never leaves this module
    """A reply was refused and its call knows why; the session is to end."""


def _close_text(close: Close) -> str:
    reason = close.reason.name.lower().replace("_", " ")
    return f"{reason} ({printable(close.text)})" if close.text else reason
