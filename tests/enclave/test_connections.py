"""One connection: its rules, its limits, its endings (channel sections 2, 4 and 7)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.channel.messages import Body, Cancel, CloseReason, Outcome, Ping, Request
from ephemeralml.channel.suites import PREFERRED
from tests.fakes.booted_runtime import config_source
from tests.fakes.raw_client import AlertError, EndedError, RawClient, connected, streams
from tests.fakes.server_bench import ServerBench, eventually

BODY = json.dumps({"model": "tiny-bert", "input": "hello"}).encode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ServerBench]:
    made = ServerBench(tmp_path)
    yield made
    if made.gate is not None:
        made.gate.set()


# requests that concern only themselves


async def test_a_nonce_of_another_length_is_a_400(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        for nonce in (b"", b"1234567", b"n" * 65):
            answer = await client.request("POST", "/v1/embeddings", BODY, nonce=nonce)
            assert (answer.status, answer.outcome) == (400, Outcome.ERROR)
            assert answer.end is not None
            assert answer.end.receipt is None
        assert (await client.request("POST", "/v1/embeddings", BODY, nonce=b"12345678")).status == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("v1/models", {}),
        ("/" + "a" * 8_192, {}),
        ("/v1/\nmodels", {}),
        ("/v1/models", {"Accept": "x"}),
        ("/v1/models", {"a": "x\r\ny"}),
    ],
)
async def test_a_bad_path_or_header_is_a_400(bench: ServerBench, path: str, headers: dict[str, str]) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = await client.request("GET", path, headers=headers)
        assert (answer.status, answer.outcome) == (400, Outcome.ERROR)
        assert (await client.request("GET", "/healthz")).status == 200


async def test_a_body_beyond_the_limit_is_a_413(bench: ServerBench) -> None:
    async with bench.serve(max_body_bytes=1_000) as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", b"x" * 1_001, fin=False)
        await client.finished(answer)
        assert (answer.status, answer.outcome) == (413, Outcome.ERROR)
        # The rest of the request is dropped and the channel goes on.
        client.channel.send(Body(answer.stream, b"x" * 5_000, fin=True))
        assert (await client.request("POST", "/v1/embeddings", BODY + b" " * (1_000 - len(BODY)))).status == 200


async def test_too_many_streams_are_a_503(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve(max_inflight=2) as server, connected(server.addresses[0]) as client:
        held = [client.open("POST", "/v1/embeddings", BODY) for _ in range(2)]
        third = client.open("POST", "/v1/embeddings", BODY)
        await client.finished(third)
        assert (third.status, third.outcome) == (503, Outcome.ERROR)
        gate.set()
        await client.finished(*held)
        assert [answer.status for answer in held] == [200, 200]


async def test_a_body_that_does_not_end_is_a_408(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", b"{", fin=False)
        await client.flush()
        await client.until(0.1)
        assert answer.end is None
        bench.ahead += 61
        await client.finished(answer)
        assert (answer.status, answer.outcome) == (408, Outcome.ERROR)
        client.channel.send(Body(answer.stream, b"}", fin=True))
        assert (await client.request("POST", "/v1/embeddings", BODY)).status == 200


async def test_a_full_queue_is_a_429_with_a_receipt(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve(queue_requests=1) as server, connected(server.addresses[0]) as client:
        running = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.1)  # taken off the queue
        waiting = client.open("POST", "/v1/embeddings", BODY)
        refused = client.open("POST", "/v1/embeddings", BODY)
        await client.finished(refused)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.receipt is not None
        gate.set()
        await client.finished(running, waiting)
        assert [running.status, waiting.status] == [200, 200]


async def test_all_request_bodies_share_one_budget(bench: ServerBench) -> None:
    async with (
        bench.serve(total_body_bytes=3_000_000) as server,
        connected(server.addresses[0]) as client,
        connected(server.addresses[0]) as other,
    ):
        held = client.open("POST", "/v1/embeddings", b" " * 2_500_000, fin=False)
        await client.flush()
        await client.until(0.1)
        answer = await other.request("POST", "/v1/embeddings", b" " * 900_000)
        assert answer.status == 503
        await client.cancel(held)
        await client.finished(held)
        assert (await other.request("POST", "/v1/embeddings", b" " * 900_000 + BODY)).status == 200


async def test_all_answers_share_one_budget(bench: ServerBench) -> None:
    gate = bench.hold()
    limits = {"max_connections": 1, "total_write_bytes": 65_536 + 3_000}
    async with bench.serve(**limits) as server, connected(server.addresses[0]) as client:
        running = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.1)
        many = json.dumps({"model": "tiny-bert", "input": ["a"] * 20}).encode()
        refused = await client.request("POST", "/v1/embeddings", many)
        assert refused.status == 503
        assert refused.receipt is not None
        gate.set()
        await client.finished(running)
        assert running.status == 200


async def test_a_failing_engine_is_a_500_and_goes_on(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        bench.engine.fail = MemoryError("hello")
        answer = await client.request("POST", "/v1/embeddings", BODY)
        assert (answer.status, answer.outcome) == (500, Outcome.ERROR)
        assert answer.receipt is not None
        assert b"hello" not in answer.body
        bench.engine.fail = None
        assert (await client.request("POST", "/v1/embeddings", BODY)).status == 200


# cancel


async def test_cancelling_what_waits_frees_the_queue(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        running = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.1)
        waiting = client.open("POST", "/v1/embeddings", BODY)
        await client.cancel(waiting)
        await client.finished(waiting)
        assert waiting.outcome is Outcome.CANCELLED
        assert waiting.status == 0
        assert waiting.receipt is not None  # over an empty response
        gate.set()
        await client.finished(running)
        assert running.status == 200
        assert bench.engine.batches[-1:] == [1]
        served = len(bench.engine.batches)
        await client.request("POST", "/v1/embeddings", BODY)
        assert len(bench.engine.batches) == served + 1  # the cancelled one never ran


async def test_cancelling_before_a_model_is_selected_gives_no_receipt(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", b"{", fin=False)
        await client.cancel(answer)
        await client.finished(answer)
        assert answer.outcome is Outcome.CANCELLED
        assert answer.end is not None
        assert answer.end.receipt is None
        await client.cancel(answer)  # late: dropped
        assert (await client.request("POST", "/v1/embeddings", BODY)).status == 200


# faults that end the channel


async def closed_for(client: RawClient) -> CloseReason | None:
    await client.flush()
    async with asyncio.timeout(10):
        return await client.until_closed()


@pytest.mark.parametrize(
    "messages",
    [
        [Body(7, b"x", fin=True)],
        [Cancel(7)],
        [Request(3, "GET", "/healthz"), Request(1, "GET", "/healthz")],
        [Request(1, "GET", "/healthz"), Request(1, "GET", "/healthz")],
        [Request(1, "POST", "/v1/embeddings", fin=False), Body(1, BODY, fin=True), Body(1, b"", fin=True)],
    ],
)
async def test_a_broken_rule_ends_the_channel_with_reason_3(bench: ServerBench, messages: list[Any]) -> None:
    gate = bench.hold()
    async with (
        bench.serve() as server,
        connected(server.addresses[0]) as client,
        connected(server.addresses[0]) as other,
    ):
        for message in messages:
            if isinstance(message, Request):
                client.open(message.method, message.path, fin=message.fin, stream=message.stream)
            else:
                client.channel.send(message)
        assert await closed_for(client) is CloseReason.PROTOCOL
        gate.set()
        assert (await other.request("POST", "/v1/embeddings", BODY)).status == 200


async def test_a_changed_record_gets_no_answer(bench: ServerBench) -> None:
    async with (
        bench.serve() as server,
        connected(server.addresses[0]) as client,
        connected(server.addresses[0]) as other,
    ):
        client.open("GET", "/healthz")
        data = bytearray(client.channel.data_to_send())
        data[-1] ^= 1
        client.writer.write(data)
        with pytest.raises(EndedError):
            await client.step()
        assert (await other.request("GET", "/healthz")).status == 200


async def test_garbage_after_the_handshake_ends_it(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await closed_for(client) is CloseReason.PROTOCOL


async def test_pings_are_answered_in_order_and_keep_nothing_alive(bench: ServerBench) -> None:
    async with bench.serve(idle_seconds=5) as server, connected(server.addresses[0]) as client:
        for value in (3, 1, 2):
            client.channel.send(Ping(value))
        await client.flush()
        await client.until(0.1)
        assert client.pongs == [3, 1, 2]
        bench.ahead += 6
        assert await closed_for(client) is CloseReason.IDLE


# endings


async def test_idle_sessions_are_closed(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve(idle_seconds=300) as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.05)
        bench.ahead += 299
        await client.until(0.1)
        bench.ahead += 10  # a request is in flight: not idle
        await client.until(0.1)
        assert client.close_reason is None
        gate.set()
        await client.finished(answer)
        bench.ahead += 301
        assert await closed_for(client) is CloseReason.IDLE


async def test_a_peer_that_never_says_close_is_cut_off(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        client.says_close = False
        bench.ahead += 301
        await client.until(0.2)
        assert client.close_reason is CloseReason.IDLE
        assert server.connections == 1
        bench.ahead += 6
        await eventually(lambda: server.connections == 0)


async def test_an_old_session_finishes_what_is_in_flight(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.05)
        bench.ahead += 3_601
        await client.until(0.1)
        late = client.open("POST", "/v1/embeddings", BODY)
        await client.finished(late)
        assert late.status == 503
        gate.set()
        assert await closed_for(client) is CloseReason.SESSION_AGE
        assert answer.status == 200


async def test_the_clients_close_lets_complete_requests_finish(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        complete = client.open("POST", "/v1/embeddings", BODY)
        incomplete = client.open("POST", "/v1/embeddings", b"{", fin=False)
        client.channel.close()
        await client.flush()
        client.writer.write_eof()
        await client.finished(incomplete)
        assert incomplete.outcome is Outcome.ABORTED
        gate.set()
        assert await closed_for(client) is CloseReason.DONE
        assert complete.status == 200
        assert complete.receipt is not None
        await eventually(lambda: server.connections == 0)


async def test_draining_finishes_requests_and_refuses_new_ones(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.05)
        draining = asyncio.create_task(server.drain())
        await client.until(0.1)
        late = await client.request("GET", "/healthz")
        assert late.status == 503
        with pytest.raises((AlertError, EndedError, OSError)):
            async with connected(server.addresses[0]):
                pass
        gate.set()
        assert await closed_for(client) is CloseReason.DRAINING
        assert answer.status == 200
        client.writer.close()
        await asyncio.wait_for(draining, 10)


async def test_draining_aborts_what_takes_too_long(bench: ServerBench) -> None:
    bench.hold()
    async with bench.serve(drain_seconds=0.1) as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/embeddings", BODY)
        await client.flush()
        await client.until(0.05)
        draining = asyncio.create_task(server.drain())
        assert await closed_for(client) is CloseReason.DRAINING
        assert answer.outcome is Outcome.ABORTED
        assert answer.receipt is not None
        client.writer.close()
        await asyncio.wait_for(draining, 10)


async def test_a_peer_that_goes_takes_its_work_along(bench: ServerBench) -> None:
    gate = bench.hold()
    async with bench.serve() as server:
        async with connected(server.addresses[0]) as client:
            for _ in range(5):
                client.open("POST", "/v1/embeddings", BODY)
            await client.flush()
            await client.until(0.05)
        await eventually(lambda: server.connections == 0)
        handshaker = server._handshaker
        assert handshaker is not None
        assert handshaker.shared.bodies.used == 0
        assert handshaker.shared.writes.used == 0
        gate.set()
        async with connected(server.addresses[0]) as other:
            assert (await other.request("POST", "/v1/embeddings", BODY)).status == 200
        assert len(bench.engine.batches) <= 2  # the one that ran, and the last


# slow readers


async def test_a_large_answer_is_cut_into_records_and_waits_for_a_slow_reader(bench: ServerBench) -> None:
    bench.engine.dim = 384
    limits = {"max_record_bytes": 4_096, "write_buffer_bytes": 65_536, "max_inputs": 2_048}
    async with bench.serve(**limits) as server, connected(server.addresses[0]) as client:
        body = json.dumps({"model": "tiny-bert", "input": ["a b c"] * 2_048}).encode()
        client.channel.send(Request(1, "POST", "/v1/embeddings", fin=False))
        client._next = 3
        answer = client.answers[1] = client.answers.get(1) or _answer(1, body)
        for at in range(0, len(body), 4_000):
            client.channel.send(Body(1, body[at : at + 4_000], fin=at + 4_000 >= len(body)))
        await client.flush()
        await asyncio.sleep(1.0)
        handshaker = server._handshaker
        assert handshaker is not None
        assert handshaker.shared.writes.used > 0
        await client.finished(answer)
        assert answer.status == 200
        assert len(answer.json()["data"]) == 2_048
        assert answer.receipt is not None
        await eventually(lambda: handshaker.shared.writes.used == 0)
        assert (await client.request("GET", "/healthz")).status == 200


def _answer(stream: int, body: bytes) -> Any:
    from tests.fakes.raw_client import Answer

    return Answer(stream, body, None)


async def test_a_reader_that_takes_nothing_is_cut_off(bench: ServerBench) -> None:
    bench.engine.dim = 384
    async with bench.serve(max_inputs=2_048) as server:
        client = RawClient(*await streams(server.addresses[0]), PREFERRED)
        await client.handshake()
        body = json.dumps({"model": "tiny-bert", "input": ["a b c"] * 2_048}).encode()
        for _ in range(4):
            client.open("POST", "/v1/embeddings", body)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.flush()
        handshaker = server._handshaker
        assert handshaker is not None
        await eventually(lambda: bench.engine.batches.count(32) > 200, 60)
        await asyncio.sleep(0.3)
        assert server.connections == 1

        def later() -> bool:
            bench.ahead += 61  # again each time: a slow machine may still have been writing at the first
            return server.connections == 0

        await eventually(later, 20)
        assert handshaker.shared.writes.used == 0
        await client.disconnect()


# who may call


async def test_listed_clients_only(bench: ServerBench) -> None:
    import hashlib

    digest = hashlib.sha256(b"token-1").hexdigest()
    source = f'clients = ["{digest}"]\n'.encode() + config_source()
    async with bench.serve(source=source) as server, connected(server.addresses[0]) as client:
        for headers in (
            {},
            {"authorization": "Bearer token-2"},
            {"authorization": "Basic token-1"},
            {"authorization": "token-1"},
        ):
            answer = await client.request("POST", "/v1/embeddings", BODY, headers=headers)
            assert (answer.status, answer.outcome) == (401, Outcome.ERROR)
            assert answer.end is not None
            assert answer.end.receipt is None
        assert (await client.request("GET", "/healthz")).status == 401
        allowed = await client.request("POST", "/v1/embeddings", BODY, headers={"authorization": "Bearer token-1"})
        assert allowed.status == 200


async def test_the_server_answers_a_refused_request_before_its_body_ends(bench: ServerBench) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as client:
        answer = client.open("POST", "/v1/nothing", b"x" * 100, fin=False)
        await client.finished(answer)
        assert answer.status == 404
        client.channel.send(Body(answer.stream, b"x" * 100, fin=True))
        assert (await client.request("GET", "/healthz")).status == 200


async def test_a_unix_socket_serves_too(bench: ServerBench, tmp_path: Path) -> None:
    source = config_source(listen=f"unix://{tmp_path}/s")
    async with bench.serve(source=source) as server, connected(server.addresses[0]) as client:
        assert (await client.request("POST", "/v1/embeddings", BODY)).status == 200
