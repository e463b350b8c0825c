"""Children start in order, are missed at once, and never stay behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.host.supervisor import ChildFailedError, Command, Supervisor

REPOSITORY = Path(__file__).resolve().parents[2]


IMPORTABLE = {"PYTHONPATH": str(REPOSITORY)}


def _command(what: str, *rest: str, name: str = "child", **options: float) -> Command:
    return Command(name, (what, *rest), module="tests.fakes.supervised", environment=IMPORTABLE, **options)


def _gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie of another parent is as dead as one can be.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_start_returns_the_document_even_over_several_lines() -> None:
    with Supervisor() as supervisor:
        document = supervisor.start(_command("serve", "a", "b c"))["child"]
        assert document["ready"] is True
        assert document["arguments"] == ["a", "b c"]
        assert supervisor.pids == {"child": document["pid"]}
    assert _gone(document["pid"])


def test_option_defaults_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPHEMERALML_TARGET", "tcp://elsewhere:1")
    with Supervisor() as supervisor:
        names = supervisor.start(_command("serve"))["child"]["environment"]
    assert "EPHEMERALML_TARGET" not in names
    assert [name for name in names if name.startswith("EPHEMERALML_")] == ["EPHEMERALML_SETTINGS"]


def test_what_is_withheld_is_not_inherited_but_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWKWARD", "stays")
    command = replace(_command("serve"), withheld=("AWS_",), environment={**IMPORTABLE, "AWS_REGION": "local"})
    with Supervisor() as supervisor:
        names = supervisor.start(command)["child"]["environment"]
    assert {name for name in names if name.startswith("AW")} == {"AWS_REGION", "AWKWARD"}


def test_a_settings_file_in_the_working_folder_does_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ephemeralml.toml").write_text("[host.run\n")  # whoever reads it ends with an error
    monkeypatch.chdir(tmp_path)
    arguments = ("host", "run", "--target", f"unix://{tmp_path}/none", "--listen", "tcp://127.0.0.1:0", "--json")
    with Supervisor() as supervisor:
        assert supervisor.start(Command("relay", arguments))["relay"]["schema"] == "ephemeralml.relay/1"


def test_a_child_imports_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    with Supervisor() as supervisor:
        assert supervisor.start(_command("serve"))


def test_stderr_reaches_the_observer_without_control_characters() -> None:
    lines: list[tuple[str, str]] = []
    seen = threading.Event()

    def observe(name: str, line: str) -> None:
        lines.append((name, line))
        seen.set()

    with Supervisor(observe) as supervisor:
        supervisor.start(_command("serve", name="runtime"))
        assert seen.wait(5)
    assert lines[0] == ("runtime", "hello\N{REPLACEMENT CHARACTER}[31m")


def test_a_child_that_fails_gives_its_own_error_and_hint() -> None:
    with Supervisor() as supervisor, pytest.raises(ChildFailedError) as caught:
        supervisor.start(_command("fail", "3", name="runtime"))
    assert caught.value.exit_code == 3
    assert caught.value.name == "runtime"
    assert caught.value.message == "the runtime ended with exit code 3: no such package"
    assert caught.value.hint == "make one"


def test_an_error_document_is_no_readiness() -> None:
    with Supervisor() as supervisor, pytest.raises(ChildFailedError) as caught:
        supervisor.start(_command("fail-json"))
    assert caught.value.exit_code == 4
    assert caught.value.message == "the child ended with exit code 4: bad digest"


def test_a_child_that_says_nothing_misses_its_deadline_and_is_stopped() -> None:
    began = time.monotonic()
    with Supervisor() as supervisor:
        with pytest.raises(ChildFailedError, match=r"not ready after 0\.5 s") as caught:
            supervisor.start(_command("silent", ready_seconds=0.5))
        assert caught.value.exit_code is None
        pid = supervisor.pids["child"]
    assert _gone(pid)
    assert time.monotonic() - began < 8


def test_a_flood_on_stdout_is_not_kept() -> None:
    with Supervisor() as supervisor, pytest.raises(ChildFailedError, match="closed its output"):
        supervisor.start(_command("flood", stop_seconds=0.5))


def test_output_after_the_document_does_not_block_the_child() -> None:
    talked = threading.Event()
    with Supervisor(lambda _name, line: talked.set() if line == "talked" else None) as supervisor:
        supervisor.start(_command("talk"))
        assert talked.wait(10)


def test_a_death_is_noticed_at_once_and_the_rest_is_stopped() -> None:
    with Supervisor() as supervisor:
        first = supervisor.start(_command("serve", name="runtime"), _command("die-later", name="relay"))["runtime"]
        began = time.monotonic()
        with pytest.raises(ChildFailedError, match="the relay was killed by signal 9") as caught:
            supervisor.wait(20)
        assert time.monotonic() - began < 3
    assert isinstance(caught.value, UnavailableError)
    assert _gone(first["pid"])


def test_wait_returns_after_its_time() -> None:
    with Supervisor() as supervisor:
        supervisor.start(_command("serve"))
        began = time.monotonic()
        supervisor.wait(0.3)
        assert 0.25 < time.monotonic() - began < 3


def test_children_stop_in_reverse_order() -> None:
    with Supervisor() as supervisor:
        supervisor.start(_command("clean", name="one"), _command("clean", name="two"))
        order = [child.command.name for child in reversed(supervisor._children)]
        assert order == ["two", "one"]
        supervisor.stop()
        assert [child.process.returncode for child in supervisor._children] == [0, 0]


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    with Supervisor() as supervisor:
        document = supervisor.start(_command("stubborn", stop_seconds=0.3))["child"]
    assert _gone(document["pid"])


def test_what_a_child_leaves_behind_is_killed_too() -> None:
    with Supervisor() as supervisor:
        document = supervisor.start(_command("grandchild"))["child"]
    assert _gone(document["grandchild"])


def test_children_die_with_a_supervisor_that_is_killed() -> None:
    outer = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.supervised", "supervise"], stdout=subprocess.PIPE, text=True
    )
    assert outer.stdout is not None
    with outer.stdout:
        text = "".join(iter(outer.stdout.readline, "}\n"))
        inner = int(text.partition('"inner": ')[2].strip())
        assert not _gone(inner, 0.1)
        outer.send_signal(signal.SIGKILL)
        outer.wait(5)
    assert _gone(inner)


def test_a_child_whose_parent_is_already_gone_ends() -> None:
    done = subprocess.run([sys.executable, "-m", "ephemeralml.host.child", "1", "this"], check=False)
    assert done.returncode == 1
