"""The capture test: what crosses the host, and what the host process holds, is ciphertext.

Every wire between client, relay, runtime, services, store and key server is
tapped. The publisher's data key is known to the test, and so are the weights
and the prompt; none of them may turn up, plain, in hex or in base64.
"""

import base64
import contextlib
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("moto", reason="moto is not installed")

from ephemeralml.attestation.local.measure import measure
from ephemeralml.crypto.data_key import EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.deploy.local_keys import PARENT, KeyServer, model_key, publisher_keys, release_to
from ephemeralml.enclave.config import render
from ephemeralml.keyrelease.aws import AwsKms
from tests.cli.runner import run
from tests.fakes.kms_server import running as key_server
from tests.fakes.packages import PUBLISHER, encrypted_package
from tests.fakes.s3_server import BUCKET, moto_server
from tests.fakes.serving_command import serving
from tests.fakes.tap import Tap, tapped

PROMPT = "the patient in bed seven asked for a second opinion"
MODEL = "tiny-bert"


@dataclass
class KnownKeys:
    """The publisher's keys, with every data key remembered."""

    keys: AwsKms
    given: list[bytes] = field(default_factory=list)

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        dek, wrapped = self.keys.generate(context)
        self.given.append(bytes(dek.reveal()))
        return dek, wrapped

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        raise AssertionError("not wrapped here")


@dataclass
class Captured:
    """What was heard on each wire, what the host process held, and what to look for in it."""

    wires: dict[str, bytes]
    host: dict[str, bytes]
    needles: dict[str, bytes]
    blob: bytes
    answer: dict[str, Any]


def _memory(pid: int) -> bytes:
    """Everything that a process can read of its own memory, but for what it maps from files."""
    held = bytearray()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ (\d+)", line)
            if found is None or found[3] != "0" or "[v" in line:
                continue
            start, end = int(found[1], 16), int(found[2], 16)
            memory.seek(start)
            try:
                held += memory.read(end - start)
            except OSError:
                continue
    return bytes(held)


def _weights(folder: Path) -> dict[str, bytes]:
    """Pieces of every file of the model that cannot be there by chance."""
    pieces: dict[str, bytes] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for at in (0, len(data) // 3, len(data) // 2, len(data) - 48):
            piece = data[max(at, 0) : max(at, 0) + 48]
            if len(set(piece)) >= 12:
                pieces[f"{path.name} at {at}"] = piece
    assert len(pieces) >= 8
    return pieces


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    folder = tmp_path_factory.mktemp("tap")
    with ExitStack() as stack:
        kms = stack.enter_context(key_server(folder))
        s3 = stack.enter_context(moto_server())
        taps: dict[str, Tap] = {}
        taps["key server"] = stack.enter_context(tapped(kms.endpoint.replace("http://", "tcp://")))
        taps["store"] = stack.enter_context(tapped(s3.endpoint.replace("http://", "tcp://")))
        server = KeyServer(kms.state, kms.endpoint, kms.account, kms.region)
        uri = model_key(server, (MODEL,))
        known = KnownKeys(publisher_keys(server, uri))
        package = encrypted_package(folder, keys=known)
        with contextlib.closing(s3.client()) as bucket:
            for path in package.rglob("*"):
                if path.is_file():
                    bucket.upload_file(str(path), BUCKET, f"m/{path.relative_to(package)}")
        taps["services"] = stack.enter_context(
            tapped(f"unix://{folder}/services", listen=f"unix://{folder}/services-tap")
        )
        taps["runtime"] = stack.enter_context(tapped(f"unix://{folder}/inside", listen=f"unix://{folder}/inside-tap"))
        config = render(
            attester="local",
            security_mode="evaluation",
            listen=f"unix://{folder}/inside",
            publisher_key=PUBLISHER.public,
            model_id=MODEL,
            allow_plaintext=False,
            key_uris=(str(uri),),
            services=taps["services"].address,
        )
        (folder / "enclave.toml").write_bytes(config)
        registers = {f"pcr{index}": value.hex() for index, value in measure(config, kms.authority.id).items()}
        release_to(server, str(uri), (MODEL,), registers)
        environment = {
            **server.environment(PARENT),
            "AWS_ENDPOINT_URL_S3": taps["store"].address.replace("tcp://", "http://"),
        }
        relay = stack.enter_context(
            serving(
                folder,
                *("host", "run", "--target", taps["runtime"].address, "--listen", "tcp://127.0.0.1:0"),
                *("--services", f"unix://{folder}/services", "--package", f"s3://{BUCKET}/m", "--key", str(uri)),
                *("--kms-endpoint", taps["key server"].address.replace("tcp://", "http://")),
                log=folder / "host.log",
                environment=environment,
            )
        )
        authority = ("--authority", str(kms.authority_folder))
        stack.enter_context(serving(folder, "enclave", "run", "--config", "enclave.toml", *authority))
        taps["client"] = stack.enter_context(tapped(relay.document["listen"][0]))
        asked = run(
            *("infer", "--target", taps["client"].address, "--insecure-accept-local", "--embed", "--model", MODEL),
            *("--text", PROMPT, "--json"),
        )
        assert asked.exit_code == 0, asked.stderr
        process = Path(f"/proc/{relay.pid}")
        host = {
            "arguments": (process / "cmdline").read_bytes(),
            "environment": (process / "environ").read_bytes(),
            "memory": _memory(relay.pid),
            "log": (folder / "host.log").read_bytes(),
        }
        (dek,) = known.given
        needles = {"the data key": dek, "the prompt": PROMPT.encode(), **_weights(folder / "source-tiny-bert-1.0.0")}
        blob = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size).read_bytes()
        wires = {name: bytes(tap.heard) for name, tap in taps.items()}
        return Captured(wires, host, needles, blob, asked.json)


def _forms(needle: bytes) -> list[bytes]:
    """A needle as it is, in hex, and in base64 whatever the bytes around it are."""
    inside = [base64.b64encode(bytes(shift) + needle)[4 if shift else 0 : -4] for shift in range(3)]
    return [needle, needle.hex().encode(), needle.hex().upper().encode(), *inside]


def _found(captured: Captured, haystack: bytes) -> list[str]:
    return [name for name, needle in captured.needles.items() if any(form in haystack for form in _forms(needle))]


@pytest.mark.parametrize("wire", ["client", "runtime", "services", "store", "key server"])
def test_nothing_in_the_clear_crosses(captured: Captured, wire: str) -> None:
    assert len(captured.wires[wire]) > 500
    assert _found(captured, captured.wires[wire]) == []


@pytest.mark.parametrize("part", ["arguments", "environment", "memory", "log"])
def test_the_host_process_holds_nothing(captured: Captured, part: str) -> None:
    assert len(captured.host[part]) > 50
    assert _found(captured, captured.host[part]) == []


def test_the_taps_are_on_the_wires_that_count(captured: Captured) -> None:
    """The package's ciphertext went through store and services, and so through the host's memory."""
    piece = captured.blob[1_000:1_064]
    assert piece in captured.wires["store"]
    assert piece in captured.wires["services"]
    assert b"TrentService.Decrypt" in captured.wires["key server"]
    assert b"CiphertextForRecipient" in captured.wires["key server"]
    assert b'"Plaintext"' not in captured.wires["key server"]
    assert b"ciphertext_for_recipient" in captured.wires["services"]


def test_the_memory_that_was_read_is_the_hosts(captured: Captured) -> None:
    assert len(captured.host["memory"]) > 10 << 20
    assert b"--kms-endpoint" in captured.host["memory"]
    assert b"ephemeralml.host.services" in captured.host["memory"]


def test_the_search_finds_what_is_there(captured: Captured) -> None:
    for name, needle in captured.needles.items():
        for around in (b"", b"x", b"xy"):
            assert name in _found(captured, b"....." + needle)
            assert name in _found(captured, base64.b64encode(around + needle + b"zz"))
            assert name in _found(captured, (around + needle).hex().encode())


def test_the_answer_was_verified_all_the_same(captured: Captured) -> None:
    assert captured.answer["verdict"] == "verified"
