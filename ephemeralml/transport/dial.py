"""Opening streams by address: `connect` for threads, `open_stream` for an event loop."""

import asyncio
from ssl import SSLContext

from ephemeralml.transport import tcp, unix, vsock
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.async_socket import SocketStream
from ephemeralml.transport.faults import unreachable
from ephemeralml.transport.streams import DEFAULT_TIMEOUT, READ_BYTES, WRITE_BYTES, Stream, SyncStream
from ephemeralml.transport.sync_socket import SocketSyncStream


def connect(address: Address, *, timeout: float = DEFAULT_TIMEOUT, tls: SSLContext | None = None) -> SyncStream:
    """Open a stream for threads.

    Args:
        address: Where to.
        timeout: Seconds for the connection to stand.
        tls: For wss; the system's trust store if None. The channel trusts none of it.

    Raises:
        UnavailableError: Nobody answers there; `DeadlineError` if not in time.
    """
    match address.scheme:
        case Scheme.TCP:
            return SocketSyncStream(tcp.connect(address, timeout))
        case Scheme.UNIX:
            return SocketSyncStream(unix.connect(address, timeout))
        case Scheme.VSOCK:
            return SocketSyncStream(vsock.connect(address, timeout))
        case Scheme.WS | Scheme.WSS:
            from ephemeralml.transport import sync_websocket

            return sync_websocket.connect(address, timeout=timeout, tls=tls)


async def open_stream(
    address: Address,
    *,
    timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - part of what every way of opening takes
    tls: SSLContext | None = None,
    read_limit: int = READ_BYTES,
    write_limit: int = WRITE_BYTES,
) -> Stream:
    """Open a stream in the running event loop.

    Args:
        address: Where to.
        timeout: Seconds for the connection to stand.
        tls: For wss; the system's trust store if None. The channel trusts none of it.
        read_limit: Bytes kept unread before reading pauses.
        write_limit: Bytes waiting unsent before `Stream.send` waits.

    Raises:
        UnavailableError: Nobody answers there; `DeadlineError` if not in time.
    """
    if address.scheme in (Scheme.WS, Scheme.WSS):
        from ephemeralml.transport import websocket

        return await websocket.connect(address, timeout=timeout, tls=tls, write_limit=write_limit)
    loop = asyncio.get_running_loop()

    def protocol() -> SocketStream:
        return SocketStream(read_limit=read_limit, write_limit=write_limit)

    try:
        async with asyncio.timeout(timeout):
            match address.scheme:
                case Scheme.TCP:
                    _, stream = await loop.create_connection(protocol, address.host, address.port)
                case Scheme.UNIX:
                    _, stream = await loop.create_unix_connection(protocol, address.path)
                case _:
                    sock = await vsock.connect_async(address)
                    _, stream = await loop.create_connection(protocol, sock=sock)
    except OSError as error:
        raise unreachable(address, error) from error
    return stream
