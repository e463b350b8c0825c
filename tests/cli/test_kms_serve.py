"""`ephemeralml kms serve`: the contract of cli.md and key-release.md section 8, as transcripts."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.cli.runner import Result, run, run_process
from tests.fakes.kms_server import KmsServer, running


def serve(state: Path, *options: object) -> Result:
    return run("kms", "serve", "--state", state, *options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> "KmsServer":
    """A state that was served once, and stopped."""
    with running(tmp_path_factory.mktemp("kms"), principals=("parent",)) as made:
        made.client().create_key()
        assert made.stop() == 0
        return made


def test_ready_document(tmp_path: Path) -> None:
    with running(tmp_path, principals=("parent",)) as server:
        assert server.process is not None
        document = dict(server.document)
        port = document.pop("endpoint").removeprefix("http://127.0.0.1:")
        assert document == {
            "schema": "ephemeralml.kms/1",
            "pid": server.process.pid,
            "account": "000000000000",
            "region": "local",
            "trust": "local",
            "roots": [server.authority.fingerprint.hex()],
            "principals": [
                {
                    "name": name,
                    "arn": f"arn:aws:iam::000000000000:role/{name}",
                    "credentials": str((server.state / "credentials" / name).resolve()),
                }
                for name in ("administrator", "parent")
            ],
        }
        assert "software key store: keys are as safe as this machine" in server.log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        result = run_process("kms", "serve", "--state", server.state, "--listen", "127.0.0.1:0")
        assert result.exit_code == 5
        assert "another key server uses the state" in result.stderr
        assert server.stop(signal.SIGINT) == 0


def test_text_output(server: KmsServer) -> None:
    command = [sys.executable, "-m", "ephemeralml", "kms", "serve", "--state", str(server.state)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert line.startswith("serving at http://127.0.0.1:")
    assert err.decode() == "software key store: keys are as safe as this machine\n"
    assert process.returncode == 0


def test_a_request_under_way_ends_before_the_server(tmp_path: Path) -> None:
    with running(tmp_path, principals=()) as server:
        assert server.process is not None
        host, _, port = server.endpoint.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.3)
            server.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
            sock.sendall(b"}")
            answer = b""
            while part := sock.recv(4_096):
                answer += part
            assert b"MissingAuthenticationTokenException" in answer
        assert server.process.wait(10) == 0


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with running(tmp_path, principals=(), options=("--drain", "60")) as server:
        assert server.process is not None
        host, _, port = server.endpoint.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.3)
            server.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
            server.process.terminate()
            assert server.process.wait(10) == 0


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "kms.sock"
    with running(tmp_path, principals=(), options=("--listen", f"unix:{path}")) as server:
        assert server.endpoint == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4_096).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
        assert not path.exists()


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_tls(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    options = ("--tls", str(certificate), str(key), "--listen", "localhost:0")
    with running(tmp_path, principals=(), options=options) as server:
        assert server.endpoint.startswith("https://localhost:")
        context = ssl.create_default_context(cafile=str(certificate))
        port = int(server.endpoint.rpartition(":")[2])
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    result = serve(tmp_path / "kms", "--tls", key, certificate, "--listen", "127.0.0.1:0")
    assert (result.exit_code, result.stdout) == (4, "")


class TestRefusals:
    """Nothing is made where the options cannot be meant."""

    @pytest.mark.parametrize("listen", ["0.0.0.0:8480", "10.1.2.3:8480", "[::]:8480", "kms.example:8480"])
    def test_other_machines_need_tls(self, tmp_path: Path, listen: str) -> None:
        result = serve(tmp_path / "state", "--init", "--listen", listen)
        assert result.exit_code == 2
        assert "without TLS data keys cross in the clear" in result.stderr
        assert "--insecure-http" in result.stderr
        assert not (tmp_path / "state").exists()

    @pytest.mark.parametrize(
        "options",
        [
            *(("--listen", "x"), ("--listen", "vsock://3:1"), ("--cms-form", "odd"), ("--state-key", "vault")),
            *(("--init", "--verify-audit"), ("--account", "1"), ("--identity-policy", "f")),
            *(("--init", "--account", "1"), ("--init", "--region", "X Y")),
            ("--listen", "unix:/tmp/x", "--tls", "a", "b"),
        ],
    )
    def test_usage(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        result = serve(tmp_path / "state", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ")
        assert not (tmp_path / "state").exists()

    def test_no_state(self, tmp_path: Path) -> None:
        for folder in (tmp_path / "state", tmp_path):
            result = serve(folder)
            assert result.exit_code == 5
            assert "hint: make it with --init" in result.stderr

    def test_no_authority(self, server: KmsServer, tmp_path: Path) -> None:
        result = serve(server.state, "--authority", tmp_path, "--listen", "127.0.0.1:0")
        assert result.exit_code == 2
        assert "root.der" in result.stderr
        assert "--authority DIR" in result.stderr

    def test_init_twice(self, server: KmsServer) -> None:
        result = serve(server.state, "--init", "--trust", "aws")
        assert result.exit_code == 5
        assert "already" in result.stderr

    def test_roots_that_are_none(self, server: KmsServer, tmp_path: Path) -> None:
        (tmp_path / "roots").write_bytes(b"nothing")
        for trust in (tmp_path / "roots", tmp_path / "missing"):
            result = serve(server.state, "--trust", trust, "--listen", "127.0.0.1:0")
            assert (result.exit_code, result.stdout) == (2, "")


def test_a_first_start_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    state = tmp_path / "kms"
    authority = state / "authority"
    authority.mkdir(parents=True)
    (authority / "root.key.pem").write_text("half")
    server = KmsServer(state)
    try:
        server.start("--init")
        assert server.document["roots"] == [server.authority.fingerprint.hex()]
    finally:
        server.stop()


def test_other_machines_without_tls_are_warned_of(server: KmsServer) -> None:
    exposed = KmsServer(server.state, ("--listen", "0.0.0.0:0", "--insecure-http"))
    exposed.start()
    exposed.stop()
    assert "warning: data keys cross the network in the clear" in exposed.log.read_text()


def test_add_principal_ends(server: KmsServer) -> None:
    result = serve(server.state, "--add-principal", "late", "--json")
    assert result.exit_code == 0
    (made,) = result.json["principals"]
    assert made["arn"] == "arn:aws:iam::000000000000:role/late"
    path = Path(made["credentials"])
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text().split()[-1]
    assert secret not in result.stdout + result.stderr
    again = serve(server.state, "--add-principal", "late")
    assert again.exit_code == 5
    assert path.read_text().split()[-1] == secret
    for name in ("a/b", "arn:aws:iam::1:role/x"):
        refused = serve(server.state, "--add-principal", name)
        assert refused.exit_code == 2
        assert f"--add-principal '{name}'" in refused.stderr


def test_verify_audit(server: KmsServer, tmp_path: Path) -> None:
    result = serve(server.state, "--verify-audit", "--json")
    assert result.exit_code == 0
    assert result.json["schema"] == "ephemeralml.kms-audit/1"
    assert result.json["lines"] >= 1
    path = server.state / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"CreateKey", b"createKey", 1))
    result = serve(server.state, "--verify-audit", "--json")
    path.write_bytes(b"")
    emptied = serve(server.state, "--verify-audit")
    path.write_bytes(whole)
    assert (result.exit_code, result.json["code"]) == (3, "KMS_AUDIT_BROKEN")
    assert emptied.exit_code == 3


def test_a_broken_log_is_not_written_on(server: KmsServer) -> None:
    path = server.state / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"CreateKey", b"createKey", 1))
    result = serve(server.state, "--listen", "127.0.0.1:0")
    path.write_bytes(whole)
    assert (result.exit_code, result.stdout) == (3, "")


def test_export_and_import(server: KmsServer, tmp_path: Path) -> None:
    backup, other = tmp_path / "backup", tmp_path / "other"
    assert serve(server.state, "--export", backup).exit_code == 0
    assert backup.stat().st_mode & 0o777 == 0o600
    assert serve(server.state, "--export", backup).exit_code == 2
    key = server.state / "state.key"
    keyless = serve(other, "--import", backup)
    assert keyless.exit_code == 5
    assert "--state-key file:OLD/state.key" in keyless.stderr
    assert not other.exists()
    assert serve(other, "--import", backup, "--state-key", f"file:{key}", "--json").exit_code == 0
    assert serve(other, "--import", backup, "--state-key", f"file:{key}").exit_code == 5
    (other / "state.key").write_bytes(key.read_bytes())
    (other / "state.key").chmod(0o600)
    for name in ("administrator", "parent"):
        written, before = other / "credentials" / name, server.state / "credentials" / name
        assert written.read_bytes() == before.read_bytes()
        assert written.stat().st_mode & 0o777 == 0o600
    restored = KmsServer(other, ("--trust", "aws"))
    try:
        restored.start()
        assert restored.client().list_keys()["Keys"]
        assert restored.document["trust"] == "aws"
    finally:
        restored.stop()
    changed = backup.read_bytes()
    backup.write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    assert serve(tmp_path / "third", "--import", backup, "--state-key", f"file:{key}").exit_code == 3
    backup.write_bytes(b"x")
    assert serve(tmp_path / "third" / "a", "--import", backup, "--state-key", f"file:{key}").exit_code == 4
    assert not (tmp_path / "third").exists()


def test_what_is_restored_serves_with_the_old_root(server: KmsServer, tmp_path: Path) -> None:
    backup, other = tmp_path / "backup", tmp_path / "restored"
    key = f"file:{server.state / 'state.key'}"
    assert serve(server.state, "--export", backup).exit_code == 0
    assert "--authority DIR" in serve(other, "--import", backup, "--state-key", key).stderr
    refused = serve(other, "--state-key", key, "--listen", "127.0.0.1:0")
    assert refused.exit_code == 2
    assert "a backup has none" in refused.stderr
    restored = KmsServer(other, ("--state-key", key, "--authority", str(server.authority_folder)))
    try:
        restored.start()
        assert restored.client().list_keys()["Keys"]
    finally:
        restored.stop()


def test_a_passphrase_that_others_may_read(tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    phrase.chmod(0o644)
    refused = serve(tmp_path / "state", "--init", "--state-key", f"passphrase:{phrase}")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"chmod 600 {phrase}" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_an_authority_and_roots_of_ones_own(server: KmsServer, tmp_path: Path) -> None:
    options = ("--authority", str(server.authority_folder))
    with running(tmp_path, principals=(), options=options) as other:
        assert other.document["roots"] == [server.authority.fingerprint.hex()]
        assert not other.authority_folder.exists()
        other.stop()
        root = server.authority_folder / "root.der"
        pem = tmp_path / "root.pem"
        pem.write_bytes(x509.load_der_x509_certificate(root.read_bytes()).public_bytes(Encoding.PEM))
        for path in (root, pem):
            other.options = ("--trust", str(path))
            other.start()
            assert (other.document["trust"], other.document["roots"]) == ("file", [server.authority.fingerprint.hex()])
            other.stop()


def test_the_wrong_state_key(server: KmsServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    result = serve(server.state, "--verify-audit", "--state-key", f"file:{tmp_path / 'key'}", "--json")
    assert (result.exit_code, result.json["code"]) == (3, "KMS_STATE_KEY_WRONG")
    assert json.loads(result.stdout)["exit_code"] == 3
