"""VSock sockets, between an enclave or virtual machine and its host."""

import asyncio
import socket

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address
from ephemeralml.transport.faults import unlistenable, unreachable


def _socket(address: Address) -> socket.socket:
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise UnavailableError(f"{address}: this system has no vsock", hint="vsock needs Linux")
    try:
        return socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(
            f"{address}: this kernel has no vsock", hint="load the vhost_vsock or vmw_vsock_virtio_transport module"
        ) from error


def connect(address: Address, timeout: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        UnavailableError: Nobody answers there, or there is no vsock here.
    """
    sock = _socket(address)
    try:
        sock.settimeout(timeout)
        sock.connect((address.cid, address.port))
    except OSError as error:
        sock.close()
        raise unreachable(address, error) from error
    return sock


async def connect_async(address: Address) -> socket.socket:
    """Return a connected socket that does not block; the caller keeps the deadline.

    Raises:
        UnavailableError: Nobody answers there, or there is no vsock here.
    """
    sock = _socket(address)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.cid, address.port))
    except OSError as error:
        sock.close()
        raise unreachable(address, error) from error
    except asyncio.CancelledError:
        sock.close()
        raise
    return sock


def listen(address: Address) -> socket.socket:
    """Return a bound socket.

    Raises:
        UnavailableError: The port is taken, the CID is not ours, or there is no vsock here.
    """
    sock = _socket(address)
    try:
        sock.bind((address.cid, address.port or getattr(socket, "VMADDR_PORT_ANY", 0xFFFF_FFFF)))
    except OSError as error:
        sock.close()
        raise unlistenable(address, error) from error
    return sock
