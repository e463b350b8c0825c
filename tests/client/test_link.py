import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ephemeralml.client.async_session import AsyncSession
from ephemeralml.client.call import Ask, SessionEndedError
from ephemeralml.client.link import AsyncLink, ConnectError, Link, Target
from ephemeralml.client.reply import Reply
from ephemeralml.client.session import Session
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from tests.client.conftest import Start
from tests.fakes.runtime import FakeRuntime, embedding
from tests.fakes.runtime import RuntimeFault as F

ASKED = {"model": "minilm", "input": "the secret prompt"}


def ended(_: Any) -> Any:
    raise SessionEndedError("gone")


async def async_ended(_: Any) -> Any:
    raise SessionEndedError("gone")


def test_session_is_kept(runtime: FakeRuntime) -> None:
    link = Link(Target(runtime.target, runtime.policy()))
    for _ in range(3):
        assert link.ask(lambda session: session.post("/v1/embeddings", json=ASKED)).ok
    assert runtime.connections == 1
    link.close()


def test_request_that_was_not_sent_is_tried_once_more(runtime: FakeRuntime) -> None:
    link, tried = Link(Target(runtime.target, runtime.policy())), []

    def first_time_ended(session: Session) -> Reply:
        tried.append(session)
        if len(tried) == 1:
            raise SessionEndedError("gone")
        return session.get("/healthz")

    assert link.ask(first_time_ended).ok
    tried.clear()
    with pytest.raises(SessionEndedError):
        link.ask(lambda session: ended(tried.append(session)))
    assert len(tried) == 2
    link.close()


async def test_async_request_that_was_not_sent_is_tried_once_more(runtime: FakeRuntime) -> None:
    link, tried = AsyncLink(Target(runtime.target, runtime.policy())), []

    async def first_time_ended(session: AsyncSession) -> Reply:
        tried.append(session)
        if len(tried) == 1:
            raise SessionEndedError("gone")
        return await session.get("/healthz")

    assert (await link.ask(first_time_ended)).ok
    with pytest.raises(SessionEndedError):
        await link.ask(async_ended)
    await link.close()


def test_other_errors_are_not_tried_again(runtime: FakeRuntime) -> None:
    link, tried = Link(Target(runtime.target, runtime.policy())), []

    def refuse(session: Session) -> None:
        tried.append(session)
        raise RejectedError("no", code="NO")

    with pytest.raises(RejectedError):
        link.ask(refuse)
    assert len(tried) == 1
    link.close()


async def test_no_connection_means_nothing_was_sent(start: Start) -> None:
    runtime = start(F.HANGS_UP)
    with pytest.raises(ConnectError):
        Link(Target(runtime.target, runtime.policy())).ask(ended)
    with pytest.raises(ConnectError):
        await AsyncLink(Target(runtime.target, runtime.policy())).ask(async_ended)


async def test_closed_link(runtime: FakeRuntime) -> None:
    link, other = Link(Target(runtime.target, runtime.policy())), AsyncLink(Target(runtime.target, runtime.policy()))
    assert link.ask(lambda session: session.get("/healthz")).ok
    link.close()
    await other.close()
    for attempt in (lambda: link.ask(ended),):
        with pytest.raises(RuntimeError):
            attempt()
    with pytest.raises(RuntimeError):
        await other.ask(async_ended)


def test_address_is_read_at_once(runtime: FakeRuntime) -> None:
    with pytest.raises(MalformedError):
        Target("nowhere", runtime.policy())


def test_no_prompt_and_no_token_in_what_is_printed_for_programmers(runtime: FakeRuntime) -> None:
    with_secrets: list[Any] = [
        Ask("POST", "/", b"the secret prompt", {"authorization": "the secret token"}),
        Reply(200, {}, b"the secret prompt"),
    ]
    link = Link(Target(runtime.target, runtime.policy()))
    reply = link.ask(lambda session: session.post("/v1/embeddings", json=ASKED))
    with_secrets += [reply, reply.receipted, reply.receipted.attested if reply.receipted else None]
    link.close()
    assert "secret" not in "".join(map(repr, with_secrets))


def test_cut_connections_under_load_lose_replies_and_nothing_else(runtime: FakeRuntime) -> None:
    """Sixteen threads, connections cut and closed under them: each call ends, and no prompt is sent twice."""
    link, stop = Link(Target(runtime.target, runtime.policy())), threading.Event()
    replies: list[str] = []
    lost: list[Exception] = []

    def ask(number: int) -> None:
        for turn in range(30):
            text = f"{number}/{turn}"
            body = {"model": "minilm", "input": text}
            try:
                reply = link.ask(lambda session, body=body: session.post("/v1/embeddings", json=body, timeout=20))
            except UnavailableError as error:
                lost.append(error)
            else:
                assert reply.json()["data"][0]["embedding"] == embedding(text)
                replies.append(text)

    def cut() -> None:
        while not stop.wait(0.02):
            runtime.drop_connections()
            if not stop.wait(0.02):
                runtime.close_sessions()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    stop.set()
    cutter.join()
    link.close()
    sent = [json.loads(body)["input"] for body in runtime.prompts]
    assert len(sent) == len(set(sent))
    assert len(replies) + len(lost) == 16 * 30
    assert set(replies) <= set(sent)
    assert len(replies) > 100
