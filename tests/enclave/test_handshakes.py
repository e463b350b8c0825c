"""Handshakes: deadlines, limits, garbage, evidence that does not come (channel sections 2 and 7)."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.channel.hello import AlertCode
from ephemeralml.channel.suites import PREFERRED
from ephemeralml.enclave.attesters.base import Attester, SessionEvidence
from ephemeralml.errors import UnavailableError
from tests.fakes.raw_client import AlertError, RawClient, connected, streams, verified
from tests.fakes.server_bench import ServerBench, eventually

BODY = b'{"model": "tiny-bert", "input": "hello"}'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ServerBench]:
    made = ServerBench(tmp_path)
    yield made
    if made.gate is not None:
        made.gate.set()


async def test_the_handshake_has_a_deadline(bench: ServerBench) -> None:
    async with bench.serve(handshake_seconds=0.3) as server:
        client = RawClient(*await streams(server.addresses[0]), PREFERRED)
        with pytest.raises(AlertError) as caught:
            await client.step()
        assert caught.value.code == AlertCode.TIMEOUT
        await client.disconnect()
        await eventually(lambda: server.connections == 0)


async def test_a_hello_without_a_finish_meets_the_same_deadline(bench: ServerBench) -> None:
    async with bench.serve(handshake_seconds=0.3) as server:
        reader, writer = await streams(server.addresses[0])
        client = RawClient(reader, writer, PREFERRED)
        await client.flush()
        received = await asyncio.wait_for(reader.read(), 10)
        assert received.startswith(b"\x02\x00\x00\x01")  # server_hello, then an alert
        await client.disconnect()
        await eventually(lambda: server.connections == 0)


async def test_one_connection_too_many_is_told_so(bench: ServerBench) -> None:
    async with bench.serve(max_connections=2) as server:
        async with connected(server.addresses[0]), connected(server.addresses[0]):
            with pytest.raises(AlertError) as caught:
                async with connected(server.addresses[0]):
                    pass
            assert caught.value.code == AlertCode.BUSY
        await eventually(lambda: server.connections == 0)
        async with connected(server.addresses[0]) as client:
            assert (await client.request("GET", "/healthz")).status == 200


@pytest.mark.parametrize("hello", [b"\x00" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x01\xff\xff\xff\xff"])
async def test_garbage_gets_an_alert_and_nobody_else_notices(bench: ServerBench, hello: bytes) -> None:
    async with bench.serve() as server, connected(server.addresses[0]) as other:
        reader, writer = await streams(server.addresses[0])
        writer.write(hello)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer[:1] == b"\x06"
        writer.close()
        assert (await other.request("GET", "/healthz")).status == 200


class Unreliable:
    """An attester that fails, or waits, after the boot's own probe."""

    def __init__(self, inner: Attester, *, gate: threading.Event | None = None) -> None:
        self.inner, self.gate, self.calls = inner, gate, 0
        self.format, self.software, self.close = inner.format, inner.software, inner.close

    def attest(self, binding: ExpectedBinding) -> SessionEvidence:
        self.calls += 1
        if self.calls > 1 and self.gate is None:
            raise UnavailableError("the device is gone")
        if self.calls > 1 and self.gate is not None:
            assert self.gate.wait(20)
        return self.inner.attest(binding)


async def test_no_evidence_is_an_alert(bench: ServerBench) -> None:
    async with bench.serve(wrap=Unreliable) as server:
        with pytest.raises(AlertError) as caught:
            async with connected(server.addresses[0]):
                pass
        assert caught.value.code == AlertCode.EVIDENCE_UNAVAILABLE


async def test_queued_evidence_is_dropped_with_its_connection(bench: ServerBench) -> None:
    gate = threading.Event()
    made: list[Unreliable] = []

    def wrap(inner: Attester) -> Unreliable:
        made.append(Unreliable(inner, gate=gate))
        return made[0]

    async with bench.serve(wrap=wrap, evidence_at_once=2) as server:
        clients = [RawClient(*await streams(server.addresses[0]), (3, 2, 1)) for _ in range(20)]  # type: ignore[arg-type]
        for client in clients:
            await client.flush()
        await eventually(lambda: server.connections == 20)
        await eventually(lambda: made[0].calls == 3)
        for client in clients:
            await client.disconnect()
        await eventually(lambda: server.connections == 0)
        gate.set()
        async with connected(server.addresses[0]) as client:
            assert (await client.request("GET", "/healthz")).status == 200
        assert made[0].calls <= 4  # the probe, two in the making, and the last one


async def test_records_right_behind_client_finish_are_served(bench: ServerBench) -> None:
    async with bench.serve() as server:
        client = RawClient(*await streams(server.addresses[0]), PREFERRED)
        await client.flush()
        while client.channel.state.value != "finishing":
            data = await client.reader.read(1 << 18)
            for event in client.channel.receive_data(data):
                client.offer = event  # type: ignore[assignment]
                client.verified = verified(event)  # type: ignore[arg-type]
                client.channel.accept(client.verified)
        answer = client.open("POST", "/v1/embeddings", BODY)
        await client.finished(answer)
        assert answer.status == 200
        await client.disconnect()
