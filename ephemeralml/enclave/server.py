"""The runtime's front: listens, admits, keeps time, drains."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ephemeralml.channel.hello import AlertCode
from ephemeralml.channel.server import ServerChannel
from ephemeralml.enclave import log
from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.enclave.connection import Connection, Handshaker
from ephemeralml.enclave.evidence_queue import EvidenceQueue
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.session import Shared
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.listen import listen
from ephemeralml.transport.streams import Listener, Stream

TICK_SECONDS = 1.0
STREAM_WRITE_BYTES = 65_536
"""What a stream itself may hold before its connection's outbox counts bytes."""
PARSER_THREADS = 2


class Server:
    """Serves one runtime on its configured addresses.

    Args:
        runtime: What boot left; the server does not close it.
        clock: Seconds of a steady clock.
        tick: Seconds between looks at idle times, ages and stalls.
    """

    def __init__(
        self, runtime: Runtime, *, clock: Callable[[], float] = time.monotonic, tick: float = TICK_SECONDS
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._tick = tick
        self._connections: set[Connection] = set()
        self._listeners: list[Listener] = []
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ticker: asyncio.Task[None] | None = None
        self._handshaker: Handshaker | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, with the ports that were chosen for 0."""
        return tuple(str(listener.address) for listener in self._listeners)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen on every configured address; from here on the runtime is served.

        Raises:
            MalformedError: An address that does not parse, or cannot be listened on.
            UnavailableError: An address is taken, or not ours.
        """
        addresses = [_listenable(text) for text in self._runtime.config.listen]
        self._handshaker = self._make_handshaker()
        try:
            for address in addresses:
                listener = await listen(address, self._serve, write_limit=STREAM_WRITE_BYTES)
                self._listeners.append(listener)
                log.note(log.Event.LISTENING, count=len(self._listeners))
        except BaseException:
            await self.stop()
            raise
        self._ticker = asyncio.create_task(self._keep_time())

    async def drain(self) -> None:
        """Take no new connections or requests, finish what is in flight, then stop.

        What is not finished within the configured time is ended with outcome 3.
        """
        self._runtime.lifecycle.draining = True
        log.note(log.Event.DRAINING, count=len(self._connections))
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._runtime.config.limits.drain_seconds):
                await self._all_gone()
        for connection in tuple(self._connections):
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._all_gone()
        await self.stop()

    async def stop(self) -> None:
        """End everything at once; harmless after `drain`."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        for listener in self._listeners:
            listener.abort()
        for listener in self._listeners:
            await listener.wait_closed()
        if self._handshaker is not None:
            self._handshaker.evidence.close()
            self._handshaker.shared.parsers.shutdown(wait=False, cancel_futures=True)
        log.note(log.Event.STOPPED)

    def _make_handshaker(self) -> Handshaker:
        runtime, limits = self._runtime, self._runtime.config.limits
        shared = Shared(
            runtime=runtime,
            loop=asyncio.get_running_loop(),
            clock=self._clock,
            bodies=ByteBudget(limits.total_body_bytes),
            writes=ByteBudget(max(limits.total_write_bytes - limits.max_connections * STREAM_WRITE_BYTES, 1)),
            parsers=ThreadPoolExecutor(PARSER_THREADS, thread_name_prefix="parse"),
        )
        evidence = EvidenceQueue(runtime.attest, at_once=limits.evidence_at_once, per_second=limits.evidence_per_second)
        formats = (runtime.attester.format,)
        return Handshaker(shared, evidence, lambda: ServerChannel(formats=formats, limits=runtime.limits))

    async def _serve(self, stream: Stream) -> None:
        """Serve one accepted connection, unless there are too many."""
        assert self._handshaker is not None
        if len(self._connections) >= self._runtime.config.limits.max_connections or self._runtime.lifecycle.draining:
            log.note(log.Event.CONNECTION_REFUSED, count=len(self._connections))
            await self._refuse(stream)
            return
        self._count += 1
        connection = Connection(self._count, stream, self._handshaker)
        self._connections.add(connection)
        self._idle.clear()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._idle.set()

    async def _refuse(self, stream: Stream) -> None:
        """Say that we are busy. A new connection takes so few bytes without waiting."""
        assert self._handshaker is not None
        channel = self._handshaker.new_channel()
        channel.alert(AlertCode.BUSY, "too many connections")
        with contextlib.suppress(UnavailableError):
            await stream.send(channel.data_to_send())

    async def _all_gone(self) -> None:
        await self._idle.wait()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(self._tick)
            now = self._clock()
            for connection in tuple(self._connections):
                try:
                    connection.tick(now)
                except Exception as error:  # noqa: BLE001 - one connection's fault must not stop the others' clocks
                    log.note(log.Event.TASK_FAILED, fault=log.Fault.of(error))


def _listenable(text: str) -> Address:
    address = Address.parse(text)
    if address.scheme not in (Scheme.TCP, Scheme.UNIX, Scheme.VSOCK):
        raise MalformedError(
            f"the runtime does not listen on {text!a}", hint="tcp, unix or vsock; relays speak websocket"
        )
    return address
