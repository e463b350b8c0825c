"""Requests served: boot, handshake, engine, receipt, all of it in this process (serving sections 1 and 3)."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from ephemeralml.channel.messages import Outcome
from ephemeralml.channel.suites import Suite
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.server import Server
from tests.fakes.raw_client import RawClient, connected
from tests.fakes.booted_runtime import booted, config_source, serving, write_files


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("runtime")
    source = config_source() + b"\n[models.aliases]\nshort = 'tiny-bert'\n"
    with booted(write_files(folder, source)) as made:
        yield made


@pytest.fixture
async def server(runtime: Runtime) -> AsyncIterator[Server]:
    async with serving(runtime) as made:
        yield made


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RawClient]:
    async with connected(server.addresses[0]) as made:
        yield made


async def test_an_embedding_with_its_receipt(client: RawClient, runtime: Runtime) -> None:
    answer = await client.embed({"model": "tiny-bert", "input": "the cat sat on the mat"}, nonce=b"challenge!")
    assert answer.status == 200
    document = answer.json()
    vector = np.array(document["data"][0]["embedding"], dtype=np.float32)
    assert vector.shape == (16,)
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    assert document["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert document["model"] == "tiny-bert"
    assert answer.outcome is Outcome.COMPLETE
    assert answer.end is not None
    assert answer.end.usage.prompt_tokens == 8
    claims = answer.receipt.claims  # type: ignore[union-attr]
    assert claims.eat_nonce == b"challenge!"
    assert claims.sequence_number == 0
    assert claims.response_hash == hashlib.sha256(bytes(answer.body)).digest()
    assert claims.security_mode == "evaluation"
    assert claims.memory_peak_mb > 0
    assert claims.iss == "ephemeralml"


@pytest.mark.parametrize("suite", list(Suite))
async def test_every_suite(server: Server, suite: Suite) -> None:
    async with connected(server.addresses[0], suites=(suite,)) as client:
        assert (await client.embed({"model": "tiny-bert", "input": "hello"})).status == 200
        assert client.offer is not None
        assert client.offer.suite is suite
