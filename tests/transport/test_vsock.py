"""VSock where the kernel has it; a connection needs its loopback (CID 1)."""

import errno
import socket

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import Address, Stream, connect, listen, open_stream, vsock


def loopback() -> str | None:
    """Return why vsock cannot be tried here, or None."""
    if not hasattr(socket, "AF_VSOCK"):
        return "this Python has no AF_VSOCK"
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((1, socket.VMADDR_PORT_ANY))
    except OSError as error:
        return f"no vsock loopback, CID 1, in this kernel ({errno.errorcode.get(error.errno or 0)})"
    return None


MISSING = loopback()


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
async def test_bytes_both_ways_over_loopback() -> None:
    async def echo(stream: Stream) -> None:
        assert stream.peer.startswith("vsock:")
        while data := await stream.receive():
            await stream.send(data)

    listener = await listen(Address.parse("vsock://any:0"), echo)
    address = Address.parse(f"vsock://1:{listener.address.port}")
    stream = await open_stream(address, timeout=5)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    await stream.send_eof()
    assert await stream.receive() == b""
    stream.close()
    await stream.wait_closed()
    listener.close()
    await listener.wait_closed()


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="this Python has no AF_VSOCK")
async def test_what_cannot_be_reached_is_an_error_of_ours() -> None:
    async def nothing(stream: Stream) -> None:
        await stream.receive()

    # CID 0 is the hypervisor's, CID 77 nobody's here, whatever this kernel can do.
    with pytest.raises(UnavailableError):
        await listen(Address.parse("vsock://77:5005"), nothing)
    with pytest.raises(UnavailableError):
        connect(Address.parse("vsock://0:5005"), timeout=0.3)
    with pytest.raises(UnavailableError):
        await open_stream(Address.parse("vsock://0:5005"), timeout=0.3)


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="this Python has no AF_VSOCK")
async def test_listening_on_whatever_cid_is_ours() -> None:
    async def nothing(stream: Stream) -> None:
        await stream.receive()

    try:
        listener = await listen(Address.parse("vsock://any:0"), nothing)
    except UnavailableError as error:
        pytest.skip(f"this kernel has no vsock at all: {error.message}")
    assert 0 < listener.address.port < 0xFFFF_FFFF
    with pytest.raises(UnavailableError, match="cannot listen on vsock://any:"):
        await listen(listener.address, nothing)
    listener.close()
    await listener.wait_closed()


def test_a_system_without_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
    with pytest.raises(UnavailableError, match="no vsock"):
        vsock.connect(Address.parse("vsock://3:5"), 1)
