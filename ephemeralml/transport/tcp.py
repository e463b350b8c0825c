"""TCP sockets."""

import asyncio
import socket

from ephemeralml.transport.address import Address
from ephemeralml.transport.faults import unlistenable, unreachable


def connect(address: Address, timeout: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        UnavailableError: Nobody answers there.
    """
    try:
        return socket.create_connection((address.host, address.port), timeout)
    except OSError as error:
        raise unreachable(address, error) from error


async def listen(address: Address) -> list[socket.socket]:
    """Return bound sockets, one per address that the host's name has.

    With port 0 only the first, since the others would get other ports.

    Raises:
        UnavailableError: The address is taken, not ours, or needs a right we lack.
    """
    sockets: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in found[:1] if not address.port else dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise unlistenable(address, error) from error
    return sockets
