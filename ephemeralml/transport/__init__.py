"""Byte streams by address: TCP, unix, VSock and WebSocket, for event loops and for threads."""

from ephemeralml.transport.address import CID_ANY, WEBSOCKET_PATH, Address, Scheme
from ephemeralml.transport.dial import connect, open_stream
from ephemeralml.transport.listen import listen, listen_websocket
from ephemeralml.transport.streams import Admit, DeadlineError, Handler, Listener, Stream, SyncStream, Visit

__all__ = [
    "CID_ANY",
    "WEBSOCKET_PATH",
    "Address",
    "Admit",
    "DeadlineError",
    "Handler",
    "Listener",
    "Scheme",
    "Stream",
    "SyncStream",
    "Visit",
    "connect",
    "listen",
    "listen_websocket",
    "open_stream",
]
