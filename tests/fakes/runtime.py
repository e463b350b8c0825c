"""A runtime in this process: the production protocol, software-TEE evidence, real receipts.

Its engine is arithmetic, so answers are known in advance; everything a client
verifies is real. `RuntimeFault` lists what it can get wrong, one thing each.
"""

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Self

from ephemeralml import clock
from ephemeralml.attestation.binding import nitro_fields
from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.policy import Policy
from ephemeralml.channel import (
    AlertCode,
    Body,
    Cancel,
    Close,
    CloseReason,
    End,
    Established,
    HelloReceived,
    Identity,
    Limits,
    MessageReceived,
    ModelEntry,
    Outcome,
    Request,
    Response,
    ServerChannel,
    Usage,
)
from ephemeralml.crypto import dsse
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import EphemeralError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.manifest import Manifest, ManifestFile, Suite, Task
from ephemeralml.model.roles import Role
from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.issue import issue
from ephemeralml.semver import SemVer
from tests.fakes.runtime_faults import CLAIM_FAULTS, PCRS, RuntimeFault

PUBLISHER = PrivateKey.from_seed(b"\x51" * 32)
OTHER_KEY = PrivateKey.from_seed(b"\x52" * 32)
DIM = 8
CHUNKS = ("one ", "two ", "three")


@cache
def authority() -> Authority:
    """One software root for the whole test run."""
    return Authority.ephemeral()


@cache
def envelope_of(model_id: str, version: str, task: Task = Task.EMBEDDING, key: PrivateKey = PUBLISHER) -> bytes:
    """A signed manifest of a model that has one small file."""
    digest = hashlib.sha256(model_id.encode()).digest()
    name = "model.safetensors"
    file = ManifestFile(name, Role.WEIGHTS, 5, digest, manifest.blob_name(name, Suite.NONE), 5, digest, 1 << 20, digest)
    payload = manifest.encode(
        Manifest(
            model_id, SemVer.parse(version), datetime(2026, 1, 1, tzinfo=UTC), manifest.Format.SAFETENSORS,
            "bert", task, "Apache-2.0", (file,), Suite.NONE, "tests", None,
        )
    )  # fmt: skip
    return dsse.seal(envelope.PAYLOAD_TYPE, payload, key)


def entry_of(data: bytes) -> ModelEntry:
    """The identity entry of a signed manifest."""
    payload = envelope.parse(data).payload
    parsed = manifest.parse(payload)
    return ModelEntry(parsed.model_id, str(parsed.version), hashlib.sha256(payload).digest(), "sha256-manifest")


def embedding(text: str) -> list[float]:
    """What the engine makes of *text*."""
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:DIM]]


@dataclass
class FakeRuntime:
    """Serves on a loopback port until closed; a context manager."""

    faults: set[RuntimeFault] = field(default_factory=set)
    limits: Limits = field(default_factory=Limits)
    manifests: tuple[bytes, ...] = field(
        default_factory=lambda: (envelope_of("minilm", "1.0.0"), envelope_of("talker", "2.0.0", Task.GENERATION))
    )
    aliases: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    batch: int = 1
    """Prompts that must have arrived before the last of them is answered first."""
    pieces: int = 1
    """Into how many writes an answer is cut."""

    def __post_init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        """Method, path and body of every request that was received."""
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.cancelled = threading.Event()
        self.released = threading.Event()
        self._live: set[Connection] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.target = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def prompts(self) -> list[bytes]:
        """Bodies that were received."""
        return [body for _, _, body in self.requests if body]

    @property
    def identity(self) -> Identity:
        entries = [entry_of(data) for data in self.manifests]
        if RuntimeFault.IDENTITY_OTHER_HASH in self.faults:
            entries[0] = replace(entries[0], hash=b"\x99" * 32)
        mode = "production" if RuntimeFault.IDENTITY_PRODUCTION in self.faults else "evaluation"
        return Identity("0.1.0", mode, tuple(entries), b"\x22" * 32)

    def policy_document(self, **changes: Any) -> dict[str, Any]:
        """A policy that accepts exactly this runtime, with *changes* to its fields."""
        document = {
            "schema": "ephemeralml.policy/1",
            "policy_id": "tests",
            "version": 1,
            "created_at": clock.format_rfc3339(clock.now() - timedelta(hours=1)),
            "expires_at": clock.format_rfc3339(clock.now() + timedelta(hours=24)),
            "formats": ["local"],
            "allow_local": True,
            "min_assurance": "document",
            "security_modes": ["evaluation"],
            "local": {
                "roots": [f"sha256:{authority().fingerprint.hex()}"],
                "allow": [{"name": "fake", **{f"pcr{n}": PCRS[n].hex() for n in range(3)}}],
            },
            "models": {"allow": [{"model_id": "minilm"}, {"model_id": "talker"}]},
        }
        return {name: value for name, value in {**document, **changes}.items() if value is not None}

    def policy(self, **changes: Any) -> Policy:
        return Policy.parse(json.dumps(self.policy_document(**changes)).encode(), now=clock.now())

    def close_sessions(self, reason: CloseReason = CloseReason.DRAINING) -> None:
        """Say close on every connection, as an idle or draining runtime does."""
        for connection in self._connected():
            connection.say_close(reason)

    def drop_connections(self) -> None:
        """Cut every connection without a word."""
        for connection in self._connected():
            connection.drop()

    def close(self) -> None:
        self.released.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection = Connection(self, sock)
            with self._lock:
                self._live.add(connection)
            thread = threading.Thread(target=connection.serve)
            self._threads.append(thread)
            thread.start()

    def ended(self, connection: "Connection") -> None:
        with self._lock:
            self._live.discard(connection)

    def _connected(self) -> list["Connection"]:
        with self._lock:
            return list(self._live)


class Connection:
    """One client of a `FakeRuntime`."""

    def __init__(self, runtime: FakeRuntime, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.runtime = runtime
        self.socket = sock
        self.faults = set(runtime.faults)
        self.key = PrivateKey.generate()
        self.identity = runtime.identity
        self.format = Format.NITRO if RuntimeFault.EVIDENCE_CALLED_NITRO in self.faults else Format.LOCAL
        self.channel = ServerChannel(formats=(self.format,), limits=runtime.limits)
        self.document = b""
        self.receipts = 0
        self.open: dict[int, tuple[Request, bytearray]] = {}
        self.held: list[tuple[Request, bytes]] = []
        self.ended: set[int] = set()
        self.lock = threading.RLock()

    def serve(self) -> None:
        try:
            while data := self.socket.recv(1 << 18):
                self.feed(data)
        except OSError:
            pass
        except EphemeralError:
            with self.lock, contextlib.suppress(OSError):
                self.flush()
        finally:
            self.runtime.ended(self)
            self.socket.close()

    def feed(self, data: bytes) -> None:
        """Take bytes of the client's, and answer."""
        with self.lock:
            for event in self.channel.receive_data(data):
                self.handle(event)
            self.flush()

    def flush(self) -> None:
        data = self.channel.data_to_send()
        if data:
            self.socket.sendall(data)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def say_close(self, reason: CloseReason) -> None:
        with self.lock, contextlib.suppress(OSError):
            self.channel.close(reason, "said the test")
            self.flush()

    def handle(self, event: object) -> None:
        match event:
            case HelloReceived():
                self.offer()
            case MessageReceived(Request() as request):
                self.open[request.stream] = (request, bytearray())
                if request.fin:
                    self.asked(request.stream)
            case MessageReceived(Body(stream, data, fin)):
                self.open[stream][1].extend(data)
                if fin:
                    self.asked(stream)
            case MessageReceived(Cancel(stream)):
                self.runtime.cancelled.set()
                self.held = [item for item in self.held if item[0].stream != stream]
                if stream not in self.ended:
                    self.channel.send(End(stream, Outcome.CANCELLED, None))
            case MessageReceived(Close()):
                self.channel.close(CloseReason.DONE)
                self.flush()
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_WR)
            case Established():
                pass

    # -- the handshake

    def offer(self) -> None:
        faults = self.faults
        if RuntimeFault.SILENT in faults:
            self.runtime.released.wait(20)
            return
        if RuntimeFault.HANGS_UP in faults:
            self.drop()
            return
        if RuntimeFault.ALERT in faults:
            self.channel.alert(AlertCode.BUSY, "try\x1b later")
            return
        if RuntimeFault.GARBAGE_FRAME in faults:
            self.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        prepared = self.channel.prepare(self.key.public.raw, self.identity)
        expected = prepared.expected
        if RuntimeFault.EVIDENCE_OTHER_SESSION in faults:
            expected = replace(expected, channel_binding=b"\x07" * 32)
        if RuntimeFault.EVIDENCE_OTHER_KEY in faults:
            expected = replace(expected, receipt_key=OTHER_KEY.public.raw)
        if RuntimeFault.EVIDENCE_WRONG_NONCE in faults:
            expected = replace(expected, nonce=b"\x08" * 32)
        self.document = self.attest(expected)
        self.channel.send_hello(Evidence(self.format, self.document))
        if RuntimeFault.BAD_CONFIRMATION in faults:
            self.flush()
            self.socket.recv(1 << 16)
            # A server_finish frame with another confirmation than the key schedule's.
            payload = b"\xa1\x01\x58\x20" + bytes(32)
            self.socket.sendall(struct.pack(">BBHI", 4, 0, 1, len(payload)) + payload)

    def attest(self, expected: ExpectedBinding) -> bytes:
        if RuntimeFault.EVIDENCE_GARBAGE in self.faults:
            return b"\x84\x44\xa1\x01\x38\x22 no document"
        pcrs = PCRS
        if RuntimeFault.EVIDENCE_DEBUG in self.faults:
            pcrs = {**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48)}
        at = clock.now()
        if RuntimeFault.EVIDENCE_STALE in self.faults:
            at -= timedelta(minutes=20)
        fields = nitro_fields(expected)
        return authority().issue_document(
            DocumentFields("i-fake-enc0", pcrs, fields.public_key, fields.user_data, fields.nonce), at
        )

    # -- requests

    def asked(self, stream: int) -> None:
        request, body = self.open.pop(stream)
        self.runtime.requests.append((request.method, request.path, bytes(body)))
        self.runtime.headers.append(dict(request.headers))
        if self.channel.close_sent:
            return
        if RuntimeFault.NEVER_ANSWERS in self.faults and request.method == "POST":
            return
        if request.method == "POST" and self.runtime.batch > 1:
            self.held.append((request, bytes(body)))
            if len(self.held) < self.runtime.batch:
                return
            held, self.held = self.held, []
            for waiting, held_body in reversed(held):
                self.answer(waiting, held_body)
            return
        self.answer(request, bytes(body))

    def answer(self, request: Request, body: bytes) -> None:
        if self.runtime.token and request.headers.get("authorization") != f"Bearer {self.runtime.token}":
            self.reply(request, body, 401, _error("no such client"), None)
        elif request.method == "GET":
            self.reply(request, body, *self.read(request.path), None)
        else:
            self.infer(request, body)

    def read(self, path: str) -> tuple[int, bytes]:
        if path == "/v1/models":
            data = [{"id": e.id, "object": "model", "created": 1, "owned_by": "tests"} for e in self.identity.models]
            return 200, _json({"object": "list", "data": data})
        if path == "/v1/ephemeralml/info":
            tasks = {
                entry_of(data): manifest.parse(envelope.parse(data).payload).task for data in self.runtime.manifests
            }
            models = [{"model_id": e.id, "version": e.version, "task": task.value} for e, task in tasks.items()]
            return 200, _json({"schema": "ephemeralml.info/1", "models": models, "aliases": self.runtime.aliases})
        if path.startswith("/v1/ephemeralml/manifests/"):
            return self.manifest(bytes.fromhex(path.rpartition("/")[2]))
        return (200, _json({"status": "ok"})) if path == "/healthz" else (404, _error("no such path"))

    def manifest(self, wanted: bytes) -> tuple[int, bytes]:
        faults = self.faults
        data = next((data for data in self.runtime.manifests if entry_of(data).hash == wanted), None)
        if data is None or RuntimeFault.MANIFEST_MISSING in faults:
            return 404, _error("no such manifest")
        if RuntimeFault.MANIFEST_UNSIGNED in faults:
            return 200, envelope.unsigned(envelope.parse(data).payload)
        if RuntimeFault.MANIFEST_OTHER_PUBLISHER in faults:
            return 200, envelope.signed(data, OTHER_KEY)
        if RuntimeFault.MANIFEST_OTHER_MODEL in faults:
            return 200, envelope_of("another", "1.0.0")
        return 200, b"{}" if RuntimeFault.MANIFEST_GARBAGE in faults else data

    def infer(self, request: Request, body: bytes) -> None:
        try:
            asked = json.loads(body)
        except ValueError:
            self.reply(request, body, 400, _error("not JSON"), None)
            return
        name = self.runtime.aliases.get(asked.get("model", ""), asked.get("model"))
        found = [e for e in self.identity.models if name in (e.id, f"{e.id}@{e.version}")]
        if not found:
            self.reply(request, body, 404, _error("no such model"), None)
            return
        entry = max(found, key=lambda e: SemVer.parse(e.version).precedence)
        if request.path == "/v1/embeddings" and entry.id == "minilm":
            self.reply(request, body, *_embed(asked), entry)
        elif request.path == "/v1/chat/completions" and entry.id == "talker":
            self.talk(request, body, asked, entry)
        else:
            self.reply(request, body, 400, _error("the model does not do this"), entry)

    def talk(self, request: Request, body: bytes, asked: dict[str, Any], entry: ModelEntry) -> None:
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(CHUNKS)}
            answer = {"id": "c", "object": "chat.completion", "created": 1, "model": entry.id}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.reply(request, body, 200, _json({**answer, "choices": [choice]}), entry)
            return
        self.reply(request, body, 200, b"".join(sse_events()), entry, kind="text/event-stream", pieces=sse_events())

    def reply(
        self,
        request: Request,
        body: bytes,
        status: int,
        answer: bytes,
        entry: ModelEntry | None,
        *,
        kind: str = "application/json",
        pieces: list[bytes] | None = None,
    ) -> None:
        faults, stream = self.faults, request.stream
        self.ended.add(stream)
        self.channel.send(Response(stream, status, {"content-type": kind, "x-request-id": f"r{stream}"}))
        pieces = pieces or _cut(answer, self.runtime.pieces)
        prompt = request.method == "POST"
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            if last and prompt and self.cut_short(stream, piece):
                return
            sent = piece[:-1] + b" " if RuntimeFault.BODY_EDITED in faults and prompt and last else piece
            self.send_body(Body(stream, sent, last), spoil=prompt and last)
            if len(pieces) > 1:
                self.flush()
        receipt = self.receipt(request, body, answer, entry) if entry is not None else None
        if RuntimeFault.RECEIPT_UNASKED in faults:
            receipt = self.receipt(request, body, answer, self.identity.models[0])
        outcome = Outcome.COMPLETE if status < 400 and RuntimeFault.FAILED_LATE not in faults else Outcome.ERROR
        self.channel.send(End(stream, outcome, receipt, Usage(3, 7, None)))

    def send_body(self, message: Body, *, spoil: bool) -> None:
        faults = self.faults if spoil else set()
        self.flush()
        if RuntimeFault.MESSAGE_MALFORMED in faults:
            self.channel.send(Body(message.stream + 2, b"of nobody", True))
            return
        self.channel.send(message)
        if RuntimeFault.RECORD_FLIPPED in faults:
            record = bytearray(self.channel.data_to_send())
            record[-1] ^= 1
            self.socket.sendall(record)
        elif RuntimeFault.RECORD_DROPPED in faults:
            self.channel.data_to_send()

    def cut_short(self, stream: int, piece: bytes) -> bool:
        """End the answer before its last piece, in the way a fault asks for."""
        if RuntimeFault.ABORTED in self.faults:
            self.channel.send(End(stream, Outcome.ABORTED, None))
        elif RuntimeFault.CLOSED_MID_REPLY in self.faults:
            self.channel.close(CloseReason.DRAINING, "mid-reply")
        elif RuntimeFault.TRUNCATED in self.faults:
            self.flush()
            self.drop()
        elif RuntimeFault.NO_END in self.faults:
            self.channel.send(Body(stream, piece, True))
            self.channel.close(CloseReason.DONE)
        else:
            return False
        return True

    # -- receipts

    def receipt(self, request: Request, body: bytes, answer: bytes, entry: ModelEntry) -> bytes | None:
        faults = self.faults
        sequence, self.receipts = self.receipts, self.receipts + 1
        if RuntimeFault.RECEIPT_MISSING in faults:
            return None
        if RuntimeFault.RECEIPT_GARBAGE in faults:
            return b"\xd2\x84 no receipt"
        claims = self.claims(request, body, answer, entry, sequence)
        for fault, change in CLAIM_FAULTS.items():
            if fault in faults:
                claims = replace(claims, **change)
        return issue(claims, OTHER_KEY if RuntimeFault.RECEIPT_OTHER_KEY in faults else self.key)

    def claims(self, request: Request, body: bytes, answer: bytes, entry: ModelEntry, sequence: int) -> AirClaims:
        return AirClaims(
            iss="fake",
            iat=clock.unix_now(),
            cti=os.urandom(16),
            model_id=entry.id,
            model_version=entry.version,
            model_hash=entry.hash,
            model_hash_scheme=entry.scheme,
            request_hash=hashlib.sha256(body).digest(),
            response_hash=hashlib.sha256(answer).digest(),
            attestation_doc_hash=hashlib.sha256(self.document).digest(),
            enclave_measurements=Measurements("nitro-pcr", PCRS[0], PCRS[1], PCRS[2], PCRS[3], PCRS[4]),
            policy_version="tests",
            sequence_number=sequence,
            execution_time_ms=3,
            memory_peak_mb=1,
            security_mode=self.identity.security_mode,
            eat_nonce=request.nonce,
        )


def sse_events() -> list[bytes]:
    """The pieces of a streamed chat answer."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "talker"}
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in CHUNKS]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [*(b"data: " + _json({**head, "choices": [choice]}) + b"\n\n" for choice in choices), b"data: [DONE]\n\n"]


def _embed(asked: dict[str, Any]) -> tuple[int, bytes]:
    texts = asked.get("input")
    if texts is None or "dimensions" in asked:
        return 400, _error("dimensions are not supported")
    texts = [texts] if isinstance(texts, str) else texts
    data: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        vector: Any = embedding(text)
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{DIM}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return 200, _json({"object": "list", "data": data, "model": asked["model"], "usage": usage})


def _cut(answer: bytes, count: int) -> list[bytes]:
    size = max(1, -(-len(answer) // count))
    return list(_pieces(answer, size)) or [b""]


def _pieces(answer: bytes, size: int) -> Iterator[bytes]:
    for begin in range(0, len(answer), size):
        yield answer[begin : begin + size]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(message: str) -> bytes:
    return _json({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
