"""What the relay allows: how many, how fast, how long (channel.md sections 4 and 5)."""

import resource
from dataclasses import dataclass

MAX_BUFFERED_BYTES = 1_048_576
"""What channel.md section 5 lets a relay hold per direction of one connection."""

_OTHER_FILES = 256
"""Besides the relay's connections: those of the services and the files behind them, logs, a KMS."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one relay; every one of them keeps a peer from stopping the others."""

    connections: int = 1024
    """Connections at once, all peers together; the runtime behind takes no more either."""
    per_peer: int = 256
    """Connections at once of one remote peer. Loopback and unix peers are exempt by
    default: behind them stands this machine, often as a proxy for many."""
    peer_rate: float = 40.0
    """New connections per second of one remote peer, sustained; faster ones wait. Below
    the 50 evidence documents per second of one runtime, so some are left for others."""
    peer_burst: int = 200
    """New connections that one remote peer may open without waiting."""
    local_exempt: bool = True
    """Whether loopback and unix peers are free of the three per-peer bounds."""
    connecting: int = 64
    """Connection attempts to the target at once; peers take turns at them."""
    connect_seconds: float = 10.0
    """From accept until the target has answered; channel.md gives a handshake as long."""
    idle_seconds: float = 3_900.0
    """Without a byte in either direction; a session lives at most an hour."""
    stall_seconds: float = 120.0
    """Bytes of one direction wait and their receiver takes none."""
    drain_seconds: float = 10.0
    """After an order to stop, until what is left is cut."""
    chunk_bytes: int = 262_144
    """Most bytes one direction ever holds: what one read returned and the other side did not take yet."""

    def __post_init__(self) -> None:
        counts = (self.connections, self.per_peer, self.peer_burst, self.connecting)
        times = (self.peer_rate, self.connect_seconds, self.idle_seconds, self.stall_seconds)
        if min(counts) < 1 or min(times) <= 0 or self.drain_seconds < 0:
            raise ValueError("relay limits are positive")
        if not 1 <= self.chunk_bytes <= MAX_BUFFERED_BYTES:
            raise ValueError(f"a relay buffers 1 to {MAX_BUFFERED_BYTES} bytes per direction")


def allow_open_files(limits: Limits) -> bool:
    """Raise this process's soft limit of open files to what *limits* need; False if the hard one is lower."""
    wanted = 2 * limits.connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft == resource.RLIM_INFINITY or soft >= wanted
