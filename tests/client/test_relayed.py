"""Sessions through the relay, over every stream that reaches it on one machine."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ephemeralml.client.async_session import async_connect
from ephemeralml.client.httpx_transport import httpx_client
from ephemeralml.client.session import connect
from ephemeralml.host.relay import Relay
from ephemeralml.transport.address import Address
from tests.fakes.runtime import FakeRuntime, embedding

ASKED = {"model": "minilm", "input": "a"}


@contextmanager
def relayed(runtime: FakeRuntime, listen: str) -> Iterator[str]:
    """Run a relay in a loop of its own thread; give its address."""
    loop = asyncio.new_event_loop()
    relays: list[Relay] = []

    async def begin() -> str:
        relays.append(Relay([Address.parse(listen)], Address.parse(runtime.target)))
        return str((await relays[0].start())[0])

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
        asyncio.run_coroutine_threadsafe(relays[0].stop(drain=False), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["tcp", "unix", "ws"])
def address(request: pytest.FixtureRequest, runtime: FakeRuntime, tmp_path: Path) -> Iterator[str]:
    listen = {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix://{tmp_path}/relay.sock",
        "ws": "ws://127.0.0.1:0/v1/channel",
    }[request.param]
    with relayed(runtime, listen) as bound:
        yield bound


def test_session(runtime: FakeRuntime, address: str) -> None:
    with connect(address, policy=runtime.policy()) as session:
        for _ in range(3):
            reply = session.post("/v1/embeddings", json=ASKED)
            assert reply.json()["data"][0]["embedding"] == embedding("a")
        big = {"model": "minilm", "input": ["x" * 1000] * 2000}
        assert len(session.post("/v1/embeddings", json=big).json()["data"]) == 2000


async def test_async_session(runtime: FakeRuntime, address: str) -> None:
    async with await async_connect(address, policy=runtime.policy()) as session:
        replies = await asyncio.gather(*(session.post("/v1/embeddings", json=ASKED) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}


def test_httpx(runtime: FakeRuntime, address: str) -> None:
    with httpx_client(address, policy=runtime.policy()) as client:
        assert client.post("/v1/embeddings", json=ASKED).is_success
