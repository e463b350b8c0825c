import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ephemeralml.channel import CloseReason, Limits
from ephemeralml.client.call import SessionEndedError, TimedOutError, TruncatedError
from ephemeralml.client.session import connect
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError, UnavailableError
from tests.client.conftest import Start, settled
from tests.fakes.runtime import CHUNKS, FakeRuntime, embedding, envelope_of, sse_events
from tests.fakes.runtime import RuntimeFault as F

TALK = b'{"model":"talker","stream":true}'


def ask(text: str) -> dict[str, str]:
    return {"model": "minilm", "input": text}


def test_reply_carries_everything_that_was_verified(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    with connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session:
        reply = session.post("/v1/embeddings", json=ask("hello"), nonce=b"challenge")
        attested = session.attested
    assert reply.ok
    assert reply.json()["data"][0]["embedding"] == embedding("hello")
    assert reply.receipt is not None
    assert reply.receipt.claims.eat_nonce == b"challenge"
    assert reply.receipt_bytes == reply.receipt.receipt
    assert reply.evidence is not None
    assert reply.evidence.digest == reply.receipt.claims.attestation_doc_hash
    assert reply.usage == {"execution_ms": 3, "prompt_tokens": 7}
    assert attested.verified.software
    assert attested.nonce != b""
    assert seen == [reply.receipted]
    assert runtime.headers[0]["content-type"] == "application/json"


def test_every_prompt_has_a_nonce_of_its_own(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        replies = [session.post("/v1/embeddings", json=ask("a")) for _ in range(3)]
    nonces = {reply.receipt.claims.eat_nonce for reply in replies if reply.receipt}
    assert len(nonces) == 3
    assert all(nonce is not None and len(nonce) == 32 for nonce in nonces)


def test_reading_needs_no_receipt(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        reply = session.get("/v1/models", headers={"x-a": "b"})
        assert [model["id"] for model in reply.json()["data"]] == ["minilm", "talker"]
        assert reply.receipt is None
        assert reply.receipt_bytes is None
        assert reply.evidence is None
        assert reply.manifest is None
    assert runtime.headers[0]["x-a"] == "b"


def test_session_nonce_may_be_the_callers(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy(), nonce=b"\x05" * 32) as session:
        assert session.attested.nonce == b"\x05" * 32


def test_roots_may_be_given_instead_of_the_policys(runtime: FakeRuntime) -> None:
    from tests.fakes.runtime import authority

    other = runtime.policy(
        local={"roots": ["sha256:" + "ab" * 32], "allow": runtime.policy_document()["local"]["allow"]}
    )
    with connect(runtime.target, policy=other, roots=authority().roots) as session:
        assert session.attested.verified.software


def test_several_threads_share_a_session_and_its_sequence(start: Start) -> None:
    runtime, seen = start(), []
    with (
        connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session,
        ThreadPoolExecutor(8) as pool,
    ):
        texts = [f"text {number}" for number in range(80)]
        replies = list(pool.map(lambda text: session.post("/v1/embeddings", json=ask(text)), texts))
    assert [reply.json()["data"][0]["embedding"] for reply in replies] == [embedding(text) for text in texts]
    assert sorted(item.receipt.claims.sequence_number for item in seen) == list(range(80))
    assert runtime.connections == 1


def test_replies_may_come_in_another_order(start: Start) -> None:
    runtime = start(batch=4)
    with connect(runtime.target, policy=runtime.policy()) as session, ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            texts = ["a", "b", "c", "d"]
            replies = pool.map(lambda text: session.post("/v1/embeddings", json=ask(text)), texts)
            assert [reply.json()["data"][0]["embedding"] for reply in replies] == [embedding(text) for text in texts]


def test_reply_reaches_its_caller_while_another_thread_reads_on(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    with connect(runtime.target, policy=runtime.policy()) as session, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.post, "/v1/embeddings", json=ask("never"), timeout=2)
        settled(lambda: bool(runtime.prompts))
        for _ in range(3):
            assert session.get("/healthz", timeout=1).ok
        assert not waiting.done()
        assert isinstance(waiting.exception(), TimedOutError)


def test_no_more_streams_than_the_runtime_takes(start: Start) -> None:
    runtime = start(limits=Limits(max_inflight=2))
    with connect(runtime.target, policy=runtime.policy()) as session, ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda n: session.post("/v1/embeddings", json=ask(str(n))), range(60)))
    assert {reply.status for reply in replies} == {200}


def test_time_out_cancels_the_request_and_leaves_the_session(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    with connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(TimedOutError):
            session.post("/v1/embeddings", json=ask("slow"), timeout=0.1)
        assert runtime.cancelled.wait(5)
        assert session.get("/healthz").ok
        assert session.inflight == 0


def test_time_out_while_waiting_for_a_free_stream(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS, limits=Limits(max_inflight=1))
    with connect(runtime.target, policy=runtime.policy()) as session:
        errors: list[Exception] = []

        def first() -> None:
            try:
                session.post("/v1/embeddings", json=ask("a"), timeout=1)
            except TimedOutError as error:
                errors.append(error)

        thread = threading.Thread(target=first)
        thread.start()
        settled(lambda: bool(runtime.prompts))
        with pytest.raises(TimedOutError):
            session.post("/v1/embeddings", json=ask("b"), timeout=0.1)
        thread.join()
        assert len(errors) == 1
    assert len(runtime.prompts) == 1


def test_session_that_ends_while_a_caller_waits_for_a_free_stream(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS, limits=Limits(max_inflight=1))
    with connect(runtime.target, policy=runtime.policy()) as session, ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.post, "/v1/embeddings", json=ask("a"), timeout=10)
        settled(lambda: bool(runtime.prompts))
        second = pool.submit(session.post, "/v1/embeddings", json=ask("b"), timeout=10)
        time.sleep(0.05)
        runtime.close_sessions()
        assert isinstance(first.exception(5), TruncatedError)
        assert isinstance(second.exception(5), SessionEndedError)
    assert len(runtime.prompts) == 1


def test_stream_comes_in_pieces_and_its_receipt_at_the_end(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    with (
        connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session,
        session.stream("POST", "/v1/chat/completions", TALK) as streamed,
    ):
        assert streamed.status == 200
        assert streamed.headers["content-type"] == "text/event-stream"
        assert streamed.receipted is None
        body = b"".join(streamed)
        assert body == b"".join(sse_events())
        assert streamed.receipted is not None
        assert seen == [streamed.receipted]
        assert list(streamed) == []
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(F.TRUNCATED, TruncatedError), (F.CLOSED_MID_REPLY, TruncatedError), (F.RECEIPT_OTHER_RESPONSE, RejectedError),
     (F.RECEIPT_MISSING, RejectedError), (F.ABORTED, TruncatedError)],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_stream_that_is_cut_or_wrongly_signed_raises_at_its_end(start: Start, fault: F, kind: type[Exception]) -> None:
    runtime, seen = start(fault), []
    with connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session:
        with pytest.raises(kind), session.stream("POST", "/v1/chat/completions", TALK) as streamed:
            list(streamed)
        assert seen == []


def test_leaving_a_stream_cancels_it(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    with connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(TimedOutError):
            session.stream("POST", "/v1/chat/completions", TALK, timeout=0.05)
        assert runtime.cancelled.wait(5)


def test_stream_left_half_way_frees_its_place(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        with session.stream("POST", "/v1/chat/completions", TALK) as streamed:
            next(iter(streamed))
        assert session.post("/v1/embeddings", json=ask("on")).ok


def test_large_bodies_travel_in_several_records(start: Start) -> None:
    runtime = start(limits=Limits(max_record=4096), pieces=7)
    texts = [f"text number {number}" * 20 for number in range(500)]
    with connect(runtime.target, policy=runtime.policy()) as session:
        reply = session.post("/v1/embeddings", json={"model": "minilm", "input": texts[:20]})
        assert len(reply.json()["data"]) == 20
        assert session.request("POST", "/v1/embeddings", b"x" * 100_000).status == 400
    assert len(runtime.prompts[1]) == 100_000


def test_request_that_would_break_a_rule_is_not_sent(start: Start) -> None:
    runtime = start(limits=Limits(max_body=1000, max_record=8192))
    with connect(runtime.target, policy=runtime.policy()) as session:
        assert session.request("POST", "/v1/embeddings", b"x" * 1000).status == 400
        runtime.requests.clear()
        with pytest.raises(MalformedError, match="at most 1000"):
            session.request("POST", "/v1/embeddings", b"x" * 1001)
        with pytest.raises(MalformedError, match="nonce has 7 bytes"):
            session.post("/v1/embeddings", json=ask("x"), nonce=b"1234567")
        with pytest.raises(MalformedError, match="header"):
            session.get("/v1/models", headers={"x-a": "b\r\nx-c: d"})
        with pytest.raises(MalformedError, match="do not fit"):
            session.get("/v1/models", headers={"x-a": "b" * 4000})
        with pytest.raises(MalformedError, match="path"):
            session.get("v1/models")
        with pytest.raises(TypeError):
            session.post("/v1/embeddings", json={}, content=b"")
        assert runtime.requests == []
        assert session.get("/v1/models").ok


def test_session_notices_that_the_runtime_has_closed(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        assert session.usable()
        runtime.close_sessions(CloseReason.IDLE)
        settled(lambda: not session.usable())
        with pytest.raises(SessionEndedError, match="idle \\(said the test\\)"):
            session.post("/v1/embeddings", json=ask("late"))
    assert runtime.prompts == []


def test_session_notices_a_cut_connection_before_it_sends(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        runtime.drop_connections()
        settled(lambda: not session.usable())
        with pytest.raises(SessionEndedError):
            session.post("/v1/embeddings", json=ask("late"))


def test_closing_ends_calls_in_flight(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    session = connect(runtime.target, policy=runtime.policy())
    errors: list[Exception] = []

    def wait() -> None:
        try:
            session.post("/v1/embeddings", json=ask("slow"), timeout=10)
        except UnavailableError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    settled(lambda: len(runtime.prompts) == 3)
    session.close()
    for thread in threads:
        thread.join(5)
    assert [type(error) for error in errors] == [TruncatedError] * 3
    with pytest.raises(SessionEndedError):
        session.get("/healthz")


def test_a_refused_reply_ends_the_others_without_calling_them_refused(start: Start) -> None:
    runtime = start(F.RECEIPT_OTHER_RESPONSE, batch=3)
    results: list[Exception] = []

    def wait(text: str) -> None:
        try:
            session.post("/v1/embeddings", json=ask(text), timeout=10)
        except (RejectedError, UnavailableError) as error:
            results.append(error)

    with connect(runtime.target, policy=runtime.policy()) as session:
        threads = [threading.Thread(target=wait, args=(text,)) for text in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(type(result).__name__ for result in results) == ["RejectedError", "TruncatedError", "TruncatedError"]


def test_retired_session_ends_with_its_last_reply(start: Start) -> None:
    runtime = start(batch=2)
    session = connect(runtime.target, policy=runtime.policy())
    replies = []
    thread = threading.Thread(target=lambda: replies.append(session.post("/v1/embeddings", json=ask("a"))))
    thread.start()
    settled(lambda: bool(runtime.prompts))
    session.retire()
    assert session.post("/v1/embeddings", json=ask("b")).ok
    thread.join(5)
    assert replies[0].ok
    with pytest.raises(SessionEndedError):
        session.get("/healthz")


def test_manifest_can_be_fetched_without_publishers_in_the_policy(start: Start) -> None:
    runtime = start()
    with connect(runtime.target, policy=runtime.policy()) as session:
        assert session.manifest("minilm") == envelope_of("minilm", "1.0.0")
        assert session.post("/v1/embeddings", json=ask("a")).manifest == envelope_of("minilm", "1.0.0")
        with pytest.raises(RejectedError):
            session.manifest("nothing")
    runtime.faults = {F.MANIFEST_MISSING}
    with connect(runtime.target, policy=runtime.policy()) as session, pytest.raises(IncompleteError):
        session.manifest("minilm")


def test_bearer_token_travels_inside(start: Start) -> None:
    runtime = start(token="sesame")
    with connect(runtime.target, policy=runtime.policy()) as session:
        refused = session.post("/v1/embeddings", json=ask("a"))
        assert (refused.status, refused.receipt) == (401, None)
        assert session.post("/v1/embeddings", json=ask("a"), headers={"authorization": "Bearer sesame"}).ok


def test_chunks_are_what_the_engine_said(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        reply = session.post("/v1/chat/completions", json={"model": "talker"})
    assert reply.json()["choices"][0]["message"]["content"] == "".join(CHUNKS)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "http://a/", "tcp://a"])
def test_address_must_be_one(runtime: FakeRuntime, target: str) -> None:
    with pytest.raises(MalformedError):
        connect(target, policy=runtime.policy())


def test_nobody_there(runtime: FakeRuntime) -> None:
    with pytest.raises(UnavailableError, match="no connection"):
        connect("tcp://127.0.0.1:1", policy=runtime.policy())
