"""A session for an event loop: the same checks, with a task that reads."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.client.attested import Attested
from ephemeralml.client.call import (
    REPLY_SECONDS,
    Ask,
    Call,
    Pieces,
    TimedOutError,
    TruncatedError,
    encode_body,
)
from ephemeralml.client.exchange import Exchange
from ephemeralml.client.manifests import ManifestStore, manifest_body, manifest_path
from ephemeralml.client.reply import Receipted, Reply
from ephemeralml.client.selection import INFO_PATH, Selection, UnknownModelError, aliases_named, find
from ephemeralml.client.session import CONNECT_SECONDS, OnReceipt
from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.transport.address import Address
from ephemeralml.transport.dial import open_stream
from ephemeralml.transport.streams import DeadlineError, Stream

_CLOSE_SECONDS = 2.0


async def async_connect(
    target: str,
    *,
    policy: Policy,
    roots: TrustRoots | None = None,
    nonce: bytes | None = None,
    timeout: float = CONNECT_SECONDS,  # noqa: ASYNC109 - the same signature as `connect`
    on_receipt: OnReceipt | None = None,
    manifests: ManifestStore | None = None,
) -> "AsyncSession":
    """Connect to a runtime and verify it; `ephemeralml.client.session.connect` says what the arguments mean.

    Verifying evidence takes the processor for some milliseconds, in the event
    loop; signatures that were verified before are remembered.
    """
    exchange = Exchange(policy=policy, roots=roots, nonce=nonce, manifests=manifests)
    session = AsyncSession(await open_stream(Address.parse(target), timeout=timeout), exchange, on_receipt=on_receipt)
    try:
        await session.handshake(min(timeout, CONNECT_SECONDS))
    except BaseException:
        await session.abort()
        raise
    return session


class AsyncSession:
    """One attested session; `async_connect` makes it. Any task of its event loop may use it.

    Args:
        stream: Where its bytes go.
        exchange: Its state and checks.
        on_receipt: Called with every verified receipt.
    """

    def __init__(self, stream: Stream, exchange: Exchange, *, on_receipt: OnReceipt | None = None) -> None:
        self._stream = stream
        self._exchange = exchange
        self._on_receipt = on_receipt
        self._outgoing: deque[bytes | bytearray] = deque()
        self._sending = False
        self._retired = False
        self._waiters: dict[asyncio.Future[None], Call | None] = {}
        self._reader: asyncio.Task[None] | None = None

    # -- asking

    async def post(
        self,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,  # noqa: ASYNC109 - cancels the request at the runtime too
    ) -> Reply:
        """Send a body and return the complete reply, its receipt verified; see `Session.request`."""
        body, headers = encode_body(json, content, headers)
        return await self.request("POST", path, body, headers=headers, nonce=nonce, timeout=timeout)

    async def get(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = REPLY_SECONDS,  # noqa: ASYNC109 - as above
    ) -> Reply:
        """Read something that involves no model."""
        return await self.request("GET", path, headers=headers, timeout=timeout)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,  # noqa: ASYNC109 - as above
    ) -> Reply:
        """Ask, wait, and return the complete reply; see `Session.request`."""
        ask = Ask(method, path, body, headers or {}, nonce)
        async with _deadline(timeout):
            call = await self._start(ask, live=False)
            await self._wait(call, lambda: call.done)
        reply = call.reply()
        self._deliver(reply.receipted)
        return reply

    async def stream(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,  # noqa: ASYNC109 - as above
    ) -> "AsyncStreamedReply":
        """Ask, and return as soon as the answer begins; see `Session.stream`."""
        ask = Ask(method, path, body, headers or {}, nonce)
        async with _deadline(timeout):
            call = await self._start(ask, live=True)
            await self._wait(call, lambda: call.done or call.status is not None)
        call.require()
        return AsyncStreamedReply(call, timeout, wait=self._wait, cancel=self._cancel, deliver=self._deliver)

    async def manifest(self, model: str) -> bytes:
        """Return the signed manifest of *model*; see `Session.manifest`."""
        entry = find(model, self.attested.identity.models)
        store = self._exchange.manifests
        if store.get(entry) is None:
            store.add(entry, manifest_body(await self.get(manifest_path(entry))))
        data = store.get(entry)
        assert data is not None
        return data

    # -- the session

    @property
    def attested(self) -> Attested:
        """What was verified about the runtime."""
        attested = self._exchange.attested
        assert attested is not None
        return attested

    @property
    def inflight(self) -> int:
        """Requests that wait for their end."""
        return self._exchange.inflight

    def usable(self) -> bool:
        """Return whether another request has the prospect of a reply."""
        return self._exchange.fresh()

    async def handshake(self, timeout: float) -> None:  # noqa: ASYNC109 - as above
        """Send the hello, verify the offer, confirm the keys; `async_connect` calls it.

        Raises:
            EphemeralError: Why there is no session.
        """
        async with _deadline(timeout):
            await self._flush()
            while not self._exchange.ready and self._exchange.fault is None:
                await self._read_once()
        if self._exchange.fault is not None:
            raise self._exchange.fault
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Tell the runtime, end calls in flight, and let the connection go."""
        self._wake(self._exchange.close())
        await self._flush()
        if self._exchange.fault is None and self._reader is not None and self._reader is not asyncio.current_task():
            await asyncio.wait((self._reader,), timeout=_CLOSE_SECONDS)
        await self.abort()

    async def abort(self) -> None:
        """Let the connection go without a word."""
        self._wake(self._exchange.lose(TruncatedError("the session was closed here")))
        self._stream.abort()
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
            await asyncio.wait((self._reader,))
        await self._stream.wait_closed()

    async def retire(self) -> None:
        """Close as soon as no request waits for its end: now, or when the last one has it."""
        self._retired = True
        if not self._exchange.awaited:
            await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- one request

    async def _start(self, ask: Ask, *, live: bool) -> Call:
        """Send *ask*, once its model and, where the policy wants that, its publisher are accepted."""
        selection = await self._select(ask)
        store, entry = self._exchange.manifests, selection.entry
        if entry is not None and store.missing(entry):
            store.add(entry, manifest_body(await self.get(manifest_path(entry))))
        while self._exchange.full and not self._exchange.over:
            await self._changed(None)
        call = self._exchange.start(ask, selection, live=live)
        try:
            await self._flush()
        except BaseException:
            self._exchange.cancel(call, TimedOutError("the caller gave up"))
            raise
        return call

    async def _select(self, ask: Ask) -> Selection:
        try:
            return self._exchange.select(ask)
        except UnknownModelError:
            if self._exchange.aliases is not None:
                raise
        self._exchange.aliases = aliases_named((await self.get(INFO_PATH)).body)
        return self._exchange.select(ask)

    async def _wait(self, call: Call, ready: Callable[[], bool]) -> None:
        """Wait until *ready*; a caller that gives up, for whatever reason, cancels *call*."""
        try:
            while not ready():
                await self._changed(call)
        except BaseException:
            await self._cancel(call, TimedOutError("no complete reply in the time that was given"))
            raise
        if self._retired and not self._exchange.awaited:
            await self.close()

    async def _cancel(self, call: Call, error: EphemeralError) -> None:
        self._exchange.cancel(call, error)
        await self._flush()

    async def _changed(self, call: Call | None) -> None:
        """Wait until something happened to *call*; for None, until some call has ended."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = call
        try:
            await waiter
        finally:
            del self._waiters[waiter]

    def _wake(self, changed: list[Call]) -> None:
        if not self._waiters:
            return
        for waiter, call in self._waiters.items():
            if (call is None or call in changed) and not waiter.done():
                waiter.set_result(None)

    def _deliver(self, receipted: Receipted | None) -> None:
        if receipted is not None and self._on_receipt is not None:
            self._on_receipt(receipted)

    # -- bytes

    async def _read(self) -> None:
        """Read until nothing more can come; the reader task."""
        try:
            while not self._exchange.finished and self._exchange.fault is None:
                await self._read_once()
        finally:
            # Whatever ended the reading, nobody shall wait for what cannot come.
            self._wake(self._exchange.lose(TruncatedError("the session has ended")))
            self._stream.close()

    async def _read_once(self) -> None:
        try:
            data = await self._stream.receive()
        except UnavailableError as error:
            self._wake(self._exchange.lose(TruncatedError(error.message)))
            return
        self._wake(self._exchange.receive_data(data) if data else self._exchange.eof_received())
        await self._flush()

    async def _flush(self) -> None:
        """Send what is queued, in the order in which it was sealed.

        A task that finds another one sending leaves its bytes to it. One that
        is cancelled while it sends takes the session with it: half a record
        may have gone, and nothing could follow that.
        """
        data = self._exchange.data_to_send()
        if data:
            self._outgoing.append(data)
        if self._sending:
            return
        self._sending = True
        try:
            while self._outgoing:
                await self._stream.send(self._outgoing.popleft())
        except UnavailableError as error:
            self._wake(self._exchange.lose(TruncatedError(error.message)))
        except asyncio.CancelledError:
            self._wake(self._exchange.lose(TruncatedError("sending was given up half-way")))
            self._stream.abort()
            raise
        finally:
            self._sending = False


class AsyncStreamedReply:
    """A reply whose body is read as it comes; see `StreamedReply`."""

    def __init__(
        self,
        call: Call,
        timeout: float,
        *,
        wait: Callable[[Call, Callable[[], bool]], Awaitable[None]],
        cancel: Callable[[Call, EphemeralError], Awaitable[None]],
        deliver: Callable[[Receipted | None], None],
    ) -> None:
        assert call.status is not None
        self.status: int = call.status
        self.headers: Mapping[str, str] = call.headers
        self._call, self._timeout, self._complete = call, timeout, False
        self._wait, self._cancel, self._deliver = wait, cancel, deliver

    @property
    def receipted(self) -> Receipted | None:
        """The verified receipt, once the body has been read to its end."""
        return self._call.receipted if self._complete else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces; see `StreamedReply.__iter__`."""
        call = self._call
        try:
            while True:
                async with _deadline(self._timeout):
                    await self._wait(call, lambda: call.done or bool(call.unread))
                over, data = call.done, call.take()
                call.require()
                if data:
                    yield data
                if over:
                    break
        finally:
            await self.close()
        if not self._complete:
            self._complete = True
            self._deliver(call.receipted)

    async def read(self) -> bytes:
        """Return the whole body, its receipt verified; errors as when iterating."""
        pieces = Pieces()
        async for piece in self:
            pieces.add(piece)
        return pieces.join()

    async def close(self) -> None:
        """Cancel the request if it has not ended."""
        if not self._call.done:
            await self._cancel(self._call, TimedOutError("the caller stopped reading"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Turn the event loop's time-out into ours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, DeadlineError) as error:
        raise TimedOutError(f"nothing complete within {seconds:g} s") from error
