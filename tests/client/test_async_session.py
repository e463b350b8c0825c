import asyncio
from typing import Any

import pytest

from ephemeralml.channel import CloseReason, Limits
from ephemeralml.client.async_session import async_connect
from ephemeralml.client.call import SessionEndedError, TimedOutError, TruncatedError
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.client.conftest import Start, until
from tests.client.test_checks import CUTS, OFFERS, PUBLISHER_FAULTS, RECEIPTS, publishers
from tests.fakes.runtime import FakeRuntime, embedding, envelope_of, sse_events
from tests.fakes.runtime import RuntimeFault as F

ASKED = {"model": "minilm", "input": "the secret prompt"}
TALK = b'{"model":"talker","stream":true}'


async def test_reply_carries_everything_that_was_verified(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    async with await async_connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session:
        reply = await session.post("/v1/embeddings", json=ASKED, nonce=b"challenge")
        assert (await session.get("/v1/models")).ok
        assert session.attested.verified.software
    assert reply.json()["data"][0]["embedding"] == embedding("the secret prompt")
    assert reply.receipt is not None
    assert reply.receipt.claims.eat_nonce == b"challenge"
    assert seen == [reply.receipted]


@pytest.mark.parametrize(("fault", "kind", "code"), OFFERS, ids=lambda value: getattr(value, "name", None))
async def test_offer_is_refused(start: Start, fault: F, kind: type[EphemeralError], code: str | None) -> None:
    runtime = start(fault)
    with pytest.raises(kind) as caught:
        await async_connect(runtime.target, policy=runtime.policy(), timeout=5)
    assert getattr(caught.value, "code", None) == code
    assert runtime.requests == []


@pytest.mark.parametrize(("fault", "code"), RECEIPTS, ids=lambda value: getattr(value, "name", None))
async def test_receipt_is_refused(start: Start, fault: F, code: str) -> None:
    runtime = start(fault)
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(RejectedError) as caught:
            await session.post("/v1/embeddings", json=ASKED)
        assert caught.value.code == code
        with pytest.raises(SessionEndedError):
            await session.post("/v1/embeddings", json=ASKED)


@pytest.mark.parametrize(("fault", "kind"), CUTS, ids=lambda value: getattr(value, "name", None))
async def test_incomplete_reply_is_no_reply(start: Start, fault: F, kind: type[EphemeralError]) -> None:
    runtime = start(fault, pieces=2)
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(kind):
            await session.post("/v1/embeddings", json=ASKED, timeout=5)


@pytest.mark.parametrize(("fault", "kind", "code"), PUBLISHER_FAULTS, ids=lambda value: getattr(value, "name", None))
async def test_prompt_waits_for_the_publisher(
    start: Start, fault: F, kind: type[EphemeralError], code: str | None
) -> None:
    runtime = start(fault)
    async with await async_connect(runtime.target, policy=runtime.policy(**publishers())) as session:
        with pytest.raises(kind) as caught:
            await session.post("/v1/embeddings", json=ASKED)
        assert getattr(caught.value, "code", None) == code
    assert runtime.prompts == []


async def test_silent_runtime(start: Start) -> None:
    runtime = start(F.SILENT)
    with pytest.raises(TimedOutError):
        await async_connect(runtime.target, policy=runtime.policy(), timeout=0.2)


async def test_many_tasks_share_a_session(start: Start) -> None:
    runtime = start(limits=Limits(max_inflight=3))
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        texts = [f"text {number}" for number in range(50)]
        replies = await asyncio.gather(
            *(session.post("/v1/embeddings", json={"model": "minilm", "input": text}) for text in texts)
        )
    assert [reply.json()["data"][0]["embedding"] for reply in replies] == [embedding(text) for text in texts]
    assert runtime.connections == 1


async def test_time_out_and_cancelled_task_cancel_the_request(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(TimedOutError):
            await session.post("/v1/embeddings", json=ASKED, timeout=0.05)
        task = asyncio.create_task(session.post("/v1/embeddings", json=ASKED))
        await until(lambda: len(runtime.prompts) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.get("/healthz")).ok
        assert session.inflight == 0


async def test_stream(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    async with await async_connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session:
        async with await session.stream("POST", "/v1/chat/completions", TALK) as streamed:
            body = b"".join([piece async for piece in streamed])
        assert body == b"".join(sse_events())
        assert seen == [streamed.receipted]
        async with await session.stream("POST", "/v1/chat/completions", TALK) as left:
            assert left.status == 200
            assert left.receipted is None
        assert (await session.get("/healthz")).ok


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(F.TRUNCATED, TruncatedError), (F.RECEIPT_OTHER_RESPONSE, RejectedError)],
    ids=lambda value: getattr(value, "name", None),
)
async def test_stream_that_is_cut_or_wrongly_signed(start: Start, fault: F, kind: type[Exception]) -> None:
    runtime = start(fault)
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(kind):
            async with await session.stream("POST", "/v1/chat/completions", TALK) as streamed:
                await streamed.read()


async def test_close_by_the_runtime_is_noticed(runtime: FakeRuntime) -> None:
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        runtime.close_sessions(CloseReason.IDLE)
        await until(lambda: not session.usable())
        with pytest.raises(SessionEndedError, match="idle"):
            await session.post("/v1/embeddings", json=ASKED)


async def test_closing_ends_calls_in_flight(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    session = await async_connect(runtime.target, policy=runtime.policy())
    task = asyncio.create_task(session.post("/v1/embeddings", json=ASKED))
    await until(lambda: bool(runtime.prompts))
    await session.close()
    with pytest.raises(TruncatedError):
        await task


async def test_retired_session_ends_with_its_last_reply(start: Start) -> None:
    runtime = start(batch=2)
    session = await async_connect(runtime.target, policy=runtime.policy())
    first = asyncio.create_task(session.post("/v1/embeddings", json=ASKED))
    await until(lambda: bool(runtime.prompts))
    await session.retire()
    second = await session.post("/v1/embeddings", json=ASKED)
    assert second.ok
    assert (await first).ok
    with pytest.raises(SessionEndedError):
        await session.get("/healthz")
    other = await async_connect(runtime.target, policy=runtime.policy())
    await other.retire()


async def test_alias_and_manifest(start: Start) -> None:
    runtime = start(aliases={"text-embedding": "minilm"})
    async with await async_connect(runtime.target, policy=runtime.policy()) as session:
        assert (await session.post("/v1/embeddings", json={**ASKED, "model": "text-embedding"})).receipt is not None
        assert await session.manifest("minilm") == envelope_of("minilm", "1.0.0")
        with pytest.raises(RejectedError):
            await session.post("/v1/embeddings", json={**ASKED, "model": "nothing"})


async def test_nobody_there_and_no_address(runtime: FakeRuntime) -> None:
    with pytest.raises(UnavailableError):
        await async_connect("tcp://127.0.0.1:1", policy=runtime.policy())
    with pytest.raises(MalformedError):
        await async_connect("nowhere", policy=runtime.policy())
