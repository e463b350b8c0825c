"""Byte streams by address: TCP, unix, VSock and WebSocket, for event loops and for threads."""

from ephemeralml.transport.address import CID_ANY, WEBSOCKET_PATH, Address, Scheme
from ephemeralml.transport.dial import connect, open_stream
from ephemeralml.transport.listen import listen
from ephemeralml.transport.streams import DeadlineError, Handler, Listener, Stream, SyncStream

__all__ = [
    "CID_ANY",
    "WEBSOCKET_PATH",
    "Address",
    "DeadlineError",
    "Handler",
    "Listener",
    "Scheme",
    "Stream",
    "SyncStream",
    "connect",
    "listen",
    "open_stream",
]
