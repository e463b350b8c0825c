"""One established session: requests in, answers and receipts out.

Lives on the event loop and does no I/O itself: it is given messages, and hands
sealed bytes to an outbox. Work goes to the engines' threads and comes back as
one callback per request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from ephemeralml.channel.messages import (
    BODY_OVERHEAD,
    Body,
    CloseReason,
    End,
    Message,
    Outcome,
    Request,
    Response,
    Usage,
)
from ephemeralml.channel.server import ServerChannel
from ephemeralml.channel.stream_events import (
    Aborted,
    Cancelled,
    PeerClosed,
    Rejected,
    RequestComplete,
    RequestStarted,
    ServerEvent,
)
from ephemeralml.channel.streams import ServerStreams
from ephemeralml.enclave import log
from ephemeralml.enclave.api import errors
from ephemeralml.enclave.api.errors import ApiError
from ephemeralml.enclave.api.introspection import SessionFacts
from ephemeralml.enclave.api.messages import ApiRequest, ApiResponse
from ephemeralml.enclave.api.router import Plan
from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.enclave.exchange import Exchange, Phase
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.worker import Job, QueueFullError

INLINE_BODY_BYTES = 32_768
"""A longer request body is parsed in a thread, so that it holds up nobody else."""
UNRESERVED_BODY_BYTES = 65_536
"""A shorter answer may be sent even where all write buffers are full."""
ANSWER_BYTES = 4_096
"""What an answer in line counts for beside its body: its stream's state, two hashes, headers, objects."""


class Outbox(Protocol):
    """Where sealed bytes go."""

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the peer's transport."""

    def write(self, data: bytes | bytearray) -> None:
        """Append *data*; never blocks."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions of a server share."""

    runtime: Runtime
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    """Seconds of a steady clock."""
    bodies: ByteBudget
    """Request bodies of everybody together."""
    writes: ByteBudget
    """Answers and write buffers of everybody together."""
    parsers: ThreadPoolExecutor = field(repr=False)


class Session:
    """What an established connection carries."""

    def __init__(
        self,
        shared: Shared,
        channel: ServerChannel,
        facts: SessionFacts,
        outbox: Outbox,
        finished: Callable[[], None],
    ) -> None:
        """Begin a session.

        Args:
            shared: What all sessions share.
            channel: The established channel; this session alone sends on it.
            facts: The session's evidence and what it binds.
            outbox: Takes sealed bytes.
            finished: Called once both sides have said close.
        """
        self._shared = shared
        self._channel = channel
        self._facts = facts
        self._outbox = outbox
        self._finished = finished
        self._streams = ServerStreams(channel.limits, now=shared.clock(), budget=shared.bodies)
        self._receipts = shared.runtime.issuer.for_session(facts.evidence)
        self._exchanges: dict[int, Exchange] = {}
        self._answers: OrderedDict[int, Exchange] = OrderedDict()
        """What is being answered, by stream, in the order of turns."""
        self._queued = 0
        """What the answers in line count for: their unsent bytes, and each one's `ANSWER_BYTES`."""
        self._piece = channel.limits.max_record - BODY_OVERHEAD
        self._write_limit = shared.runtime.config.limits.write_buffer_bytes
        self._closing: CloseReason | None = None
        self._gone = False

    @property
    def backlog(self) -> int:
        """Bytes that wait for the peer, sealed or not, and what waiting answers cost beside theirs."""
        return self._outbox.buffered + self._queued

    @property
    def held(self) -> bool:
        """Whether the peer must take something before more of its requests are read.

        Its own limit is one reason. The other is that the write buffers of
        everybody are full together: then whoever has a backlog waits, since small
        answers are counted there but never refused. A peer that takes its answers
        has none, and is held up by nobody.
        """
        backlog = self.backlog
        return backlog > self._write_limit or (backlog > 0 and self._shared.writes.exhausted)

    @property
    def idle_deadline(self) -> float | None:
        """When the session has been idle for too long; None while a request is in flight."""
        return self._streams.idle_deadline

    def receive(self, message: Message) -> None:
        """Take one message of the client's.

        Raises:
            MalformedError: It breaks the rules over streams; the channel is over.
        """
        if self._channel.close_sent:
            return
        for event in self._streams.receive(message, self._shared.clock()):
            self._handle(event)

    def flush(self) -> None:
        """Hand over what the channel has queued and what the write limit lets through."""
        channel, outbox = self._channel, self._outbox
        while True:
            self._hand_over()
            if not channel.established or channel.close_sent:
                break
            if self._answers and (not outbox.buffered or outbox.buffered + self._piece <= self._write_limit):
                self._send_next()
            elif self._closing is not None and self._streams.idle:
                channel.close(self._closing)
            else:
                break
        if channel.finished:
            self._finished()

    def _hand_over(self) -> None:
        if data := self._channel.data_to_send():
            self._outbox.write(data)

    def close(self, reason: CloseReason) -> None:
        """Take no new request, and close once those in flight have ended."""
        if self._closing is None:
            self._closing = reason
            self._streams.draining = True
            self.flush()

    def abort_requests(self) -> None:
        """End every request in flight with outcome 3; what was sent is still receipted."""
        for exchange in list(self._exchanges.values()):
            self._cut(exchange, Outcome.ABORTED)
        self.flush()

    def expire(self, now: float) -> None:
        """Answer 408 to requests whose body is overdue."""
        for event in self._streams.expire(now):
            self._handle(event)
        self.flush()

    def gone(self) -> None:
        """Forget everything: the connection is over."""
        self._gone = True
        for exchange in list(self._exchanges.values()):
            self._drop_work(exchange)
            self._release(exchange)
        self._exchanges.clear()
        self._answers.clear()
        self._queued = 0
        self._streams.release()

    def _handle(self, event: ServerEvent) -> None:
        match event:
            case RequestStarted(request):
                self._start(request)
            case RequestComplete(request, body, _):
                if (exchange := self._exchanges.get(request.stream)) is not None:
                    self._complete(exchange, body)
            case Rejected(stream, status, reason):
                exchange = self._exchanges.get(stream) or self._open(Request(stream, "", ""))
                self._answer(exchange, ApiError(status, reason, code="request_refused").response())
            case Cancelled(stream):
                self._cut(self._exchanges[stream], Outcome.CANCELLED)
            case Aborted(stream):
                self._cut(self._exchanges[stream], Outcome.ABORTED)
            case PeerClosed():
                if self._closing is None:
                    self._closing = CloseReason.DONE
            case _:
                assert_never(event)

    def _open(self, request: Request) -> Exchange:
        exchange = self._exchanges[request.stream] = Exchange(request)
        return exchange

    def _start(self, request: Request) -> None:
        exchange = self._open(request)
        error = self._shared.runtime.router.admit(request.method, request.path, request.headers)
        if error is not None:
            self._answer(exchange, error.response())
            # Whatever body follows is dropped; nothing of it is waited for.
            self._finish_answer(exchange)

    def _complete(self, exchange: Exchange, body: bytes) -> None:
        exchange.phase = Phase.WORKING
        exchange.begun = self._shared.clock()
        request = exchange.request
        api_request = ApiRequest(request.method, request.path, request.headers, body)
        router = self._shared.runtime.router
        if len(body) <= INLINE_BODY_BYTES:
            self._follow(exchange, router.plan(api_request, self._facts))
            return
        planning = self._shared.loop.run_in_executor(self._shared.parsers, router.plan, api_request, self._facts)
        planning.add_done_callback(lambda done: self._planned(exchange, done))

    def _planned(self, exchange: Exchange, done: "asyncio.Future[Plan]") -> None:
        if done.cancelled() or self._gone or exchange.phase is not Phase.WORKING:
            return
        failed = done.exception() is not None
        plan = Plan(None, errors.internal().response()) if failed else done.result()
        with self._contained():
            self._follow(exchange, plan)
            self.flush()

    def _follow(self, exchange: Exchange, plan: Plan) -> None:
        """Answer at once, or queue the work."""
        exchange.model = plan.model
        if plan.work is None or plan.model is None:
            assert plan.response is not None
            self._answer(exchange, plan.response)
            return
        if not self._shared.writes.take(plan.response_bytes):
            self._answer(exchange, errors.unavailable("no memory for another answer", "memory_full").response())
            return
        exchange.reserved = plan.response_bytes
        job = Job(plan.work, self._shared.loop, lambda response: self._worked(exchange, response))
        try:
            plan.model.worker.submit(job)
        except QueueFullError:
            self._answer(exchange, errors.overloaded().response())
        else:
            exchange.job = job

    def _worked(self, exchange: Exchange, response: ApiResponse) -> None:
        """Take an engine's answer; called once, in the loop."""
        exchange.job = None
        with self._contained():
            self._answer(exchange, response)
            self.flush()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """End this connection, and nothing else, where a callback from a thread fails."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the boundary of a server's task
            log.note(log.Event.TASK_FAILED, fault=log.Fault.of(error))
            self._finished()

    def _answer(self, exchange: Exchange, response: ApiResponse) -> None:
        """Put a response in line, its bytes reserved."""
        cost = len(response.body) + ANSWER_BYTES
        if exchange.reserved:
            self._shared.writes.adjust(cost - exchange.reserved)
        elif len(response.body) <= UNRESERVED_BODY_BYTES:
            self._shared.writes.adjust(cost)
        elif not self._shared.writes.take(cost):
            response = errors.unavailable("no memory for another answer", "memory_full").response()
            cost = len(response.body) + ANSWER_BYTES
            self._shared.writes.adjust(cost)
        exchange.reserved = cost
        if exchange.begun:
            exchange.execution_ms = int((self._shared.clock() - exchange.begun) * 1_000)
        exchange.answer(response)
        self._answers[exchange.stream] = exchange
        self._queued += cost

    def _send_next(self) -> None:
        """Queue the next message or messages of the answer whose turn it is."""
        exchange = next(iter(self._answers.values()))
        if exchange.unsent <= self._piece:
            self._finish_answer(exchange)
            return
        self._send_head(exchange)
        self._send_piece(exchange)
        self._answers.move_to_end(exchange.stream)

    def _finish_answer(self, exchange: Exchange) -> None:
        """Send all that is left of an answer, its receipt last."""
        self._send_head(exchange)
        while exchange.unsent:
            self._send_piece(exchange)
        self._leave_line(exchange)
        if exchange.model is not None:
            # The client reads the body while the receipt over it is made.
            self._hand_over()
        self._end(exchange)

    def _send_head(self, exchange: Exchange) -> None:
        if not exchange.started:
            assert exchange.response is not None
            exchange.started = True
            self._send(Response(exchange.stream, exchange.response.status, exchange.response.headers))

    def _send_piece(self, exchange: Exchange) -> None:
        piece = exchange.next_piece(self._piece)
        if piece is not None:
            self._queued -= len(piece[0])
            self._send(Body(exchange.stream, *piece))

    def _leave_line(self, exchange: Exchange) -> None:
        if self._answers.pop(exchange.stream, None) is not None:
            self._queued -= exchange.unsent + ANSWER_BYTES

    def _cut(self, exchange: Exchange, outcome: Outcome) -> None:
        """End an exchange early; the receipt covers what was sent so far."""
        self._drop_work(exchange)
        self._leave_line(exchange)
        exchange.outcome = outcome
        self._end(exchange)

    def _drop_work(self, exchange: Exchange) -> None:
        if exchange.job is not None and exchange.model is not None:
            exchange.model.worker.cancel(exchange.job)
            exchange.job = None

    def _end(self, exchange: Exchange) -> None:
        receipt = None
        if exchange.model is not None:
            request_hash, response_hash = self._streams.hashes(exchange.stream)
            receipt = self._receipts.issue(
                exchange.model,
                request_hash=request_hash,
                response_hash=response_hash,
                nonce=exchange.request.nonce,
                execution_ms=exchange.execution_ms,
            )
        usage = exchange.response.usage if exchange.response is not None else None
        figures = Usage(
            exchange.execution_ms,
            usage.prompt_tokens if usage is not None else None,
            usage.output_tokens if usage is not None else None,
        )
        self._send(End(exchange.stream, exchange.outcome, receipt, figures))
        exchange.phase = Phase.ENDED
        del self._exchanges[exchange.stream]
        self._release(exchange)

    def _release(self, exchange: Exchange) -> None:
        self._shared.writes.give(exchange.reserved)
        exchange.reserved = 0

    def _send(self, message: Response | Body | End) -> None:
        self._streams.sending(message, self._shared.clock())
        self._channel.send(message)
