"""`ephemeralml deploy local`: options, output, and what is refused before anything starts."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.cli.runner import run
from tests.fakes.local_deployment import deployed
from tests.fakes.packages import PUBLISHER, signed_package

KEY = str(PUBLISHER.public)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed_package(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        ((), 2, "nothing to serve", "--demo-model"),
        (("--demo-model", "--package", "."), 2, "--demo-model and --package exclude each other", None),
        (("--demo-model", "--publisher-key", KEY), 2, "--demo-model and --package exclude each other", None),
        (("--package", "."), 2, "--package needs --publisher-key", "name the key"),
        (("--package", "nowhere", "--publisher-key", KEY), 2, "the package 'nowhere' is no folder", None),
        (("--package", ".", "--publisher-key", "ed25519:00"), 4, "a public key is ed25519: and 64", None),
        (("--demo-model", "--listen", "here"), 2, "--listen: not an address: 'here'", "write tcp://"),
        (
            ("--demo-model", "--listen", "vsock://any:1"),
            2,
            "a relay does not listen on vsock://any:1",
            "tcp, unix or ws",
        ),
        (("--demo-model", "--for", "-1"), 2, "invalid value for '--for'", None),
    ],
)
def test_what_is_refused_at_once(
    arguments: tuple[str, ...], code: int, error: str, hint: str | None, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    result = run("deploy", "local", *arguments, "--state", state, cwd=tmp_path)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {error}")
    if hint is not None:
        assert f"hint: {hint}" in result.stderr or hint in result.stderr.partition("hint: ")[2]
    assert not state.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_state_that_is_no_folder_is_usage(tmp_path: Path, kind: str) -> None:
    state = tmp_path / "state"
    if kind == "file":
        state.write_text("mine")
    else:
        state.symlink_to("nowhere")
    result = run("deploy", "local", "--demo-model", "--state", state)
    assert result.exit_code == 2
    assert result.stderr == f"error: the state folder {str(state)!r} is no folder\nhint: name a folder with --state\n"
    assert state.is_symlink() or state.read_text() == "mine"


def test_text_output(package: Path, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    state = tmp_path / "state"
    result = run(
        *("deploy", "local", "--package", package, "--publisher-key", KEY, "--state", state, "--for", "0"),
        *("--listen", "tcp://127.0.0.1:0"),
    )
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:5])
    assert lines["endpoint"].startswith("tcp://127.0.0.1:")
    assert lines["policy"] == str(state / "policy.json")
    assert lines["models"] == "tiny-bert"
    assert lines["receipts"].startswith("ed25519:")
    assert f"supervisor {os.getpid()}" in lines["processes"]
    assert f"ephemeralml infer --target {lines['endpoint']} --policy {state}/policy.json --embed" in result.stdout
    assert "warning: software TEE: it proves nothing about hardware" in result.stderr
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_verbose_shows_what_the_children_say(package: Path, tmp_path: Path) -> None:
    result = run(
        *("deploy", "local", "-v", "--package", package, "--publisher-key", KEY, "--for", "0"),
        *("--listen", f"unix://{tmp_path}/x.sock"),
    )
    assert result.exit_code == 0, result.stderr
    assert "runtime | boot config" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_runs_is_a_clean_end(package: Path, number: signal.Signals) -> None:
    with deployed(package=package) as running:
        code, err = running.stop(number)
        assert code == 0, err
        assert not Path(running.document["state"]).exists()


def test_a_signal_while_it_starts_stops_what_was_started(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"

    def interrupt() -> None:
        while not path.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run("deploy", "local", "--package", package, "--publisher-key", KEY, "--listen", f"unix://{path}")
    thread.join()
    # 0 only if a slow machine had the runtime ready before the signal came.
    assert (result.exit_code, result.stdout) == (130, "") or result.exit_code == 0
    assert not path.exists()


def test_an_address_that_is_taken(package: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = run("deploy", "local", "--package", package, "--publisher-key", KEY, "--listen", address, "--for", "0")
    assert result.exit_code == 5
    assert result.stdout == ""
    assert f"error: the relay ended with exit code 5: cannot listen on {address}" in result.stderr
    assert "hint: " in result.stderr


def test_without_listen_a_taken_port_is_no_obstacle(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("ephemeralml.cli.local_stack.DEFAULT_LISTEN", taken.getsockname())
        result = run("deploy", "local", "--package", package, "--publisher-key", KEY, "--for", "0", "--json")
        assert result.exit_code == 0, result.stderr
        assert result.json["schema"] == "ephemeralml.deploy-local/1"
        assert result.json["endpoint"] != f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert "is taken, listening on another" in result.stderr
