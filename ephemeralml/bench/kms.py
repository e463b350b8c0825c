"""`bench kms`: attested Decrypts of a local key server on one core, with one key and with a hundred thousand.

The server is the process that operators run, bound to one core; the clients
are eight connections of this process, on the others where there are any. Their
requests are signed beforehand, each with a document of its own: what is
measured is the server.
"""

import base64
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.bench import machine
from ephemeralml.bench.measure import Row, Section, Target, quantile
from ephemeralml.bench.report import Report
from ephemeralml.errors import UnavailableError
from ephemeralml.keyrelease.local import ciphertext, principals, state
from ephemeralml.keyrelease.local.names import Names, new_key_id
from ephemeralml.keyrelease.local.records import KeyRecord, KeyState
from ephemeralml.keyrelease.local.sigv4 import Credential, sign
from ephemeralml.keyrelease.local.state import KeySource
from ephemeralml.progress import Progress

CLIENTS = 8
MANY_KEYS = 100_000
USED_KEYS = 256
"""Keys that the requests go through; each has a policy of its own."""
_RATE_TARGET, _P99_TARGET_MS, _SLOWER_TARGET = 400.0, 15.0, 1.10
_NAMES = Names("000000000000", "local")
_PCR0 = bytes([0xB0]) * 48
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class _Server:
    """A running key server and what to ask it."""

    address: tuple[str, int]
    credential: Credential
    decrypts: Sequence[bytes]
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """Time that the server has spent on its core so far."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9


def run(progress: Progress, *, quick: bool) -> Report:
    """Measure a server with a few keys and one with many, in turn.

    Raises:
        UnavailableError: The server does not start; is the ``[kms]`` extra installed?
    """
    described = machine.describe()
    many = MANY_KEYS // 10 if quick else MANY_KEYS
    seconds, rounds = (0.5, 5) if quick else (1.5, 9)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        authority = Authority.ephemeral()
        documents = _documents(authority)
        servers = {}
        for name, keys in (("few", USED_KEYS), ("many", many)):
            progress.step(f"a server with {keys} keys")
            place = Path(folder, name)
            servers[name] = stack.enter_context(_server(place, authority, documents, keys))
        progress.step("attested decrypts")
        samples: dict[str, list[list[float]]] = {name: [] for name in servers}
        for server in servers.values():
            _load(server, 0.4)
        spent = -servers["few"].cpu_seconds
        for _ in range(rounds):
            for name, server in servers.items():
                samples[name].append(_load(server, seconds))
        spent = (spent + servers["few"].cpu_seconds) / sum(map(len, samples["few"]))
        progress.step("listing")
        listing = [_list_all(servers["many"], many) for _ in range(2)]
    return Report.of("kms", described, [_section(samples, seconds, many, listing, spent)])


def _section(
    samples: dict[str, list[list[float]]], seconds: float, many: int, listing: list[float], spent: float
) -> Section:
    """Return the figures; each is the median of the rounds', which a busy machine disturbs least."""
    rows, p99s = [], {}
    for name, rounds in samples.items():
        label = f"{USED_KEYS if name == 'few' else many} keys"
        rate = quantile([len(one) / seconds for one in rounds], 0.5)
        count = sum(map(len, rounds))
        note = f"{CLIENTS} clients, server on one core"
        rows.append(Row(f"attested Decrypts, {label}", rate, "1/s", p50=rate, n=count, note=note))
        p50, p95, p99 = (quantile([quantile(one, share) * 1e3 for one in rounds], 0.5) for share in (0.5, 0.95, 0.99))
        p99s[name] = p99
        note = f"p99 {p99:.3g} ms; {note}"
        rows.append(Row(f"attested Decrypt, {label}", p50, "ms", p50=p50, p95=p95, n=count, note=note))
    note = "the server's own time, whatever else the machine does"
    rows.append(Row("attested Decrypt, processor time", spent * 1e3, "ms", p50=spent * 1e3, n=rows[0].n, note=note))
    listed = many / quantile(listing, 0.5)
    rows.append(Row(f"ListKeys, all {many}", listed, "1/s", p50=listed, n=len(listing), note="pages of 1000"))
    slower = quantile([len(few) / len(more) for few, more in zip(samples["few"], samples["many"], strict=True)], 0.5)
    targets = (
        Target(f"attested Decrypts on one core, {USED_KEYS} keys", rows[0].value, _RATE_TARGET, "1/s", at_most=False),
        Target(
            f"p99 of an attested Decrypt, {CLIENTS} clients, {USED_KEYS} keys",
            *(p99s["few"], _P99_TARGET_MS, "ms"),
            at_most=True,
        ),
        Target(f"Decrypt with {many} keys, times as long", slower, _SLOWER_TARGET, "×", at_most=True),
    )
    return Section(tuple(rows), targets)


def _documents(authority: Authority) -> list[bytes]:
    key = rsa.generate_private_key(65537, 2048).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pcrs = {index: bytes(48) for index in range(16)} | {0: _PCR0, 1: bytes([1]) * 48, 2: bytes([2]) * 48}
    now = clock.now()
    return [
        authority.issue_document(
            DocumentFields(f"{authority.id}-enc0", pcrs, spki, os.urandom(32), os.urandom(32)), now
        )
        for _ in range(USED_KEYS)
    ]


@contextmanager
def _server(folder: Path, authority: Authority, documents: list[bytes], keys: int) -> Iterator[_Server]:
    now = clock.now()
    source = KeySource.parse("file")
    path = state.create(folder, source, _NAMES, now)
    words = path.read_text().split()
    credential = Credential(words[3], words[6])
    blobs = _fill(folder, source, keys, now)
    root = folder / "root.der"
    root.write_bytes(authority.root_certificate)
    command = [sys.executable, "-m", "ephemeralml", "kms", "serve", "--state", str(folder), "--trust", str(root)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--listen", "127.0.0.1:0", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        if not line.startswith("serving at http://"):
            raise UnavailableError("the key server did not start", hint="install ephemeralml[kms] and ephemeralml[aws]")
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {core})
        host, _, port = line.removeprefix("serving at http://").partition(":")
        yield _Server((host, int(port)), credential, _decrypts(credential, blobs, documents), process.pid)
    finally:
        process.terminate()
        process.wait(_START_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


def _policy(index: int) -> str:
    condition = {
        "StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": _PCR0.hex()},
        "StringEquals": {"kms:EncryptionContext:model_id": f"model-{index}"},
    }
    absent = {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": [_PCR0.hex()]}}
    who = {"AWS": _NAMES.principal(principals.ADMINISTRATOR)[1]}
    release = {"Sid": "Release1", "Effect": "Allow", "Principal": who, "Action": "kms:Decrypt", "Condition": condition}
    deny = {"Sid": "OnlyAttested", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Condition": absent}
    return json.dumps({"Version": "2012-10-17", "Statement": [{**one, "Resource": "*"} for one in (release, deny)]})


def _key(index: int, now: datetime) -> KeyRecord:
    return KeyRecord(
        id=new_key_id(),
        created=now.timestamp(),
        description="",
        state=KeyState.ENABLED,
        deletion=None,
        deletion_days=None,
        policy=_policy(index),
        version=1,
        rotation_days=None,
        next_rotation=None,
    )


def _fill(folder: Path, source: KeySource, keys: int, now: datetime) -> list[tuple[str, bytes, dict[str, str]]]:
    """Write *keys* in one transaction and return ciphertexts of some, spread over all."""
    made: list[tuple[str, bytes, dict[str, str]]] = []
    with state.opened(folder, source) as opened:
        store = opened.store
        records = [_key(index, now) for index in range(keys)]
        store.create_keys(records)
        for index in islice(range(0, keys, keys // USED_KEYS), USED_KEYS):
            key_id = records[index].id
            material = store.material(key_id, 1)
            assert material is not None
            context = {"model_id": f"model-{index}", "version": "1.0.0"}
            blob = ciphertext.encrypt(
                material, os.urandom(32), key_id=key_id, version=1, context=context, nonce=os.urandom(12)
            )
            made.append((_NAMES.arn(key_id), blob, context))
    return made


def _decrypts(
    credential: Credential, blobs: list[tuple[str, bytes, dict[str, str]]], documents: list[bytes]
) -> list[bytes]:
    return [
        _request(
            credential,
            "Decrypt",
            {
                "KeyId": arn,
                "CiphertextBlob": _text(blob),
                "EncryptionContext": context,
                "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": _text(document)},
            },
        )
        for (arn, blob, context), document in zip(blobs, documents, strict=True)
    ]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _request(credential: Credential, operation: str, fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": f"TrentService.{operation}",
    }
    signed = sign("POST", headers, body, credential=credential, region=_NAMES.region, now=clock.now())
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    return f"POST / HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Client:
    """One connection, with one request under way."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection(address, timeout=_START_SECONDS)
        self._requests = requests
        self._data = b""
        self._start = 0.0

    def ask(self, request: bytes | None = None) -> None:
        """Send a request."""
        self._data, self._start = b"", time.perf_counter()
        self.socket.sendall(next(self._requests) if request is None else request)

    def take(self) -> tuple[bytes, float] | None:
        """Receive what is there; once the response is complete return it, and how long it took."""
        part = self.socket.recv(262_144)
        if not part:
            raise UnavailableError("the key server closed a connection")
        self._data += part
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise UnavailableError(f"the key server refused: {body[:200].decode(errors='replace')}")
        return body, time.perf_counter() - self._start


def _load(server: _Server, seconds: float) -> list[float]:
    """Ask from every client for so many seconds and return each request's time.

    One thread serves all connections, so that none of them waits for another's turn at the interpreter.
    """
    taken: list[float] = []
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for index in range(CLIENTS):
            requests = islice(cycle(server.decrypts), index * len(server.decrypts) // CLIENTS, None)
            client = _Client(server.address, requests)
            stack.enter_context(client.socket)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(_START_SECONDS):
                if (answer := key.data.take()) is not None:
                    taken.append(answer[1])
                    key.data.ask()
    return taken


def _list_all(server: _Server, keys: int) -> float:
    start, seen, marker = time.perf_counter(), 0, None
    client = _Client(server.address, iter(()))
    with client.socket:
        while True:
            fields = {"Limit": 1_000} | ({"Marker": marker} if marker is not None else {})
            client.ask(_request(server.credential, "ListKeys", fields))
            while (answer := client.take()) is None:
                pass
            page = json.loads(answer[0])
            seen += len(page["Keys"])
            marker = page.get("NextMarker")
            if marker is None:
                break
    if seen != keys:
        raise UnavailableError(f"the key server listed {seen} of {keys} keys")
    return time.perf_counter() - start
