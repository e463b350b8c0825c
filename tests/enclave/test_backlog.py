"""Peers that ask and do not read: what waits for them is counted, and they are read no further."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ephemeralml.channel.messages import Body, Message, Request
from ephemeralml.channel.suites import PREFERRED
from ephemeralml.enclave import connection
from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.enclave.server import Server
from ephemeralml.enclave.session import ANSWER_BYTES, Session
from tests.fakes.raw_client import RawClient, connected, streams
from tests.fakes.server_bench import ServerBench, eventually

BODY = json.dumps({"model": "tiny-bert", "input": "hello"}).encode()
MANY = json.dumps({"model": "tiny-bert", "input": ["a b c"] * 2_048}).encode()
BAD_NONCE = b"x"
SMALL_BUFFER = 262_144


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ServerBench]:
    made = ServerBench(tmp_path)
    yield made
    if made.gate is not None:
        made.gate.set()


@asynccontextmanager
async def deaf_client(server: Server) -> AsyncIterator[tuple[RawClient, Session]]:
    """A client that does not read, and the server's session of it."""
    before = set(server._connections)
    client = RawClient(*await streams(server.addresses[0]), PREFERRED)
    try:
        await client.handshake()
        (other,) = set(server._connections) - before
        await eventually(lambda: other._session is not None)
        assert other._session is not None
        transport(client).pause_reading()
        yield client, other._session
    finally:
        await client.disconnect()


def transport(client: RawClient) -> asyncio.Transport:
    return client.writer.transport  # type: ignore[return-value]


def ask_badly(client: RawClient, count: int) -> int:
    """Write *count* small requests that are refused at once; return the last one's id."""
    for _ in range(count):
        client.channel.send(Request(client._next, "POST", "/v1/embeddings", {}, BAD_NONCE, True))
        client._next += 2
    client.writer.write(client.channel.data_to_send())
    return client._next - 2


async def flood(client: RawClient, session: Session) -> None:
    """Ask until the server reads no more."""
    while not session.held:
        ask_badly(client, 500)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


async def read_again(client: RawClient, session: Session, last: int) -> None:
    """Let the client read until the server has read request *last*; of the answers those are kept that it waits for.

    Some of the flood's may still be on their way afterwards.
    """
    take = client.take

    def asked_for_alone(message: Message) -> None:
        if getattr(message, "stream", None) in {None, *client.answers}:
            take(message)

    client.take = asked_for_alone  # type: ignore[method-assign]
    transport(client).resume_reading()
    async with asyncio.timeout(30):
        while session._streams._highest != last:
            await client.until(0.2)


async def let_a_backlog_form(client: RawClient, session: Session) -> None:
    """Ask until something waits for the client, long before its own limit."""
    while not session.backlog:
        last = ask_badly(client, 500)
        await eventually(lambda last=last: session._streams._highest == last or session.backlog)
    await eventually(lambda: session._streams._highest == client._next - 2)
    assert not session.held


def writes_of(server: Server) -> ByteBudget:
    assert server._handshaker is not None
    return server._handshaker.shared.writes


# one connection's own limit


async def test_small_answers_count_for_what_they_cost(bench: ServerBench) -> None:
    async with bench.serve(write_buffer_bytes=SMALL_BUFFER) as server, deaf_client(server) as (client, session):
        await flood(client, session)
        in_line = len(session._answers)
        assert session.backlog >= in_line * ANSWER_BYTES
        # What one read holds may come on top of the limit.
        assert in_line * ANSWER_BYTES <= SMALL_BUFFER + connection.READ_BYTES // 50 * ANSWER_BYTES
        assert writes_of(server).used >= session.backlog


async def test_what_was_read_already_waits_too(bench: ServerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn ends between two messages of one read, and there the peer's backlog is looked at."""
    monkeypatch.setattr(connection, "TURN_SECONDS", -1.0)
    async with bench.serve(write_buffer_bytes=SMALL_BUFFER) as server, deaf_client(server) as (client, session):
        await flood(client, session)
        assert len(session._answers) <= SMALL_BUFFER // ANSWER_BYTES + 1


async def test_who_reads_again_is_read_again(bench: ServerBench) -> None:
    async with bench.serve(write_buffer_bytes=SMALL_BUFFER) as server, deaf_client(server) as (client, session):
        assert server._ticker is not None
        server._ticker.cancel()  # its own drain must do
        await flood(client, session)
        await read_again(client, session, client._next - 2)
        await eventually(lambda: not session.held)
        assert (await client.request("GET", "/healthz")).status == 200


async def test_the_count_returns_to_nothing(bench: ServerBench) -> None:
    """Answers in pieces, a whole one, a refused and a cancelled one: the count is the sum, and ends at 0."""
    bench.engine.dim = 384
    limits = {"max_record_bytes": 4_096, "write_buffer_bytes": 65_536, "max_inputs": 2_048}
    async with bench.serve(**limits) as server, deaf_client(server) as (client, session):
        answers = []
        for body in (MANY, MANY, BODY):
            answer = client.open("POST", "/v1/embeddings", fin=False)
            answer.body_sent = body
            for at in range(0, len(body), 4_000):
                client.channel.send(body_of(answer.stream, body, at))
            answers.append(answer)
        await client.flush()
        refused = client.open("POST", "/v1/embeddings", nonce=BAD_NONCE)
        await client.flush()
        await eventually(lambda: {answers[0].stream, answers[1].stream} <= set(session._answers), 30)
        expected = sum(exchange.unsent + ANSWER_BYTES for exchange in session._answers.values())
        assert session.backlog == session._outbox.buffered + expected
        transport(client).resume_reading()
        await client.cancel(answers[0])
        await client.finished(*answers, refused)
        assert answers[1].status == answers[2].status == 200
        assert refused.status == 400
        await eventually(lambda: session.backlog == 0 and writes_of(server).used == 0)


def body_of(stream: int, body: bytes, at: int) -> Body:
    return Body(stream, body[at : at + 4_000], at + 4_000 >= len(body))


async def test_a_connection_that_goes_owes_nothing(bench: ServerBench) -> None:
    async with bench.serve(write_buffer_bytes=SMALL_BUFFER) as server:
        async with deaf_client(server) as (client, session):
            await flood(client, session)
        await eventually(lambda: server.connections == 0)
        assert session.backlog == writes_of(server).used == 0


# everybody's limit


async def test_with_all_buffers_full_only_who_reads_is_read(bench: ServerBench) -> None:
    async with bench.serve() as server, deaf_client(server) as (client, session):
        await let_a_backlog_form(client, session)
        writes_of(server).adjust(writes_of(server).limit)
        assert session.held
        ask_badly(client, 1)  # the read that was under way
        last = session._streams._highest + 2
        await eventually(lambda: session._streams._highest == last)
        after = ask_badly(client, 10)
        async with connected(server.addresses[0]) as other:
            for _ in range(3):
                assert (await other.request("GET", "/healthz")).status == 200
        await asyncio.sleep(0.2)
        assert session._streams._highest == last
        # Others made room: the next tick lets it go on, though it still has a backlog.
        writes_of(server).give(writes_of(server).limit)
        await eventually(lambda: session._streams._highest == after)
        assert session.backlog


async def test_with_all_buffers_full_who_has_read_all_goes_on(bench: ServerBench) -> None:
    async with bench.serve() as server, deaf_client(server) as (client, session):
        assert server._ticker is not None
        server._ticker.cancel()
        await let_a_backlog_form(client, session)
        writes_of(server).adjust(writes_of(server).limit)
        ask_badly(client, 1)
        await asyncio.sleep(0.1)
        last = ask_badly(client, 1)
        await asyncio.sleep(0.1)
        assert session._streams._highest < last
        await read_again(client, session, last)
        assert (await client.request("GET", "/healthz")).status == 200
        writes_of(server).give(writes_of(server).limit)
