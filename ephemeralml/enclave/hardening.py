"""What the process gives up so that memory stays in memory: core dumps, swap, tracing."""

import ctypes
import os
import resource
from dataclasses import dataclass

_PR_SET_DUMPABLE = 4
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4


@dataclass(frozen=True, slots=True)
class Hardening:
    """Which protections hold; swap off may need a permission the host withholds."""

    core_dumps_off: bool
    memory_locked: bool


def harden() -> Hardening:
    """Switch off core dumps and same-user tracing, and lock memory where permitted.

    Memory is locked as it is touched, so a limit that is too small shows here
    and not later; what cannot be locked is reported, not fatal, since the
    machine's owner may have no swap at all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    dumpable = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return Hardening(core_dumps_off=dumpable == 0, memory_locked=_may_lock() and _lock(libc))


def _may_lock() -> bool:
    # A finite limit would turn each later allocation beyond it into a failure.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or (os.geteuid() == 0 and _effective_ipc_lock())


def _effective_ipc_lock() -> bool:
    """Return whether CAP_IPC_LOCK, bit 14, is in effect."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - a kernel file
        line = next((line for line in status if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> 14 & 1)


def _lock(libc: ctypes.CDLL) -> bool:
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)
