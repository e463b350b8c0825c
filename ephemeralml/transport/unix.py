"""Unix sockets: mode 0600, and never a live one replaced."""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address
from ephemeralml.transport.faults import unlistenable, unreachable

_PROBE_SECONDS = 2.0


def connect(address: Address, timeout: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        UnavailableError: Nobody answers there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address.path)
    except OSError as error:
        sock.close()
        raise unreachable(address, error) from error
    return sock


@dataclass(frozen=True, slots=True)
class BoundPath:
    """A socket's file, which is removed if it is still the one that was made."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, unless somebody has put another in its place."""
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink()
        except FileNotFoundError:
            pass


def listen(address: Address) -> tuple[socket.socket, BoundPath]:
    """Return a bound socket that listens as soon as `listen` is called on it, and its file.

    The file's mode is set between bind and listen: until then nobody can connect.

    Raises:
        UnavailableError: The path is no socket, is in use, or cannot be written.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_stale(address)
        sock.bind(address.path)
        Path(address.path).chmod(0o600)
        found = os.lstat(address.path)
    except OSError as error:
        sock.close()
        raise unlistenable(address, error) from error
    except UnavailableError:
        sock.close()
        raise
    return sock, BoundPath(address.path, found.st_dev, found.st_ino)


def _clear_stale(address: Address) -> None:
    """Remove a socket file that nobody answers at; refuse anything else that is there."""
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnavailableError(f"cannot listen on {address}: something other than a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            Path(address.path).unlink()
            return
    raise UnavailableError(
        f"cannot listen on {address}: another process answers there",
        hint="stop it, or choose another path",
    )
