"""Core dumps and tracing are off; memory is locked where that is permitted."""

import json
import subprocess
import sys

_SCRIPT = """
import json, resource
from ephemeralml.enclave.hardening import harden
before = harden()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
import ctypes
print(json.dumps({
    "core_dumps_off": before.core_dumps_off,
    "memory_locked": before.memory_locked,
    "limit": resource.getrlimit(resource.RLIMIT_CORE),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
}))
"""


def test_in_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["core_dumps_off"] is True
    assert found["limit"] == [0, 0]
    assert found["dumpable"] == 0
    assert isinstance(found["memory_locked"], bool)
