"""uvicorn's HTTP protocol with bounds that it lacks: a request's head has so much time and so many bytes.

Without them, connections that never finish a head would hold the server's
places for ever, and one that never ends its headers its memory.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 30.0
"""From the connection, or from a request's first byte, to the end of its head."""


class BoundedHead(HttpToolsProtocol):
    """Closes a connection whose head takes too long or grows too large."""

    head_seconds = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _received = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is still open may have so many bytes."""
        self._received += len(data)
        super().data_received(data)
        if self._timer is not None and self._received > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Begin to wait for this head."""
        if self._timer is None:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait no longer."""
        self._end()
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
