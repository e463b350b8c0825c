"""Socket errors, told with their address."""

import errno
import socket

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.streams import DeadlineError

_HINT = "is it running, and is the address right?"


def unreachable(address: Address, error: OSError) -> UnavailableError:
    """Return what to raise when *address* could not be connected to."""
    if isinstance(error, TimeoutError):
        return DeadlineError(f"no connection to {address} in time", hint=_HINT)
    if isinstance(error, socket.gaierror):
        return UnavailableError(f"{address.host!r} could not be resolved", hint="check the host's name")
    return UnavailableError(f"no connection to {address}: {reason(error)}", hint=_HINT)


def unlistenable(address: Address, error: OSError) -> UnavailableError:
    """Return what to raise when *address* could not be listened on."""
    return UnavailableError(f"cannot listen on {address}: {reason(error)}", hint=_listen_hint(address, error))


def _listen_hint(address: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "check the host's name"
    match error.errno:
        case errno.EADDRNOTAVAIL:
            every = f"vsock://any:{address.port}" if address.scheme is Scheme.VSOCK else "0.0.0.0 for all"
            return f"this machine has no such address: name one of its own, or {every}"
        case errno.EADDRINUSE:
            return "another process listens there: stop it, or choose another port or path"
        case errno.EACCES | errno.EPERM:
            return "this user may not listen there: choose a port above 1023, or a folder of your own"
        case _:
            return "is the address right, and may this user use it?"


def reason(error: OSError) -> str:
    """Return the system's words for *error*, or its type."""
    return error.strerror or type(error).__name__
