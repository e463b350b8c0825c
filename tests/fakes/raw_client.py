"""A client that speaks the channel message by message, honest unless told otherwise.

Evidence and receipts are verified by the production code; everything else, such
as which message comes when, is the test's choice.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, Format, TimeBasis, VerifiedEvidence
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.channel.client import ClientChannel
from ephemeralml.channel.events import AlertReceived, Established, MessageReceived, ServerOffer
from ephemeralml.channel.messages import (
    Body,
    Cancel,
    Close,
    CloseReason,
    End,
    Message,
    Outcome,
    Pong,
    Request,
    Response,
)
from ephemeralml.channel.suites import PREFERRED, Suite
from ephemeralml.receipt.live import ModelEntry, verify_live
from ephemeralml.receipt.result import VerifiedReceipt
from tests.fakes.booted_runtime import AUTHORITY

WAIT_SECONDS = 20.0


class AlertError(Exception):
    """The server sent an alert."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class EndedError(Exception):
    """The server ended the connection."""


@dataclass
class Answer:
    """What came back on one stream."""

    stream: int
    body_sent: bytes
    nonce: bytes | None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    end: End | None = None
    receipt: VerifiedReceipt | None = None

    @property
    def outcome(self) -> Outcome:
        assert self.end is not None
        return self.end.outcome

    def json(self) -> Any:
        return json.loads(bytes(self.body))


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, suites: tuple[Suite, ...]) -> None:
        self.reader, self.writer = reader, writer
        self.channel = ClientChannel(formats=(Format.LOCAL,), suites=suites)
        self.offer: ServerOffer | None = None
        self.verified: VerifiedEvidence | None = None
        self.answers: dict[int, Answer] = {}
        self.pongs: list[int] = []
        self.close_reason: CloseReason | None = None
        self.says_close = True
        """Whether the server's close is answered, as it should be."""
        self.expected_model = ""
        """``id@version`` that receipts must name; the only model where there is one."""
        self.receipts = 0
        self.captured = bytearray()
        self._next = 1

    async def step(self) -> None:
        """Take one read's worth of the server's bytes."""
        data = await asyncio.wait_for(self.reader.read(1 << 18), WAIT_SECONDS)
        if not data:
            raise EndedError
        self.captured += data
        for event in self.channel.receive_data(data):
            match event:
                case ServerOffer():
                    self.offer = event
                    self.verified = verified(event)
                    self.channel.accept(self.verified)
                case AlertReceived(alert):
                    raise AlertError(alert.code, alert.text)
                case MessageReceived(message):
                    self.take(message)
                case Established():
                    pass
        await self.flush()

    def take(self, message: Message) -> None:
        match message:
            case Response(stream, status, headers):
                self.answers[stream].status = status
                self.answers[stream].headers = dict(headers)
            case Body(stream, data, _):
                self.answers[stream].body += data
            case End(stream):
                self.answers[stream].end = message
                self._check(self.answers[stream])
            case Pong(value):
                self.pongs.append(value)
            case Close(reason):
                self.close_reason = reason
                if self.says_close:
                    self.channel.close()

    def _check(self, answer: Answer) -> None:
        """Verify a receipt as a client must."""
        import hashlib

        assert answer.end is not None
        if answer.end.receipt is None:
            return
        assert self.offer is not None
        assert self.verified is not None
        models = self.offer.identity.models
        entry = next((model for model in models if f"{model.id}@{model.version}" == self.expected_model), models[0])
        answer.receipt = verify_live(
            answer.end.receipt,
            session_key=self.offer.receipt_key,
            document_digest=self.offer.evidence.digest,
            measurement_type=self.verified.measurement_type,
            registers=self.verified.registers,
            security_mode=self.offer.identity.security_mode,
            model=ModelEntry(entry.id, entry.version, entry.hash, entry.scheme),
            request_hash=hashlib.sha256(answer.body_sent).digest(),
            response_hash=hashlib.sha256(answer.body).digest(),
            nonce=answer.nonce,
            expected_sequence=self.receipts,
            now=clock.unix_now(),
        )
        self.receipts += 1

    async def flush(self) -> None:
        if data := self.channel.data_to_send():
            self.captured += data
            self.writer.write(data)
            await self.writer.drain()

    async def handshake(self) -> None:
        await self.flush()
        while not self.channel.established:
            await self.step()

    def open(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        nonce: bytes | None = None,
        fin: bool = True,
        stream: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Queue a request, its body in one piece; *fin* False leaves it open."""
        stream = self._next if stream is None else stream
        self._next = max(self._next, stream + 2)
        answer = self.answers[stream] = Answer(stream, body, nonce)
        self.channel.send(Request(stream, method, path, headers or {}, nonce, fin and not body))
        pieces = [body[at : at + 1_000_000] for at in range(0, len(body), 1_000_000)]
        for index, piece in enumerate(pieces):
            self.channel.send(Body(stream, piece, fin and index == len(pieces) - 1))
        return answer

    async def finished(self, *answers: Answer) -> None:
        await self.flush()
        while any(answer.end is None for answer in answers):
            await self.step()

    async def request(self, method: str, path: str, body: bytes = b"", **options: Any) -> Answer:
        answer = self.open(method, path, body, **options)
        await self.finished(answer)
        return answer

    async def embed(self, body: Any, **options: Any) -> Answer:
        return await self.request("POST", "/v1/embeddings", json.dumps(body).encode(), **options)

    async def cancel(self, answer: Answer) -> None:
        self.channel.send(Cancel(answer.stream))
        await self.flush()

    async def until_closed(self) -> CloseReason | None:
        """Read on until the server has ended the connection; return the reason it gave."""
        with contextlib.suppress(EndedError, ConnectionError):
            while True:
                await self.step()
        return self.close_reason

    async def until(self, seconds: float) -> None:
        """Read on for so long."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                async with asyncio.timeout(left):
                    await self.step()

    async def disconnect(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError, OSError):
            await self.writer.wait_closed()


def verified(offer: ServerOffer) -> VerifiedEvidence:
    """Verify an offer's evidence with the production verifier."""
    policy = Policy.accept_local(roots=AUTHORITY.roots)
    appraisal = verify_evidence(
        Evidence(offer.evidence.format, offer.evidence.document),
        expected=offer.expected,
        policy=policy,
        roots=AUTHORITY.roots,
        at=AppraisalTime(TimeBasis.NOW, clock.now(), "clock"),
        live=True,
    )
    return appraisal.require()


async def streams(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open raw bytes to a ``tcp://`` or ``unix://`` address."""
    if address.startswith("unix://"):
        return await asyncio.open_unix_connection(address.removeprefix("unix://"))
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


@contextlib.asynccontextmanager
async def connected(address: str, *, suites: tuple[Suite, ...] = PREFERRED) -> AsyncIterator[RawClient]:
    """An established channel to *address*; reset at the end."""
    client = RawClient(*await streams(address), suites)
    try:
        await client.handshake()
        yield client
    finally:
        await client.disconnect()
