import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.transport import CID_ANY, Address, Scheme

GOOD = {
    "tcp://127.0.0.1:7443": Address(Scheme.TCP, "127.0.0.1", 7443),
    "tcp://relay.example.org:1": Address(Scheme.TCP, "relay.example.org", 1),
    "tcp://localhost:0": Address(Scheme.TCP, "localhost", 0),
    "tcp://[::1]:65535": Address(Scheme.TCP, "::1", 65535),
    "unix:///run/e.sock": Address(Scheme.UNIX, path="/run/e.sock"),
    "unix:///a b/ü": Address(Scheme.UNIX, path="/a b/ü"),
    "vsock://16:5005": Address(Scheme.VSOCK, port=5005, cid=16),
    "vsock://any:5005": Address(Scheme.VSOCK, port=5005, cid=CID_ANY),
    "vsock://4294967294:4294967294": Address(Scheme.VSOCK, port=2**32 - 2, cid=2**32 - 2),
    "ws://127.0.0.1:8080/v1/channel": Address(Scheme.WS, "127.0.0.1", 8080),
    "wss://[2001:db8::1]:8443/v1/channel": Address(Scheme.WSS, "2001:db8::1", 8443),
}


@pytest.mark.parametrize(("text", "address"), GOOD.items())
def test_good_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


def test_default_ports_of_websockets() -> None:
    assert Address.parse("ws://h/v1/channel").port == 80
    assert Address.parse("wss://h/v1/channel").port == 443
    assert Address.parse("wss://[::1]/v1/channel").authority == "[::1]:443"


BAD = [
    "", "tcp", "tcp:", "tcp:/h:1", "h:1", "TCP://h:1", "http://h:1", "://h:1", " tcp://h:1", "tcp://h:1 ",
    "tcp://", "tcp://h", "tcp://h:", "tcp://:1", "tcp://h:65536", "tcp://h:-1", "tcp://h:+1", "tcp://h:01", "tcp://h:1x",
    "tcp://h:1/", "tcp://h:1/x", "tcp://u@h:1", "tcp://h:1:2", "tcp://::1:1", "tcp://[::1]", "tcp://[::1]1", "tcp://[::1:1",
    "tcp://[h]:1", "tcp://[::1%eth0]:1", "tcp://-h:1", "tcp://a..b:1", "tcp://" + "a" * 64 + ":1", "tcp://h?:1", "tcp://ü:1",
    "tcp://h:١", "tcp://h\x00:1", "tcp://h:1\n",
    "unix://", "unix://x", "unix://host/x", "unix:/x", "unix:///", "unix:///x/", "unix:///" + "a" * 107, "unix:///" + "é" * 54,
    "unix:///a\x00b",
    "vsock://", "vsock://3", "vsock://3:", "vsock://:5", "vsock://x:5", "vsock://3:5:7", "vsock://-1:5", "vsock://4294967295:5",
    "vsock://3:4294967295", "vsock://3:99999999999", "vsock://ANY:5", "vsock://03:5", "vsock://3:5/",
    "ws://h", "ws://h/", "ws://h/v1", "ws://h/v1/channel/", "ws://h/v1/channel?x", "ws:///v1/channel", "wss://h:0x50/v1/channel",
    "ws://h:/v1/channel", "tcp://" + "a." * 600 + "a:1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(MalformedError) as raised:
        Address.parse(text)
    assert raised.value.hint is not None
    assert raised.value.hint.startswith(("write", "use"))
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 200


def test_the_hint_for_a_websocket_is_the_address_that_was_meant() -> None:
    with pytest.raises(MalformedError) as raised:
        Address.parse("wss://relay.example.org:8443")
    assert raised.value.hint == "write wss://relay.example.org:8443/v1/channel"


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("tcp://127.0.0.1:1", True), ("tcp://127.9.9.9:1", True), ("tcp://localhost:1", True), ("tcp://[::1]:1", True),
     ("unix:///x", True), ("tcp://0.0.0.0:1", False), ("tcp://[::]:1", False), ("vsock://3:5", False), ("wss://h/v1/channel", False),
     ("tcp://127.evil.example:1", False), ("tcp://127.0.0.1.evil.example:1", False)],
)  # fmt: skip
def test_loopback(text: str, loopback: bool) -> None:
    assert Address.parse(text).loopback is loopback


@pytest.mark.fuzz
@given(
    st.text(max_size=40)
    | st.builds(
        "{}://{}".format, st.sampled_from([s.value for s in Scheme]), st.text(alphabet="a1:./[]-@v%", max_size=20)
    )
)
def test_only_our_errors_leave_and_good_ones_are_stable(text: str) -> None:
    try:
        address = Address.parse(text)
    except MalformedError:
        return
    assert Address.parse(str(address)) == address
