import socket
import stat
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import Address, Stream, connect, listen, open_stream


def at(folder: Path) -> Address:
    return Address.parse(f"unix://{folder}/s.sock")


async def serve_nothing(stream: Stream) -> None:
    await stream.receive()


async def test_mode_and_removal(tmp_path: Path) -> None:
    listener = await listen(at(tmp_path), serve_nothing)
    path = tmp_path / "s.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    await listener.wait_closed()
    assert not path.exists()
    listener.close()


async def test_a_live_socket_is_not_replaced(tmp_path: Path) -> None:
    listener = await listen(at(tmp_path), serve_nothing)
    with pytest.raises(UnavailableError, match="another process answers there"):
        await listen(at(tmp_path), serve_nothing)
    stream = await open_stream(at(tmp_path))
    stream.close()
    await stream.wait_closed()
    listener.close()
    await listener.wait_closed()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s.sock"))
    with pytest.raises(UnavailableError):
        await open_stream(at(tmp_path))
    listener = await listen(at(tmp_path), serve_nothing)
    stream = await open_stream(at(tmp_path))
    stream.close()
    await stream.wait_closed()
    listener.close()
    await listener.wait_closed()


async def test_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("precious")
    with pytest.raises(UnavailableError, match="other than a socket"):
        await listen(at(tmp_path), serve_nothing)
    (tmp_path / "s.sock").unlink()
    (tmp_path / "s.sock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError, match="other than a socket"):
        await listen(at(tmp_path), serve_nothing)


async def test_a_successors_socket_is_left_alone(tmp_path: Path) -> None:
    listener = await listen(at(tmp_path), serve_nothing)
    path = tmp_path / "s.sock"
    path.unlink()
    successor = await listen(at(tmp_path), serve_nothing)
    listener.close()
    assert path.exists()
    successor.close()
    await successor.wait_closed()
    assert not path.exists()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot listen on unix://"):
        await listen(Address.parse(f"unix://{tmp_path}/none/s.sock"), serve_nothing)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no connection to unix://") as raised:
        connect(at(tmp_path))
    assert raised.value.hint
    with pytest.raises(UnavailableError, match="no connection to unix://"):
        await open_stream(at(tmp_path))
