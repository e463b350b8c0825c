"""uvicorn's HTTP protocol with bounds that it lacks: a request's head has so much time and so many bytes.

Without them, connections that never finish a head would hold the server's
places for ever, and one that never ends its headers its memory. Nor does a
connection stay that sends what belongs to no request: that stops uvicorn's own
timer. Fields behind a chunked body are not taken at all, nor are requests that
come before the answer to the one before: thousands of them fit into one read.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 65_536
"""Of one request, and what frames its body's chunks."""
HEAD_SECONDS = 30.0
"""From the connection, or from the first byte behind a request, to the end of a head."""


class BoundedHead(HttpToolsProtocol):
    """Closes a connection whose head takes too long, or sends more than heads and bodies."""

    head_seconds = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _received = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Take what came; all of one request but its body may have so many bytes."""
        self._received += len(data)
        super().data_received(data)
        if self._received > MAX_HEAD_BYTES and not self._answered():
            self.transport.abort()
        if self._timer is None and self._answered():
            self._begin()  # line ends between requests, or a body whose answer went out before

    def _answered(self) -> bool:
        """Return whether the last request's head was read, and its answer sent."""
        return self._timer is None and not self._under_way()

    def _under_way(self) -> bool:
        """Return whether a request waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle  # whatever uvicorn's types say: none before the first request
        return cycle is not None and not cycle.response_complete

    def on_message_begin(self) -> None:
        """Begin to wait for this head."""
        if self._timer is None:
            self._begin()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; behind the body there is none."""
        if self._timer is None:
            self.transport.abort()
            return
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which has bounds of its own."""
        self._received -= len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Wait no longer; a request that does not wait for the answer to the one before is refused."""
        self._end()
        if self._under_way():
            raise ValueError("requests in a row")  # stops the parser, which would make a task's worth of each
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
