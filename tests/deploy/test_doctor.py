"""Every check of the doctor, shown a machine that breaks only that check."""

import json
import os
import re
import resource
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ephemeralml.cli.main import app
from ephemeralml.deploy.doctor import Finding, Status, Target, examine, worst
from ephemeralml.deploy.machine import ClockState, Machine

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
GIB = 1 << 30
CPUINFO = "processor\t: 0\nflags\t\t: fpu aes avx2 avx512f avx512_vnni sha_ni\n"
EXACT = ClockState(synchronised=True, error_seconds=0.01)
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n"


@dataclass(frozen=True)
class FakeMachine(Machine):
    """A healthy machine below a folder of the test; each field can be made sick."""

    root: Path = Path("/nonexistent")
    missing: frozenset[str] = frozenset()
    tools: Mapping[str, str] = field(default_factory=lambda: {"terraform": json.dumps({"terraform_version": "1.9.0"})})
    python: tuple[int, int, int] = (3, 11, 7)  # type: ignore[assignment] # a property of the real one
    cpus: int = 4  # type: ignore[assignment]
    clock: ClockState | None = EXACT  # type: ignore[assignment]
    vsock: bool = True  # type: ignore[assignment]
    docker: str | None = "1.47"  # type: ignore[assignment]
    demo_weights: bool = True  # type: ignore[assignment]
    temporary: Path = Path("/tmp")  # type: ignore[assignment]
    free: int = 100 * GIB
    core: int = 0
    files: int = 20_000

    run: Callable[[Sequence[str]], str | None] = field(default=lambda command: None)
    version_of: Callable[[str], str | None] = field(default=lambda name: "1.0")

    def free_bytes(self, folder: Path) -> int:
        if not folder.exists():
            raise FileNotFoundError(2, "No such file or directory")
        return self.free

    def limit(self, which: int) -> tuple[int, int]:
        return (self.core, -1) if which == resource.RLIMIT_CORE else (1024, self.files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": MEMINFO,
        "proc/swaps": "Filename Type Size Used Priority\n",
        "proc/sys/kernel/core_pattern": "core\n",
        "dev/nsm": "",
        "dev/nitro_enclaves": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def _healthy(root: Path, **sick: object) -> FakeMachine:
    base: dict[str, object] = {
        "root": root,
        "run": lambda command: json.dumps({"terraform_version": "1.9.0"}) if command[0] == "terraform" else None,
    }
    return FakeMachine(**{**base, **sick})  # type: ignore[arg-type] # keyword by keyword


def _findings(machine: Machine, target: Target = Target.LOCAL, **options: object) -> dict[str, Finding]:
    found = examine(machine, target, **{"folder": Path("/tmp"), "now": NOW, **options})  # type: ignore[arg-type]
    assert len({finding.check for finding in found}) == len(found)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize("target", list(Target))
def test_a_healthy_machine_has_no_finding_to_fix(root: Path, target: Target) -> None:
    found = _findings(_healthy(root), target)
    assert {name for name, finding in found.items() if finding.status is not Status.OK} == set()
    assert all(finding.code is None and finding.fix is None for finding in found.values())
    assert worst(list(found.values())) is Status.OK


@pytest.mark.parametrize(
    ("sick", "check", "code", "status"),
    [
        ({"python": (3, 10, 1)}, "python", "PYTHON_TOO_OLD", Status.FAIL),
        ({"version_of": lambda name: None if name == "cbor2" else "1"}, "packages", "PACKAGE_MISSING", Status.FAIL),
        ({"version_of": lambda name: None if name == "orjson" else "1"}, "extra:serve", "PACKAGE_MISSING", Status.FAIL),
        ({"version_of": lambda name: None if name == "httpx" else "1"}, "extra:client", "PACKAGE_MISSING", Status.WARN),
        ({"demo_weights": False}, "demo weights", "DEMO_WEIGHTS_MISSING", Status.WARN),
        ({"free": GIB}, "disk", "DISK_LOW", Status.WARN),
        ({"free": 1}, "temporary disk", "DISK_FULL", Status.FAIL),
        ({"clock": None}, "clock", "CLOCK_UNKNOWN", Status.WARN),
        ({"clock": ClockState(False, 0.1)}, "clock", "CLOCK_UNSYNCHRONISED", Status.WARN),
        ({"clock": ClockState(True, 45.0)}, "clock", "CLOCK_INEXACT", Status.WARN),
        ({"core": -1}, "core dumps", "CORE_DUMPS_ON", Status.WARN),
        ({"files": 1024}, "open files", "FILES_FEW", Status.WARN),
        ({"vsock": False}, "vsock", "VSOCK_MISSING", Status.WARN),
        ({"docker": None}, "docker", "DOCKER_MISSING", Status.WARN),
        ({"run": lambda command: None}, "terraform", "TERRAFORM_MISSING", Status.WARN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_sickness_is_one_finding(
    root: Path, sick: dict[str, object], check: str, code: str, status: Status
) -> None:
    found = _findings(_healthy(root, **sick))
    assert (found[check].code, found[check].status) == (code, status)
    assert found[check].fix
    others = {name for name, finding in found.items() if finding.status is not Status.OK} - {check}
    assert others <= {"disk", "temporary disk", "extra:client"}


@pytest.mark.parametrize(
    ("path", "text", "check", "code", "status"),
    [
        ("proc/cpuinfo", "", "cpu", "CPU_FLAGS_UNKNOWN", Status.WARN),
        ("proc/cpuinfo", "flags : avx2\n", "cpu", "CPU_NO_AES", Status.WARN),
        ("proc/cpuinfo", "flags : aes sse4_2\n", "cpu", "CPU_NO_AVX2", Status.WARN),
        ("proc/meminfo", "MemTotal: 1 kB\n", "memory", "MEMORY_UNKNOWN", Status.WARN),
        ("proc/meminfo", "MemAvailable: 1048576 kB\n", "memory", "MEMORY_LOW", Status.WARN),
        ("proc/meminfo", "MemAvailable: 1024 kB\n", "memory", "MEMORY_LOW", Status.FAIL),
        ("proc/swaps", "Filename\n/swapfile file 1 0 -2\n", "swap", "SWAP_ON", Status.WARN),
        (
            "proc/sys/kernel/core_pattern",
            "|/usr/lib/systemd/systemd-coredump\n",
            "core dumps",
            "CORE_DUMPS_ON",
            Status.WARN,
        ),
    ],
)
def test_what_the_kernel_says(root: Path, path: str, text: str, check: str, code: str, status: Status) -> None:
    (root / path).write_text(text)
    found = _findings(_healthy(root))
    assert (found[check].code, found[check].status) == (code, status)
    assert {name for name, finding in found.items() if finding.status is not Status.OK} == {check}


def test_the_control_groups_limit_counts(root: Path) -> None:
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{GIB}\n")
    (folder / "memory.current").write_text(f"{GIB // 4}\n")
    assert _healthy(root).memory_available == GIB * 3 // 4
    (folder / "memory.max").write_text("max\n")
    assert _healthy(root).memory_available == 8 * GIB


def test_arm_counts_its_own_instructions(root: Path) -> None:
    (root / "proc/cpuinfo").write_text("processor : 0\nFeatures : fp asimd aes sha2\n")
    assert _findings(_healthy(root))["cpu"].status is Status.OK


def test_a_clock_before_this_code_is_wrong(root: Path) -> None:
    finding = _findings(_healthy(root), now=datetime(2020, 1, 1, tzinfo=UTC))["clock"]
    assert (finding.code, finding.status) == ("CLOCK_WRONG", Status.FAIL)


def test_a_folder_that_is_not_there(root: Path) -> None:
    finding = _findings(_healthy(root), folder=root / "nowhere")["disk"]
    assert (finding.code, finding.status) == ("DISK_UNREADABLE", Status.FAIL)


def test_a_file_in_the_place_of_the_folder(root: Path) -> None:
    (root / "f.txt").write_text("")
    finding = _findings(_healthy(root), folder=root / "f.txt")["disk"]
    assert (finding.code, finding.status) == ("DISK_NO_FOLDER", Status.FAIL)
    assert finding.fix is not None


def test_a_folder_that_takes_no_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeMachine, "writable", lambda _self, folder: folder != root)
    found = _findings(_healthy(root), folder=root)
    assert (found["disk"].code, found["disk"].status) == ("DISK_UNWRITABLE", Status.FAIL)
    assert found["temporary disk"].status is Status.OK
    temporary = _findings(_healthy(root, temporary=root))["temporary disk"]
    assert temporary.fix == "set TMPDIR to another folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_are_asked_of_the_system(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not Machine().writable(tmp_path)


def test_fixes_name_commands_that_exist(root: Path) -> None:
    """What is in backticks is a command of this program, here and now."""
    for path in root.rglob("*"):
        if path.is_file():
            path.unlink()
    sick = _healthy(
        root,
        python=(3, 1, 0),
        version_of=lambda _name: None,
        run=lambda _command: None,
        free=1,
        clock=None,
        vsock=False,
        docker=None,
        demo_weights=False,
        core=-1,
        files=1,
    )
    command = typer.main.get_command(app)
    for target in Target:
        for finding in _findings(sick, target).values():
            for words in re.findall(r"`([^`]+)`", f"{finding.seen} {finding.fix}"):
                found: Any = command
                for word in words.removeprefix("ephemeralml ").split():
                    found = found.get_command(None, word)
                    assert found is not None, (finding.check, words)
            assert "pip install ephemeralml" not in (finding.fix or ""), "this is no published package"


def test_no_tee_is_a_warning_here_and_nothing_to_a_client(root: Path) -> None:
    (root / "dev/nsm").unlink()
    assert _findings(_healthy(root))["tee"].code == "TEE_NONE"
    assert "tee" not in _findings(_healthy(root), Target.CLIENT)
    assert _findings(_healthy(root), Target.NITRO)["tee"].status is Status.OK


def test_an_enclave_host_needs_its_device_and_vsock(root: Path) -> None:
    (root / "dev/nitro_enclaves").unlink()
    machine = _healthy(root, vsock=False)
    found = _findings(machine, Target.NITRO)
    assert (found["nitro host"].code, found["nitro host"].status) == ("NITRO_DEVICE_MISSING", Status.FAIL)
    assert (found["vsock"].code, found["vsock"].status) == ("VSOCK_MISSING", Status.FAIL)
    assert _findings(machine)["nitro host"].status is Status.OK


def test_a_device_that_is_not_ours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeMachine, "usable", lambda _self, _path: False)
    finding = _findings(_healthy(root), Target.NITRO)["nitro host"]
    assert (finding.code, finding.status) == ("NITRO_DEVICE_DENIED", Status.FAIL)


def test_tofu_will_do(root: Path) -> None:
    answer = json.dumps({"terraform_version": "1.8.0"})
    machine = _healthy(root, run=lambda command: answer if command[0] == "tofu" else None)
    assert _findings(machine)["terraform"].seen == "tofu 1.8.0"


@pytest.mark.parametrize("output", ["", "Terraform v1.0", "[]", "{}"])
def test_a_tool_that_answers_nonsense_is_missing(root: Path, output: str) -> None:
    assert _findings(_healthy(root, run=lambda _command: output))["terraform"].code == "TERRAFORM_MISSING"


def test_the_real_machine_answers_every_question() -> None:
    for target in Target:
        found = examine(Machine(), target, folder=Path("/tmp"), now=NOW)
        assert found
        assert all(finding.seen for finding in found)


def test_tools_that_are_not_there_or_fail() -> None:
    machine = Machine()
    assert machine.run(["no-such-tool-at-all"]) is None
    assert machine.run(["false"]) is None
    assert machine.run(["echo", "hello"]) == "hello\n"


def test_files_are_read_in_bounds(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    machine = Machine(root=tmp_path)
    text = machine.text("big")
    assert text is not None
    assert len(text) == 1 << 20
    assert machine.text("nothing") is None


def test_docker_is_asked_over_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert Machine().docker is None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                assert b"GET /_ping" in peer.recv(1000)
                peer.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.47\r\nContent-Length: 2\r\n\r\nOK")

        thread = threading.Thread(target=answer)
        thread.start()
        assert Machine().docker == "1.47"
        thread.join()
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    assert Machine().docker is None
