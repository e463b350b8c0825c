import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as raw_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import Address, Listener, Stream, Visit, connect, listen, listen_websocket, open_stream
from ephemeralml.transport.websocket import MAX_MESSAGE

LOCAL = Address.parse("ws://127.0.0.1:0/v1/channel")


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def stop(listener: Listener) -> None:
    listener.close()
    async with asyncio.timeout(5):
        await listener.wait_closed()


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/channel/", "/v1/channel?x=1", "/v1/channels"])
async def test_other_paths_are_404(path: str) -> None:
    listener = await listen(LOCAL, echo)
    with pytest.raises(InvalidStatus) as raised:
        async with raw_connect(f"ws://127.0.0.1:{listener.address.port}{path}"):
            pass
    assert raised.value.response.status_code == 404
    await stop(listener)


async def test_a_text_message_closes_with_1003() -> None:
    listener = await listen(LOCAL, echo)
    async with raw_connect(str(listener.address)) as peer:
        await peer.send("text")
        with pytest.raises(ConnectionClosed):
            await peer.recv()
        assert peer.close_code == 1003
    await stop(listener)


async def test_a_text_message_from_a_server() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def talk(peer: ServerConnection) -> None:
        await peer.send("text")
        await peer.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server:
        address = Address.parse(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/channel")
        stream = await open_stream(address)
        with pytest.raises(UnavailableError, match="binary"):
            await stream.receive()
        await stream.wait_closed()
        plain = await asyncio.to_thread(connect, address)
        with pytest.raises(UnavailableError, match="binary"):
            await asyncio.to_thread(plain.receive)
        await asyncio.to_thread(plain.close)


async def test_any_split_and_no_compression() -> None:
    listener = await listen(LOCAL, echo)
    async with raw_connect(str(listener.address)) as peer:
        assert peer.protocol.extensions == []
        for piece in (b"a", b"", b"bc"):
            await peer.send(piece)
        assert await peer.recv() + await peer.recv() == b"abc"
    await stop(listener)


async def test_the_largest_message_and_one_beyond() -> None:
    listener = await listen(LOCAL, echo)
    async with raw_connect(str(listener.address), max_size=None) as peer:
        await peer.send(bytes(MAX_MESSAGE))
        size = 0
        while size < MAX_MESSAGE:
            size += len(await peer.recv())
        await peer.send(bytes(MAX_MESSAGE + 1))
        with pytest.raises(ConnectionClosed):
            await peer.recv()
        assert peer.close_code == 1009
    await stop(listener)


async def test_messages_that_nobody_reads_are_not_hoarded() -> None:
    gate = asyncio.Event()
    total = 0

    async def slow(stream: Stream) -> None:
        nonlocal total
        await gate.wait()
        while data := await stream.receive():
            total += len(data)

    listener = await listen(LOCAL, slow)
    sent = 0

    async def pour(peer: ClientConnection) -> None:
        nonlocal sent
        while True:
            await peer.send(bytes(1 << 20))
            sent += 1 << 20

    async with raw_connect(str(listener.address)) as peer:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pour(peer), 0.4)
        # One message at the server; the rest is the kernel's and the sender's own.
        (connection,) = listener._server.connections  # type: ignore[attr-defined]
        assert len(connection.recv_messages.frames) <= 2
        gate.set()
    await stop(listener)
    assert total >= sent


async def test_large_sends_of_two_tasks_do_not_mix() -> None:
    listener = await listen(LOCAL, echo)
    stream = await open_stream(listener.address)
    size = 3 * MAX_MESSAGE
    senders = [asyncio.create_task(stream.send(letter * size)) for letter in (b"a", b"b")]
    data = bytearray()
    while len(data) < 2 * size:
        data += await stream.receive()
    await asyncio.gather(*senders)
    assert data == b"a" * size + b"b" * size
    stream.close()
    await stream.wait_closed()
    await stop(listener)


async def test_closing_ends_both_directions() -> None:
    ended: list[bytes] = []

    async def listen_to_the_end(stream: Stream) -> None:
        ended.append(await stream.receive())
        ended.append(await stream.receive())

    listener = await listen(LOCAL, listen_to_the_end)
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    await stream.send_eof()
    assert await stream.receive() == b""
    with pytest.raises(UnavailableError):
        await stream.send(b"y")
    await stream.wait_closed()
    await stop(listener)
    assert ended == [b"x", b""]


async def test_a_connection_that_breaks() -> None:
    async def vanish(stream: Stream) -> None:
        await stream.receive()
        stream.abort()

    listener = await listen(LOCAL, vanish)
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    with pytest.raises(UnavailableError, match="broke"):
        await stream.receive()
    await stream.wait_closed()
    await stop(listener)


async def test_abort_of_the_listener() -> None:
    listener = await listen(LOCAL, echo)
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    listener.abort()
    await stop(listener)
    with contextlib.suppress(UnavailableError):
        assert await stream.receive() == b""
    stream.abort()
    await stream.wait_closed()


async def test_garbage_instead_of_a_handshake(caplog: pytest.LogCaptureFixture) -> None:
    listener = await listen(LOCAL, echo)
    for garbage in (b"\x00" * 100, b"GET /secret-path HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 20_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.write(garbage)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    stream.close()
    await stream.wait_closed()
    await stop(listener)
    assert "secret-path" not in caplog.text


class Porter:
    """Admits as many as it is told to, and notes what becomes of them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.said: list[str] = []

    def admit(self, peer: str) -> Visit | None:
        assert peer == "127.0.0.1"
        self.places -= 1
        self.said.append("refused" if self.places < 0 else "admitted")
        return None if self.places < 0 else Visit(self.serve, lambda: self.said.append("ended"))

    async def serve(self, stream: Stream) -> None:
        self.said.append("opened")
        await echo(stream)

    async def has_said(self, *words: str) -> None:
        async with asyncio.timeout(5):
            while len(self.said) < len(words):  # noqa: ASYNC110 - said by the server's callbacks
                await asyncio.sleep(0.01)
        assert tuple(self.said) == words


async def test_the_owner_is_asked_before_an_opening_and_told_of_every_end() -> None:
    porter = Porter(2)
    listener = await listen_websocket(LOCAL, porter.admit)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
    await porter.has_said("admitted")
    writer.close()
    await writer.wait_closed()
    await porter.has_said("admitted", "ended")
    porter.said.clear()
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    await porter.has_said("admitted", "opened")
    with pytest.raises(UnavailableError):
        await open_stream(listener.address)
    stream.close()
    await stream.wait_closed()
    await porter.has_said("admitted", "opened", "refused", "ended")
    assert await reader.read() == b""
    await stop(listener)


async def test_who_was_refused_gets_no_answer() -> None:
    porter = Porter(0)
    listener = await listen_websocket(LOCAL, porter.admit)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert porter.said == ["refused"]
    await stop(listener)


async def test_an_opening_has_its_time() -> None:
    porter = Porter(1)
    listener = await listen_websocket(LOCAL, porter.admit, opening_seconds=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    await porter.has_said("admitted", "ended")
    writer.close()
    await writer.wait_closed()
    await stop(listener)


async def test_closing_ends_openings_and_nothing_else() -> None:
    porter = Porter(2)
    listener = await listen_websocket(LOCAL, porter.admit)
    stream = await open_stream(listener.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
    await porter.has_said("admitted", "opened", "admitted")
    listener.close()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    await porter.has_said("admitted", "opened", "admitted", "ended")
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    stream.close()
    await stream.wait_closed()
    writer.close()
    await writer.wait_closed()
    await stop(listener)


async def test_something_else_answers() -> None:
    async def http(stream: Stream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    listener = await listen(Address.parse("tcp://127.0.0.1:0"), http)
    address = Address.parse(f"ws://127.0.0.1:{listener.address.port}/v1/channel")
    with pytest.raises(UnavailableError, match="no websocket at"):
        await open_stream(address)
    with pytest.raises(UnavailableError, match="no websocket at"):
        await asyncio.to_thread(connect, address)
    await stop(listener)
    with pytest.raises(UnavailableError, match="no connection to"):
        await open_stream(address)
    with pytest.raises(UnavailableError, match="no connection to"):
        await asyncio.to_thread(connect, address)


async def test_a_port_that_is_taken() -> None:
    listener = await listen(LOCAL, echo)
    with pytest.raises(UnavailableError, match="cannot listen"):
        await listen(listener.address, echo)
    await stop(listener)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server and of a client that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_tls(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    listener = await listen(Address.parse("wss://localhost:0/v1/channel"), echo, tls=server)
    stream = await open_stream(listener.address, tls=client)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    stream.close()
    await stream.wait_closed()
    plain = await asyncio.to_thread(connect, listener.address, tls=client)
    await asyncio.to_thread(plain.send, b"y")
    assert await asyncio.to_thread(plain.receive) == b"y"
    await asyncio.to_thread(plain.close)
    with pytest.raises(UnavailableError):
        await open_stream(listener.address)  # not a certificate that the system trusts
    await stop(listener)


async def test_tls_needs_a_certificate() -> None:
    with pytest.raises(UnavailableError, match="without a certificate"):
        await listen(Address.parse("wss://localhost:0/v1/channel"), echo)


def test_the_library_is_imported_only_when_needed() -> None:
    import subprocess
    import sys

    code = "import sys, ephemeralml.transport; assert not [m for m in sys.modules if m.startswith('websockets')]"
    subprocess.run([sys.executable, "-c", code], check=True)
