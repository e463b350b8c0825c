"""`ephemeralml host run`: the contract of cli.md, as transcripts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.runner import Result, run
from tests.fakes.host_services import Client
from tests.fakes.s3_server import BUCKET, moto_server

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def _started(*args: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EPHEMERALML_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ephemeralml", "host", "run", *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _document(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.rstrip() == "}":
            break
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


@contextmanager
def _echo_once() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


def test_ready_document_relayed_bytes_and_clean_end() -> None:
    with (
        _echo_once() as (server, port),
        _started("--target", f"tcp://127.0.0.1:{port}", "--listen", "tcp://127.0.0.1:0", "--json") as process,
    ):
        document = _document(process)
        (address,) = document["listen"]  # type: ignore[misc] # a list of one
        assert document == {
            "schema": "ephemeralml.relay/1",
            "listen": [address],
            "target": f"tcp://127.0.0.1:{port}",
            "pid": process.pid,
        }
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.sendall(b"a secret question")
            back, _ = server.accept()
            with back:
                assert back.recv(100) == b"a secret question"
                back.sendall(b"an answer")
                assert client.recv(100) == b"an answer"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert out == ""
        assert "17 bytes up, 9 bytes down" in err
        assert "secret" not in err
        assert "127.0.0.1" not in err


def test_text_output_says_where() -> None:
    with _started("--target", "unix:///nonexistent/x.sock", "--listen", "tcp://127.0.0.1:0", "--quiet") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("relaying tcp://127.0.0.1:")
        assert line.endswith(" to unix:///nonexistent/x.sock\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_second_signal_does_not_wait_for_connections() -> None:
    with (
        _echo_once() as (server, port),
        _started(
            "--target", f"tcp://127.0.0.1:{port}", "--listen", "tcp://127.0.0.1:0", "--json", "--drain", "60"
        ) as p,
    ):
        address = str(_document(p)["listen"][0])  # type: ignore[index] # a list of one
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.sendall(b"x")
            back, _ = server.accept()
            with back, contextlib.suppress(ConnectionError):
                p.send_signal(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    p.wait(0.5)
                p.send_signal(signal.SIGTERM)
                assert p.wait(10) == 0


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("host", "run", "--target", "tcp://127.0.0.1:9", "--listen", f"tcp://127.0.0.1:{port}")
    assert result.exit_code == 5
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: cannot listen on tcp://127.0.0.1:{port}: ")
    assert "\nhint: " in result.stderr


def test_an_address_of_another_machine() -> None:
    result = run("host", "run", "--target", "tcp://127.0.0.1:9", "--listen", "tcp://192.0.2.1:7443")
    assert result.exit_code == 5
    assert "hint: this machine has no such address" in result.stderr


def test_the_help_says_what_an_option_takes() -> None:
    text = run("host", "run", "--help", "--plain").stdout
    for option, value in {
        "--target": "ADDR",
        "--listen": "ADDR",
        "--connections": "N",
        "--per-peer": "N",
        "--connect-timeout": "SECONDS",
        "--idle-timeout": "SECONDS",
        "--drain": "SECONDS",
        "--services": "ADDR",
        "--package": "[NAME=]SRC",
        "--key": "URI",
        "--kms-endpoint": "URL",
    }.items():
        line = next(line for line in text.splitlines() if f" {option} " in line)
        assert f" {value} " in line, line


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ((), 2, "error: missing option '--target'"),
        (("--target", "nonsense"), 2, "error: --target: not an address: 'nonsense'"),
        (("--target", "vsock://16:5005", "--listen", "foo"), 2, "error: --listen: not an address: 'foo'"),
        (("--target", "ws://h/v1/channel"), 2, "error: a relay does not forward to ws://h:80/v1/channel"),
        (
            ("--target", "vsock://16:5005", "--listen", "vsock://any:1"),
            2,
            "error: a relay does not listen on vsock://any:1",
        ),
        (
            ("--target", "vsock://16:5005", "--listen", "wss://0.0.0.0/v1/channel"),
            2,
            "error: a relay does not listen on wss://0.0.0.0:443/v1/channel",
        ),
        (("--target", "vsock://16:5005", "--connections", "0"), 2, "error: invalid value for '--connections'"),
    ],
)
def test_what_is_refused_before_anything_listens(arguments: tuple[str, ...], code: int, error: str) -> None:
    result = run("host", "run", *arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(error)
    assert "hint: " in result.stderr


# services

KEY = "local:arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000001"
ENDPOINT = ("--kms-endpoint", "http://127.0.0.1:1")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK finds here, and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret/of/nobody",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("credentials")
def test_services_beside_the_relay(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "manifest.json").write_bytes(b"{}")
    services = f"unix://{tmp_path}/services"
    options = ("--services", services, "--package", f"mine={tmp_path}/package", "--key", KEY, *ENDPOINT)
    with _started(
        "--target", f"unix://{tmp_path}/none", "--listen", "tcp://127.0.0.1:0", "--json", *options
    ) as process:
        assert _document(process)["services"] == services
        client = Client(tmp_path / "services")
        assert client.ask("GET", "/package/mine/manifest.json", Range="bytes=0-1")[::2] == (206, b"{}")
        assert client.ask("GET", "/package/manifest.json")[0] == 404
        status, _, body = client.ask("POST", "/kms/decrypt", b"{}")
        assert (status, json.loads(body)) == (400, {"error": "MalformedRequest"})
        client.close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "GET /package/manifest.json 404" in err
        assert not (tmp_path / "services").exists()


def _offer(folder: Path, *options: object) -> Result:
    return run("host", "run", "--target", "tcp://127.0.0.1:9", "--services", f"unix://{folder}/s", *options)


def _is_unavailable(result: Result, *words: str) -> None:
    assert result.exit_code == 5, result.stderr
    assert result.stdout == ""
    assert "hint: " in result.stderr
    assert "secret/of/nobody" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_folder_that_is_no_package(tmp_path: Path) -> None:
    result = _offer(tmp_path, "--package", f"mine={tmp_path}")
    _is_unavailable(result, f"error: --package mine={tmp_path}: the package has no manifest.json", "model upload")
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("credentials")
def test_a_bucket_is_looked_at_before_anything_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        result = _offer(tmp_path, "--package", "s3://nobucket/x")
        _is_unavailable(result, " s3://nobucket/x/manifest.json: there is no such bucket")
        result = _offer(tmp_path, "--package", f"a=s3://{BUCKET}/x")
        _is_unavailable(result, f"--package a=s3://{BUCKET}/x: there is no object s3://{BUCKET}/x/manifest.json")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        result = _offer(tmp_path, "--package", f"s3://{BUCKET}/x")
        _is_unavailable(result, f"cannot read s3://{BUCKET}/x/manifest.json: no AWS credentials", "AWS_PROFILE")
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("credentials")
def test_a_store_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemeralml.host.first_look.SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        result = _offer(tmp_path, "--package", f"s3://{BUCKET}/x")
        assert time.monotonic() - begun < 5
    _is_unavailable(result, f"cannot look at --package s3://{BUCKET}/x: no answer within 1 s", "endpoint")


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_PROFILE": "nobody"}, ("nobody",)),
        ({"AWS_ENDPOINT_URL_KMS": "foo"}, ("AWS_ENDPOINT_URL_KMS",)),
        ({"AWS_SECRET_ACCESS_KEY": ""}, ("credentials",)),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ("no valid credentials", KEY)),
    ],
)
def test_a_key_without_a_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    endpoint = () if "AWS_ENDPOINT_URL_KMS" in variables else ENDPOINT
    _is_unavailable(_offer(tmp_path, "--key", KEY, *endpoint), *words)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("credentials")
def test_a_profile_that_is_not_there_for_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    _is_unavailable(_offer(tmp_path, "--package", "s3://models/x"), "nobody", "AWS_PROFILE")


def test_services_in_text(tmp_path: Path) -> None:
    services = f"unix://{tmp_path}/services"
    with _started(
        "--target", f"unix://{tmp_path}/x", "--listen", "tcp://127.0.0.1:0", "--quiet", "--services", services
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("relaying ")
        assert process.stdout.readline() == f"services on {services}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--package", "."), "error: --package needs --services"),
        (("--key", KEY), "error: --key needs --services"),
        (ENDPOINT, "error: --kms-endpoint needs --services"),
        (("--services", "foo"), "error: --services: not an address: 'foo'"),
        (("--services", "ws://h/v1/channel"), "error: the services do not listen on ws://"),
        (("--services", "tcp://0.0.0.0:8001"), "error: --services: tcp://0.0.0.0:8001 would serve every machine"),
        (("--services", "vsock://3:8001"), "error: services on vsock answer one enclave"),
        (("--services", "unix:///tmp/s", "--package", "/nowhere/at/all"), "error: the package '/nowhere/at/all'"),
        (("--services", "unix:///tmp/s", "--package", "."), "error: two packages have no name"),
        (("--services", "unix:///tmp/s", "--package", "a=."), "error: two packages are called 'a'"),
        (("--services", "unix:///tmp/s", "--package", "s3://"), "error: --package: 's3://' names no bucket"),
        (("--services", "unix:///tmp/s", "--key", "arn:x", *ENDPOINT), "error: --key: not a key's URI"),
        (("--services", "unix:///tmp/s", "--key", KEY, "--kms-endpoint", ""), "error: --kms-endpoint"),
    ],
)
def test_services_that_cannot_be(options: tuple[str, ...], error: str) -> None:
    twice = options[2:] if "two packages" in error else ()
    result = run("host", "run", "--target", "tcp://127.0.0.1:9", "--listen", "tcp://127.0.0.1:0", *options, *twice)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith(error)
    assert "hint: " in result.stderr


def test_a_local_key_without_an_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_KMS", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    result = run("host", "run", "--target", "tcp://127.0.0.1:9", "--services", f"unix://{tmp_path}/s", "--key", KEY)
    assert result.exit_code == 5
    assert "no endpoint for" in result.stderr
    assert "--kms-endpoint" in result.stderr
