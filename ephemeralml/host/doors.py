"""Where the relay meets the outside: listening sockets, and the way to the target.

Raw sockets are accepted here, from the loop's readiness callback, because the
relay wants them as sockets; WebSocket connections come as streams from the
transport package, which asks about each of them before it reads its opening.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import tcp, unix, vsock
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.streams import Admit, Listener

log = logging.getLogger(__name__)

_BACKLOG = 1024
_ACCEPTS_PER_EVENT = 64
_ACCEPT_PAUSE_SECONDS = 0.25
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A peer that vanished without a word is noticed after two minutes."""

Accepted = Callable[[socket.socket, str | None], None]
"""Gets a non-blocking connection and the peer's address, None for unix."""


class Door(Protocol):
    """One address that the relay listens on."""

    @property
    def address(self) -> Address:
        """As bound."""

    def stop_accepting(self) -> None:
        """Take no more connections; those that are there live on."""

    async def close(self) -> None:
        """Free the address."""


class SocketDoor:
    """The listening sockets of a tcp or unix address.

    Args:
        address: As bound.
        sockets: Bound; the door owns them.
        accepted: Gets each connection.
        file: The socket's file, if it has one.
    """

    def __init__(
        self, address: Address, sockets: list[socket.socket], accepted: Accepted, file: unix.BoundPath | None = None
    ) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._file = file
        self._accepted = accepted
        self._open = True
        for sock in sockets:
            sock.setblocking(False)
            sock.listen(_BACKLOG)
        self._listen()

    def stop_accepting(self) -> None:
        """Close the listening sockets; the kernel refuses whoever comes."""
        self._open = False
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        if self._file is not None:
            self._file.remove()

    async def close(self) -> None:
        """Close what is still open."""
        self.stop_accepting()

    def _listen(self) -> None:
        for sock in self._sockets:
            self._loop.add_reader(sock, self._acceptable, sock)

    def _acceptable(self, listener: socket.socket) -> None:
        """Accept what is there, a bounded number at a time so that relayed bytes do not wait."""
        for _ in range(_ACCEPTS_PER_EVENT):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the peer was gone before it was accepted
            sock.setblocking(False)
            if listener.family != socket.AF_UNIX:
                prepare(sock)
            self._accepted(sock, None if listener.family == socket.AF_UNIX else peer[0])

    def _pause(self, error: OSError) -> None:
        """Leave connections in the kernel's queue for a while: there is no room for them here."""
        log.warning("accepting is paused: %s", error.strerror)
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        self._loop.call_later(_ACCEPT_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._listen()


class WebSocketDoor:
    """A ws address; its connections are served by the transport's listener.

    Args:
        listener: Open; the door owns it.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    @property
    def address(self) -> Address:
        """As bound."""
        return self._listener.address

    def stop_accepting(self) -> None:
        """Take no more connections."""
        self._listener.close()

    async def close(self) -> None:
        """Cancel every handler and wait for their ends."""
        self._listener.abort()
        await self._listener.wait_closed()


async def open_door(address: Address, accepted: Accepted, admit: Admit, *, opening_seconds: float) -> Door:
    """Listen on *address*.

    Args:
        address: Of the tcp, unix or ws kind.
        accepted: Gets each raw connection.
        admit: Asked about each WebSocket connection.
        opening_seconds: How long a WebSocket's opening may take.

    Raises:
        UnavailableError: It is taken, not ours, or of a kind that a relay does not listen on.
    """
    if address.scheme is Scheme.TCP:
        sockets = await tcp.listen(address)
        bound = Address(Scheme.TCP, address.host, sockets[0].getsockname()[1])
        return SocketDoor(bound, sockets, accepted)
    if address.scheme is Scheme.UNIX:
        sock, file = unix.listen(address)
        return SocketDoor(address, [sock], accepted, file)
    if address.scheme is Scheme.WS:
        from ephemeralml.transport import listen_websocket

        return WebSocketDoor(await listen_websocket(address, admit, opening_seconds=opening_seconds))
    raise UnavailableError(
        f"a relay does not listen on {address}", hint="listen on tcp, unix or ws; TLS for wss ends at a proxy before it"
    )


async def dial(address: Address) -> socket.socket:
    """Return a non-blocking connection to the relay's target; the caller keeps the deadline.

    Raises:
        OSError: Nobody answers there.
        UnavailableError: There is no vsock here.
    """
    if address.scheme is Scheme.VSOCK:
        return await vsock.connect_async(address)
    if address.scheme is Scheme.UNIX:
        return await _connect(socket.AF_UNIX, address.path)
    failure: OSError | None = None
    for family, where in await _resolve(address):
        try:
            return await _connect(family, where)
        except OSError as error:
            failure = failure or error
    raise failure or OSError(errno.EADDRNOTAVAIL, "the target's name has no address")


async def _connect(family: int, where: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            prepare(sock)
        await asyncio.get_running_loop().sock_connect(sock, where)  # type: ignore[arg-type] # of the family
    except BaseException:
        sock.close()
        raise
    return sock


async def _resolve(address: Address) -> list[tuple[int, object]]:
    """Return family and socket address of every address that the target's name has."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address.host).version == 6 else socket.AF_INET
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [(family, where) for family, _, _, _, where in found]
    return [(family, (address.host, address.port))]


def prepare(sock: socket.socket) -> None:
    """Set what every TCP connection of a relay has: no delay, and proof of life."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
