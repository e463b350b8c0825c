"""Runs a module as a supervised child that cannot outlive its parent.

``python -m ephemeralml.host.child PARENT_PID MODULE ARGUMENT...`` asks the
kernel to kill this process when its parent dies, and then is ``python -m MODULE
ARGUMENT...``. The child asks for itself because code between fork and exec is
not safe in a parent with threads.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> bool:
    """Have the kernel send SIGKILL to this process when *parent* ends; False if it already has.

    Linux only; elsewhere nothing is asked for. The signal comes when the parent's
    *thread* that started this process ends, so supervisors start their children
    from a thread that lives as long as they do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the module."""
    parent, module, *rest = arguments
    if not die_with_parent(int(parent)):
        sys.exit(1)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
