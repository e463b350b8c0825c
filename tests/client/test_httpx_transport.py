import time
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

import ephemeralml
from ephemeralml.channel import CloseReason
from ephemeralml.client.httpx_transport import RECEIPT_EXTENSION, _EndMarker, async_httpx_client, httpx_client
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from tests.client.conftest import Start, settled, until
from tests.client.test_checks import RECEIPTS, publishers
from tests.fakes.runtime import CHUNKS, FakeRuntime, embedding, sse_events
from tests.fakes.runtime import RuntimeFault as F

TALK = {"model": "talker", "stream": True}
MESSAGES: Any = [{"role": "user", "content": "x"}]
ASKED = {"model": "minilm", "input": "a"}


def sdk(runtime: FakeRuntime, *, retries: int = 2, seen: list[Any] | None = None, **policy: Any) -> OpenAI:
    client = httpx_client(
        runtime.target, policy=runtime.policy(**policy), on_receipt=seen.append if seen is not None else None
    )
    return OpenAI(api_key="unused", base_url="http://enclave/v1", http_client=client, max_retries=retries)


SDK_REFUSAL = (RejectedError, openai.APIConnectionError)
"""Releases 2.x of the SDK wrap whatever is raised."""


def refusal(error: BaseException) -> RejectedError:
    found = error if isinstance(error, RejectedError) else error.__cause__
    assert isinstance(found, RejectedError)
    return found


# -- plain httpx


def test_response_is_verified_before_it_is_returned(runtime: FakeRuntime) -> None:
    with httpx_client(runtime.target, policy=runtime.policy()) as client:
        response = client.post("/v1/embeddings", json=ASKED, headers={"X-Mine": "1"})
        assert response.json()["data"][0]["embedding"] == embedding("a")
        assert response.headers["x-request-id"] == "r1"
        receipted = response.extensions[RECEIPT_EXTENSION]
        assert receipted.receipt.claims.model_id == "minilm"
        assert client.get("/v1/models").extensions[RECEIPT_EXTENSION] is None
    sent = runtime.headers[0]
    assert sent["x-mine"] == "1"
    assert not {"host", "connection", "content-length", "accept-encoding"} & set(sent)


def test_query_travels_and_host_does_not(runtime: FakeRuntime) -> None:
    with httpx_client(runtime.target, policy=runtime.policy()) as client:
        client.get("http://anything.example/v1/models?a=b%20c")
    assert runtime.requests[0][1] == "/v1/models?a=b%20c"


@pytest.mark.parametrize(("fault", "code"), RECEIPTS, ids=lambda value: getattr(value, "name", None))
def test_refused_receipt_is_our_own_error(start: Start, fault: F, code: str) -> None:
    runtime = start(fault)
    with httpx_client(runtime.target, policy=runtime.policy()) as client, pytest.raises(RejectedError) as caught:
        client.post("/v1/embeddings", json=ASKED)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(F.TRUNCATED, httpx.RemoteProtocolError), (F.ABORTED, httpx.RemoteProtocolError), (F.ALERT, httpx.ConnectError),
     (F.HANGS_UP, httpx.ConnectError), (F.GARBAGE_FRAME, MalformedError), (F.RECORD_FLIPPED, RejectedError),
     (F.EVIDENCE_WRONG_NONCE, RejectedError)],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_network_faults_are_httpx_and_refusals_are_ours(start: Start, fault: F, kind: type[Exception]) -> None:
    runtime = start(fault)
    with httpx_client(runtime.target, policy=runtime.policy()) as client, pytest.raises(kind) as caught:
        client.post("/v1/embeddings", json=ASKED)
    if isinstance(caught.value, httpx.RequestError):
        assert caught.value.__cause__ is not None
        assert caught.value.request.url.path == "/v1/embeddings"


def test_time_outs(start: Start) -> None:
    slow = start(F.NEVER_ANSWERS)
    with httpx_client(slow.target, policy=slow.policy(), timeout=0.1) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/embeddings", json=ASKED)
    silent = start(F.SILENT)
    with (
        httpx_client(silent.target, policy=silent.policy(), timeout=0.1) as client,
        pytest.raises(httpx.ConnectTimeout),
    ):
        client.post("/v1/embeddings", json=ASKED)


def test_event_stream_comes_as_it_is_said(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    with (
        httpx_client(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as client,
        client.stream("POST", "/v1/chat/completions", json=TALK) as response,
    ):
        assert seen == []
        assert b"".join(response.iter_raw()) == b"".join(sse_events())
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(F.TRUNCATED, httpx.RemoteProtocolError), (F.CLOSED_MID_REPLY, httpx.RemoteProtocolError)],
    ids=lambda value: getattr(value, "name", None),
)
def test_cut_event_stream_raises(start: Start, fault: F, kind: type[Exception]) -> None:
    runtime = start(fault)
    with (
        httpx_client(runtime.target, policy=runtime.policy()) as client,
        pytest.raises(kind),
        client.stream("POST", "/v1/chat/completions", json=TALK) as response,
    ):
        list(response.iter_raw())


def test_wrongly_signed_event_stream_raises_at_its_end(start: Start) -> None:
    runtime = start(F.RECEIPT_OTHER_RESPONSE)
    with (
        httpx_client(runtime.target, policy=runtime.policy()) as client,
        pytest.raises(RejectedError),
        client.stream("POST", "/v1/chat/completions", json=TALK) as response,
    ):
        list(response.iter_raw())


@pytest.mark.parametrize("fault", [None, F.RECEIPT_OTHER_RESPONSE, F.RECEIPT_MISSING])
def test_end_marker_is_passed_on_only_behind_a_verified_receipt(start: Start, fault: F | None) -> None:
    runtime, seen, lines = start(*filter(None, (fault,))), [], []
    with httpx_client(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as client:
        try:
            with client.stream("POST", "/v1/chat/completions", json=TALK) as response:
                for line in response.iter_lines():
                    lines.append(line)
                    if line == "data: [DONE]":
                        break
        except RejectedError:
            assert fault is not None
    assert ("data: [DONE]" in lines) is (fault is None)
    assert len(seen) == (fault is None)


@given(st.lists(st.integers(min_value=0, max_value=60), max_size=8))
def test_end_marker_is_found_however_it_is_cut(cuts: list[int]) -> None:
    body = b"data: {}\n\ndata: [DO\n\ndata: [DONE]\n\nbehind"
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    marker, passed = _EndMarker(), b""
    for begin, end in pairwise(places):
        piece = body[begin:end]
        if not marker.withholds(piece):
            passed += piece
    assert _EndMarker.MARK not in passed
    assert passed + b"".join(marker.pieces) == body


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_ended_session_is_replaced_with_fresh_evidence(runtime: FakeRuntime, end: str) -> None:
    seen: list[Any] = []
    with httpx_client(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as client:
        for round_ in range(3):
            assert client.post("/v1/embeddings", json=ASKED).is_success
            if end == "closed":
                runtime.close_sessions(CloseReason.SESSION_AGE)
                time.sleep(0.05)
            else:
                runtime.drop_connections()
                settled(lambda: not runtime._live)
            assert runtime.connections == round_ + 1
    assert len({item.attested.evidence.digest for item in seen}) == 3
    assert [item.receipt.claims.sequence_number for item in seen] == [0, 0, 0]


def test_restarted_runtime_is_verified_anew(runtime: FakeRuntime) -> None:
    with httpx_client(runtime.target, policy=runtime.policy()) as client:
        assert client.post("/v1/embeddings", json=ASKED).is_success
        runtime.faults = {F.EVIDENCE_OTHER_KEY}
        runtime.drop_connections()
        settled(lambda: not runtime._live)
        with pytest.raises(RejectedError):
            client.post("/v1/embeddings", json=ASKED)
    assert len(runtime.prompts) == 1


def test_body_that_was_handed_over_is_not_sent_again(start: Start) -> None:
    runtime = start(F.TRUNCATED)
    with httpx_client(runtime.target, policy=runtime.policy()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/embeddings", json=ASKED)
        assert len(runtime.prompts) == 1
        runtime.faults = set()
        assert client.post("/v1/embeddings", json=ASKED).is_success
    assert len(runtime.prompts) == 2


def test_manifests_outlive_sessions(runtime: FakeRuntime) -> None:
    with httpx_client(runtime.target, policy=runtime.policy(**publishers())) as client:
        assert client.post("/v1/embeddings", json=ASKED).is_success
        runtime.drop_connections()
        settled(lambda: not runtime._live)
        assert client.post("/v1/embeddings", json=ASKED).is_success
    assert len([path for _, path, _ in runtime.requests if "manifests" in path]) == 1


def test_publisher_that_cannot_be_checked(start: Start) -> None:
    runtime = start(F.MANIFEST_MISSING)
    with (
        httpx_client(runtime.target, policy=runtime.policy(**publishers())) as client,
        pytest.raises(IncompleteError),
    ):
        client.post("/v1/embeddings", json=ASKED)


def test_target_and_use_after_close(runtime: FakeRuntime) -> None:
    with pytest.raises(MalformedError):
        httpx_client("http://nowhere/", policy=runtime.policy())
    client = httpx_client(runtime.target, policy=runtime.policy())
    client.close()
    with pytest.raises(RuntimeError):
        client.get("/healthz")


def test_retry_of_a_refused_request_is_refused_without_sending_it(start: Start) -> None:
    runtime = start(F.RECEIPT_OTHER_RESPONSE)
    with httpx_client(runtime.target, policy=runtime.policy()) as client:
        for count in ("0", "1", "2"):
            with pytest.raises(RejectedError):
                client.post("/v1/embeddings", json=ASKED, headers={"x-stainless-retry-count": count})
        assert len(runtime.prompts) == 1
        with pytest.raises(RejectedError):
            client.post("/v1/embeddings", json=ASKED)
        assert len(runtime.prompts) == 2


# -- the SDK


def test_sdk_embeds_with_its_base64_default(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    with sdk(runtime, seen=seen) as client:
        result = client.embeddings.create(model="minilm", input=["a", "b"])
        assert [item.embedding for item in result.data] == [embedding("a"), embedding("b")]
        assert b'"encoding_format":"base64"' in runtime.prompts[0]
        assert client.embeddings.create(model="minilm", input="c", encoding_format="float").data[0].embedding
        assert [model.id for model in client.models.list()] == ["minilm", "talker"]
    assert [item.receipt.claims.sequence_number for item in seen] == [0, 1]


def test_sdk_streams(runtime: FakeRuntime) -> None:
    with sdk(runtime) as client:
        chunks = list(client.chat.completions.create(model="talker", messages=MESSAGES, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(CHUNKS)


def test_sdk_sees_errors_as_its_own(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    with sdk(runtime, seen=seen) as client:
        with pytest.raises(openai.BadRequestError, match="dimensions are not supported"):
            client.embeddings.create(model="minilm", input="a", dimensions=3)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")
    assert len(seen) == 1


def test_sdk_does_not_retry_a_refusal(start: Start) -> None:
    runtime = start(F.RECEIPT_OTHER_RESPONSE)
    with sdk(runtime) as client, pytest.raises(SDK_REFUSAL) as caught:
        client.embeddings.create(model="minilm", input="a")
    assert refusal(caught.value).code == "RESPONSE_HASH_MISMATCH"
    assert len(runtime.prompts) == 1


def test_sdk_does_not_retry_a_model_that_the_policy_refuses(runtime: FakeRuntime) -> None:
    with sdk(runtime, models={"allow": [{"model_id": "talker"}]}) as client, pytest.raises(SDK_REFUSAL) as caught:
        client.embeddings.create(model="minilm", input="a")
    assert refusal(caught.value).code == "MODEL_ID_MISMATCH"
    assert runtime.prompts == []
    assert runtime.connections == 1


def test_sdk_retries_what_the_network_did(start: Start) -> None:
    runtime = start(F.TRUNCATED)
    with sdk(runtime, retries=1) as client, pytest.raises(openai.APIConnectionError):
        client.embeddings.create(model="minilm", input="a")
    assert len(runtime.prompts) == 2


def test_sdk_time_out(start: Start) -> None:
    runtime = start(F.NEVER_ANSWERS)
    with sdk(runtime, retries=0) as client, pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).embeddings.create(model="minilm", input="a")


def test_sdk_stream_that_is_cut(start: Start) -> None:
    runtime = start(F.CLOSED_MID_REPLY)
    with sdk(runtime, retries=0) as client, pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
        list(client.chat.completions.create(model="talker", messages=MESSAGES, stream=True))


# -- event loops


async def test_async_sdk(runtime: FakeRuntime) -> None:
    seen: list[Any] = []
    client = ephemeralml.async_httpx_client(runtime.target, policy=runtime.policy(), on_receipt=seen.append)
    async with AsyncOpenAI(api_key="unused", base_url="http://enclave/v1", http_client=client) as api:
        result = await api.embeddings.create(model="minilm", input="a")
        assert result.data[0].embedding == embedding("a")
        stream = await api.chat.completions.create(model="talker", messages=MESSAGES, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "".join(CHUNKS)
        with pytest.raises(openai.BadRequestError):
            await api.embeddings.create(model="minilm", input="a", dimensions=3)
    assert len(seen) == 3


async def test_async_session_is_replaced(runtime: FakeRuntime) -> None:
    async with async_httpx_client(runtime.target, policy=runtime.policy()) as client:
        assert (await client.post("/v1/embeddings", json=ASKED)).is_success
        runtime.close_sessions()
        await until(lambda: not runtime._live)
        assert (await client.post("/v1/embeddings", json=ASKED)).is_success
        assert runtime.connections == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(F.TRUNCATED, httpx.RemoteProtocolError), (F.ALERT, httpx.ConnectError), (F.RECEIPT_MISSING, RejectedError),
     (F.EVIDENCE_OTHER_SESSION, RejectedError), (F.NEVER_ANSWERS, httpx.ReadTimeout),
     (F.SILENT, httpx.ConnectTimeout)],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
async def test_async_faults(start: Start, fault: F, kind: type[Exception]) -> None:
    runtime = start(fault)
    async with async_httpx_client(runtime.target, policy=runtime.policy(), timeout=0.5) as client:
        with pytest.raises(kind) as caught:
            await client.post("/v1/embeddings", json=ASKED)
    assert isinstance(caught.value, httpx.RequestError) is issubclass(kind, httpx.RequestError)


async def test_async_event_stream(start: Start) -> None:
    runtime = start()
    async with async_httpx_client(runtime.target, policy=runtime.policy()) as client:
        async with client.stream("POST", "/v1/chat/completions", json=TALK) as response:
            assert b"".join([piece async for piece in response.aiter_raw()]) == b"".join(sse_events())
        async with client.stream("POST", "/v1/chat/completions", json=TALK):
            pass
        assert (await client.get("/healthz")).is_success
    runtime.faults = {F.TRUNCATED}
    async with async_httpx_client(runtime.target, policy=runtime.policy()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("POST", "/v1/chat/completions", json=TALK) as response:
                [piece async for piece in response.aiter_raw()]


async def test_async_client_cannot_be_used_after_close(runtime: FakeRuntime) -> None:
    client = async_httpx_client(runtime.target, policy=runtime.policy())
    await client.aclose()
    with pytest.raises(RuntimeError):
        await client.get("/healthz")
